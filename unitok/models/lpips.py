"""LPIPS: how different two pictures look, by the features of a network trained on photos (Zhang 2018, 1801.03924)."""
import jax
import jax.numpy as jnp

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""VGG16's convolutions by their numbers in torchvision's `features`, each followed by a ReLU; between stages the grid
is halved by the maximum. Features are taken at the end of each stage: relu1_2, 2_2, 3_3, 4_3, 5_3."""
WIDTHS = (64, 128, 256, 512, 512)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation of each channel, for pixels in [-1, 1]."""
LEAST_SIDE = 2 ** (len(STAGES) - 1)
"""Pixels of a side, so that the last stage has a place."""


def shapes() -> dict[str, tuple[int, ...]]:
  """Of all weights: kernels [rows columns in out], "lin0" … f32[width], which are not negative."""
  out, into = {}, 3
  for stage, width in zip(STAGES, WIDTHS):
    for n in stage:
      out |= {f"{n}/kernel": (3, 3, into, width), f"{n}/bias": (width,)}
      into = width
  return out | {f"lin{n}": (width,) for n, width in enumerate(WIDTHS)}


def features(weights, pixels_pm1, precision=None) -> list[jax.Array]:
  """f32[b H W 3] in [-1, 1] -> f32[b h w c] at the end of each stage."""
  x, found = (pixels_pm1 - jnp.array(SHIFT)) / jnp.array(SCALE), []
  for number, stage in enumerate(STAGES):
    if number:
      x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    for n in stage:
      x = jax.nn.relu(convolution(x, weights[f"{n}/kernel"], precision) + weights[f"{n}/bias"])
    found.append(x)
  return found


def convolution(x, kernel, precision):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                      precision=precision)


def apart(one, other, linear):
  """f32[b]: the weighted squared difference of features f32[b h w c] made of length one, summed over channels, averaged
  over places (eq. 1). A place without any feature counts as 0 and passes no gradient."""
  unit = lambda x: x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-20)
  return (((unit(one) - unit(other)) ** 2) * linear).sum(-1).mean((1, 2))


def lpips(weights, one, other, precision=None):
  """f32[b]: of pairs f32[b H W 3] in [-1, 1], LEAST_SIDE pixels a side or more; equal ones give 0, to rounding."""
  pairs = zip(features(weights, one, precision), features(weights, other, precision))
  return sum(apart(a, b, weights[f"lin{n}"]) for n, (a, b) in enumerate(pairs))
