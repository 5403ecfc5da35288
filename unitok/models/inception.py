"""Inception-v3 (Szegedy 2015, 1512.00567) as the Fréchet inception distance takes it, up to the last pooled features.

The weights are those of 2015-12-05, as pytorch-fid has them. The network differs from torchvision's in the pooling
inside its blocks: averages of 3 x 3 do not count the padding (5b, 5c, 5d, 6b to 6e, 7b), and the last block (7c) takes
the maximum there. Batch norms (epsilon 0.001) are folded into the kernels.
"""
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

SIDE = 299
"""Of the squares it looks at."""
EPSILON = 1e-3


def features(weights, pixels, precision=None):
  """u8[b H W 3] -> f32[b 2048]. Pictures are stretched to 299 x 299 bilinearly without antialiasing (as torch does with
  align_corners off), then taken to [-1, 1]."""
  x = jax.image.resize(pixels.astype(jnp.float32), (len(pixels), SIDE, SIDE, 3), "linear", antialias=False,
                       precision=jax.lax.Precision.HIGHEST)

  def layer(name, x, width, kernel, stride, padding):
    x = jax.lax.conv_general_dilated(x, weights[f"{name}/kernel"], (stride, stride), padding,
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision)
    return jax.nn.relu(x + weights[f"{name}/bias"])

  return network(x / 127.5 - 1, layer).mean((1, 2))


@functools.cache
def shapes() -> dict[str, tuple[int, ...]]:
  """Of all weights: kernels [rows columns in out] and biases [out]."""
  found = {}

  def layer(name, x, width, kernel, stride, padding):
    found[f"{name}/kernel"], found[f"{name}/bias"] = (*kernel, x.shape[-1], width), (width,)
    return jax.lax.conv_general_dilated(x, jnp.zeros(found[f"{name}/kernel"]), (stride, stride), padding,
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))

  jax.eval_shape(lambda: network(jnp.zeros((1, SIDE, SIDE, 3)), layer))
  return found


def network(x, layer: Callable):
  """Pixels f32[b 299 299 3] -> f32[b 8 8 2048]; layer(name, x, width, kernel, stride, padding) convolves."""
  def convolve(name, x, width, kernel=(1, 1), stride=1, padding="SAME"):
    return layer(name, x, width, kernel, stride, padding)

  x = convolve("Conv2d_1a_3x3", x, 32, (3, 3), 2, "VALID")
  x = convolve("Conv2d_2a_3x3", x, 32, (3, 3), 1, "VALID")
  x = largest(convolve("Conv2d_2b_3x3", x, 64, (3, 3)), 2, "VALID")
  x = convolve("Conv2d_3b_1x1", x, 80)
  x = largest(convolve("Conv2d_4a_3x3", x, 192, (3, 3), 1, "VALID"), 2, "VALID")
  for name, width in (("5b", 32), ("5c", 64), ("5d", 64)):
    x = fine(functools.partial(_in, convolve, name), x, width)
  x = to_middle(functools.partial(_in, convolve, "6a"), x)
  for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
    x = middle(functools.partial(_in, convolve, name), x, width)
  x = to_coarse(functools.partial(_in, convolve, "7a"), x)
  x = coarse(functools.partial(_in, convolve, "7b"), x, mean)
  return coarse(functools.partial(_in, convolve, "7c"), x, lambda x: largest(x, 1, "SAME"))


def _in(convolve: Callable, block: str, branch: str, x, *how):
  """The convolution of a block's branch."""
  return convolve(f"Mixed_{block}.branch{branch}", x, *how)


# ---- blocks: branches side by side

def fine(c: Callable, x, pooled: int):
  return jnp.concatenate([
      c("1x1", x, 64),
      c("5x5_2", c("5x5_1", x, 48), 64, (5, 5)),
      c("3x3dbl_3", c("3x3dbl_2", c("3x3dbl_1", x, 64), 96, (3, 3)), 96, (3, 3)),
      c("_pool", mean(x), pooled)], -1)


def to_middle(c: Callable, x):
  return jnp.concatenate([
      c("3x3", x, 384, (3, 3), 2, "VALID"),
      c("3x3dbl_3", c("3x3dbl_2", c("3x3dbl_1", x, 64), 96, (3, 3)), 96, (3, 3), 2, "VALID"),
      largest(x, 2, "VALID")], -1)


def middle(c: Callable, x, width: int):
  long = c("7x7dbl_1", x, width)
  for n, kernel in ((2, (7, 1)), (3, (1, 7)), (4, (7, 1))):
    long = c(f"7x7dbl_{n}", long, width, kernel)
  return jnp.concatenate([
      c("1x1", x, 192),
      c("7x7_3", c("7x7_2", c("7x7_1", x, width), width, (1, 7)), 192, (7, 1)),
      c("7x7dbl_5", long, 192, (1, 7)),
      c("_pool", mean(x), 192)], -1)


def to_coarse(c: Callable, x):
  long = c("7x7x3_3", c("7x7x3_2", c("7x7x3_1", x, 192), 192, (1, 7)), 192, (7, 1))
  return jnp.concatenate([
      c("3x3_2", c("3x3_1", x, 192), 320, (3, 3), 2, "VALID"),
      c("7x7x3_4", long, 192, (3, 3), 2, "VALID"),
      largest(x, 2, "VALID")], -1)


def coarse(c: Callable, x, pool: Callable):
  short, long = c("3x3_1", x, 384), c("3x3dbl_2", c("3x3dbl_1", x, 448), 384, (3, 3))
  return jnp.concatenate([
      c("1x1", x, 320),
      c("3x3_2a", short, 384, (1, 3)), c("3x3_2b", short, 384, (3, 1)),
      c("3x3dbl_3a", long, 384, (1, 3)), c("3x3dbl_3b", long, 384, (3, 1)),
      c("_pool", pool(x), 192)], -1)


# ---- pooling by 3 x 3

def largest(x, stride: int, padding: str):
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def mean(x):
  """At every place, over the neighbours there are."""
  total = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
  return total(x) / total(jnp.ones((1, *x.shape[1:3], 1)))
