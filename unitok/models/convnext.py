"""The image tokenizer's network that is fast on a CPU: pictures enter by space-to-depth, so that no convolution runs at
full resolution, and all but nine shifted products a block are matrix products.
"""
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from unitok.models.precision import FLOAT32, Precision, linear


class Block(nnx.Module):
  """x + SwiGLU(depthwise3x3(norm(x))): a ConvNeXt block (Liu 2022, 2201.03545) with a gated MLP.

  The gate multiplies, which is what painting a form in a colour asks for: on scenes at equal steps it
  read 95.7 % of the objects back, relu² with as many parameters 91.6 %. The depthwise convolution is
  nine shifted products: XLA's grouped convolution is slower on a CPU, and all else is matrix products.
  """

  def __init__(self, width: int, kernel: int, precision: Precision, rngs: nnx.Rngs):
    self.norm = nnx.RMSNorm(width, dtype=precision.activations, rngs=rngs)
    taps = jnp.zeros((kernel, kernel, width)).at[kernel // 2, kernel // 2].set(1.0)
    noise = jax.random.normal(rngs.params(), taps.shape) * 0.2
    self.taps = nnx.Param(taps + noise * (kernel > 1))
    hidden = width * 4 // 3 // 8 * 8
    self.gate_up = linear(width, 2 * hidden, precision, rngs)
    self.down = linear(hidden, width, precision, rngs,
                       kernel_init=nnx.initializers.variance_scaling(0.1, "fan_in", "truncated_normal"))

  def __call__(self, x):
    h = depthwise(self.norm(x), self.taps[...].astype(x.dtype))
    gate, up = jnp.split(self.gate_up(h.reshape(-1, h.shape[-1])), 2, -1)
    return x + self.down(nnx.silu(gate) * up).reshape(x.shape)


def depthwise(x, taps):
  """Depthwise convolution of x [b h w c] with taps [k k c], zeros outside."""
  side = taps.shape[0]
  if side == 1:
    return x * taps[0, 0]
  edge, (_, h, w, _) = side // 2, x.shape
  padded = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
  return sum(padded[:, i:i + h, j:j + w] * taps[i, j] for i in range(side) for j in range(side))


def space_to_depth(x, side: int):
  return rearrange(x, "b (h i) (w j) c -> b h w (i j c)", i=side, j=side)


def depth_to_space(x, side: int):
  return rearrange(x, "b h w (i j c) -> b (h i) (w j) c", i=side, j=side)


class Encoder(nnx.Module):
  """pixels f32[b h w 3] in [-1, 1] -> f32[b h/f w/f d]."""

  def __init__(self, options, dim: int, precision: Precision, rngs: nnx.Rngs):
    self.patch, widths = options.patch, options.widths
    self.enter = nnx.List([linear(w * s * s, v, precision, rngs, bias=True) for w, v, s in
                           zip((3, *widths), widths, (options.patch, *[2] * (len(widths) - 1)))])
    self.levels = nnx.List([nnx.List([Block(w, options.encoder_kernel, precision, rngs) for _ in range(n)])
                            for w, n in zip(widths, options.blocks)])
    self.leave = linear(widths[-1], dim, FLOAT32, rngs, bias=True)

  def __call__(self, pixels_pm1):
    x = pixels_pm1
    for n, (enter, blocks) in enumerate(zip(self.enter, self.levels)):
      x = enter(space_to_depth(x, self.patch if n == 0 else 2))
      for block in blocks:
        x = block(x)
    return self.leave(x.astype(jnp.float32))


class Painter(nnx.Module):
  """f32[b h/f w/f d] -> pixels f32[b h w 3], nominally in [-1, 1]."""

  def __init__(self, options, dim: int, precision: Precision, rngs: nnx.Rngs):
    self.patch, widths = options.patch, options.widths[::-1]
    self.enter = linear(dim, widths[0], precision, rngs, bias=True)
    self.levels = nnx.List([nnx.List([Block(w, 3, precision, rngs) for _ in range(n)])
                            for w, n in zip(widths, options.blocks[::-1])])
    self.leave = nnx.List([linear(w, v * s * s, precision, rngs, bias=True) for w, v, s in
                           zip(widths, (*widths[1:], 3), (*[2] * (len(widths) - 1), options.patch))])

  def paint(self, z):
    """What the last layer makes the pixels from: [b h/p w/p c]."""
    x = self.enter(z)
    for n, blocks in enumerate(self.levels):
      for block in blocks:
        x = block(x)
      if n < len(self.levels) - 1:
        x = depth_to_space(self.leave[n](x), 2)
    return x

  def finish(self, x):
    """The last layer."""
    return depth_to_space(self.leave[-1](x), self.patch).astype(jnp.float32)
