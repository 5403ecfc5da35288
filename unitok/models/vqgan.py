"""VQGAN's convolutional encoder and decoder (Esser 2020, 2012.09841), as LlamaGen, Chameleon and Janus have them.

Residual blocks of two 3x3 convolutions on each level, attention among all places of the coarsest, group norm and swish
throughout. Names follow the parts, so that published weights map one to one.
"""
import jax
import jax.numpy as jnp
from flax import nnx

from unitok.models.convnext import depth_to_space, space_to_depth
from unitok.models.precision import FLOAT32, Precision

GROUPS = 32
"""Of the norms; fewer where a level has fewer channels."""


def _norm(width: int, precision: Precision, rngs: nnx.Rngs):
  return nnx.GroupNorm(width, min(GROUPS, width), epsilon=1e-6, dtype=precision.activations, rngs=rngs)


def _conv(into: int, out: int, side: int, precision: Precision, rngs: nnx.Rngs, stride: int = 1, padding="SAME"):
  return nnx.Conv(into, out, (side, side), (stride, stride), padding=padding, dtype=precision.activations, rngs=rngs)


class Residual(nnx.Module):
  """x + conv(swish(norm(conv(swish(norm(x)))))), through a 1x1 convolution where the width changes."""

  def __init__(self, into: int, out: int, precision: Precision, rngs: nnx.Rngs):
    self.norm1, self.conv1 = _norm(into, precision, rngs), _conv(into, out, 3, precision, rngs)
    self.norm2, self.conv2 = _norm(out, precision, rngs), _conv(out, out, 3, precision, rngs)
    self.shortcut = _conv(into, out, 1, precision, rngs) if into != out else None

  def __call__(self, x):
    h = self.conv1(nnx.swish(self.norm1(x)))
    h = self.conv2(nnx.swish(self.norm2(h)))
    return (x if self.shortcut is None else self.shortcut(x)) + h


class Attention(nnx.Module):
  """x + one head of attention over all places of the picture; softmax in float32."""

  def __init__(self, width: int, precision: Precision, rngs: nnx.Rngs):
    self.norm = _norm(width, precision, rngs)
    self.q, self.k, self.v, self.out = (_conv(width, width, 1, precision, rngs) for _ in range(4))

  def __call__(self, x):
    b, h, w, c = x.shape
    normed = self.norm(x)
    q, k, v = (layer(normed).reshape(b, h * w, c) for layer in (self.q, self.k, self.v))
    scores = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32) * c**-0.5
    seen = jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(scores).astype(v.dtype), v)
    return x + self.out(seen.reshape(b, h, w, c))


class Middle(nnx.Module):
  def __init__(self, width: int, precision: Precision, rngs: nnx.Rngs):
    self.block1, self.block2 = Residual(width, width, precision, rngs), Residual(width, width, precision, rngs)
    self.attention = Attention(width, precision, rngs)

  def __call__(self, x):
    return self.block2(self.attention(self.block1(x)))


class Level(nnx.Module):
  """Residual blocks, each followed by attention where asked."""

  def __init__(self, into: int, out: int, count: int, attends: bool, precision: Precision, rngs: nnx.Rngs):
    self.blocks = nnx.List([Residual(into if n == 0 else out, out, precision, rngs) for n in range(count)])
    self.attentions = nnx.List([Attention(out, precision, rngs) for _ in range(count if attends else 0)])

  def __call__(self, x):
    for n, block in enumerate(self.blocks):
      x = block(x)
      if self.attentions:
        x = self.attentions[n](x)
    return x


class Encoder(nnx.Module):
  """pixels f32[b h w 3] in [-1, 1] -> f32[b h/f w/f d], f = patch · 2^(levels - 1)."""

  def __init__(self, options, dim: int, precision: Precision, rngs: nnx.Rngs):
    widths, last = options.widths, len(options.widths) - 1
    self.patch = options.patch
    self.enter = _conv(3 * options.patch**2, widths[0], 3, precision, rngs)
    self.levels = nnx.List([Level(widths[max(n - 1, 0)], width, count, n == last, precision, rngs)
                            for n, (width, count) in enumerate(zip(widths, options.blocks))])
    # torch's padding by one pixel behind, as published weights have it
    self.down = nnx.List([_conv(width, width, 3, precision, rngs, 2, ((0, 1), (0, 1))) for width in widths[:-1]])
    self.middle = Middle(widths[-1], precision, rngs)
    self.norm, self.leave = _norm(widths[-1], precision, rngs), _conv(widths[-1], options.latent, 3, precision, rngs)
    self.to_codes = _conv(options.latent, dim, 1, FLOAT32, rngs)

  def __call__(self, pixels_pm1):
    x = self.enter(space_to_depth(pixels_pm1, self.patch))
    for n, level in enumerate(self.levels):
      x = level(x)
      if n < len(self.down):
        x = self.down[n](x)
    return self.to_codes(self.leave(nnx.swish(self.norm(self.middle(x)))).astype(jnp.float32))


class Painter(nnx.Module):
  """f32[b h/f w/f d] -> pixels f32[b h w 3], nominally in [-1, 1]. Each level has a block more than the encoder's."""

  def __init__(self, options, dim: int, precision: Precision, rngs: nnx.Rngs):
    widths, last = options.widths[::-1], len(options.widths) - 1
    self.patch = options.patch
    self.from_codes = _conv(dim, options.latent, 1, precision, rngs)
    self.enter = _conv(options.latent, widths[0], 3, precision, rngs)
    self.middle = Middle(widths[0], precision, rngs)
    self.levels = nnx.List([Level(widths[max(n - 1, 0)], width, count + 1, n == 0, precision, rngs)
                            for n, (width, count) in enumerate(zip(widths, options.blocks[::-1]))])
    self.up = nnx.List([_conv(width, width, 3, precision, rngs) for width in widths[:-1]])
    self.norm = _norm(widths[last], precision, rngs)
    self.leave = _conv(widths[last], 3 * options.patch**2, 3, precision, rngs)

  def paint(self, z):
    """What the last layer makes the pixels from: [b h/p w/p c]."""
    x = self.middle(self.enter(self.from_codes(z)))
    for n, level in enumerate(self.levels):
      x = level(x)
      if n < len(self.up):
        x = self.up[n](x.repeat(2, 1).repeat(2, 2))
    return nnx.swish(self.norm(x))

  def finish(self, x):
    """The last layer."""
    return depth_to_space(self.leave(x), self.patch).astype(jnp.float32)
