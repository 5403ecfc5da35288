"""A plain transformer of patches as encoder and decoder (ViT-VQGAN, Yu 2021, 2110.04627), for any picture size.

The layers are the decoder's own: RMSNorm before each sublayer, QK-norm and SwiGLU, where the paper has LayerNorm and a
GELU. Positions are rotary in row and column instead of learned ones, so that a picture of any size that is a multiple
of the patch goes through the same weights; the last layers are linear, where the paper has two with a tanh between.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from unitok.models.attention import LONG, Mask, attend, look, rotation
from unitok.models.convnext import depth_to_space, space_to_depth
from unitok.models.decoder import Layer
from unitok.models.precision import FLOAT32, Precision, linear
from unitok.models.rule import Rule

HEAD = 64
"""Numbers a head, as in the paper; a narrower network has one head."""
ROPE_BASE = 100.0
"""Rows and columns are tens where a text has thousands of tokens (Heo 2024, 2403.13298)."""
UNROLL = 4
"""Layers written out one after another in the scan: up to 1.2 times faster on a CPU."""


class Shape(NamedTuple):
  """What a decoder's layer asks of its options."""
  layers: int
  width: int
  heads: int
  kv_heads: int
  hidden: int
  norm: str = "pre"
  qk_norm: bool = True
  dropout: float = 0.0
  experts: int = 0
  modality_experts: str = "none"


def shape_of(options) -> Shape:
  """SwiGLU of 8/3 of the width has as many parameters as a plain MLP of 4."""
  width, heads = options.widths[0], max(options.widths[0] // HEAD, 1)
  return Shape(options.blocks[0], width, heads, heads, max(width * 8 // 3 // 8, 1) * 8)


class Transformer(nnx.Module):
  """x [b h w c] -> [b h w c]: every place sees every other of its picture. Layers are stacked and scanned."""

  def __init__(self, shape: Shape, precision: Precision, rngs: nnx.Rngs):
    self.dim = shape.width // shape.heads
    self.layers = nnx.vmap(lambda r: Layer(shape, precision, r), in_axes=0, out_axes=0)(rngs.split(shape.layers))
    self.norm = nnx.RMSNorm(shape.width, dtype=precision.activations, rngs=rngs)

  def __call__(self, x):
    b, h, w, c = x.shape
    turn = rotation(jnp.broadcast_to(jnp.indices((h, w)).reshape(2, -1).T, (b, h * w, 2)), self.dim, ROPE_BASE)
    seen = Mask(jnp.ones((1, 1, 1), bool)) if h * w < LONG else look(
        Rule(*[jnp.ones((b, h * w), jnp.int32)] * 4), across="ulysses")
    graph, stacked = nnx.split(self.layers)

    def layer(x, weights):
      layer = nnx.merge(graph, weights)
      return layer.finish(x, attend(*layer.project(x, turn), seen))[0], None

    x, _ = jax.lax.scan(layer, x.reshape(b, h * w, c), stacked, unroll=UNROLL)
    return self.norm(x).reshape(b, h, w, c)


class Encoder(nnx.Module):
  """pixels f32[b h w 3] in [-1, 1] -> f32[b h/p w/p d]."""

  def __init__(self, options, dim: int, precision: Precision, rngs: nnx.Rngs):
    self.patch, width = options.patch, options.widths[0]
    self.enter = linear(3 * self.patch**2, width, precision, rngs, bias=True)
    self.transformer = Transformer(shape_of(options), precision, rngs)
    self.leave = linear(width, dim, FLOAT32, rngs, bias=True)

  def __call__(self, pixels_pm1):
    x = self.transformer(self.enter(space_to_depth(pixels_pm1, self.patch)))
    return self.leave(x.astype(jnp.float32))


class Painter(nnx.Module):
  """f32[b h/p w/p d] -> pixels f32[b h w 3], nominally in [-1, 1]."""

  def __init__(self, options, dim: int, precision: Precision, rngs: nnx.Rngs):
    self.patch, width = options.patch, options.widths[0]
    self.enter = linear(dim, width, precision, rngs, bias=True)
    self.transformer = Transformer(shape_of(options), precision, rngs)
    self.leave = linear(width, 3 * self.patch**2, precision, rngs, bias=True)

  def paint(self, z):
    """What the last layer makes the pixels from: [b h/p w/p c]."""
    return self.transformer(self.enter(z))

  def finish(self, x):
    """The last layer."""
    return depth_to_space(self.leave(x), self.patch).astype(jnp.float32)


def check(options):
  """ValueError for a shape that cannot be built."""
  if len(options.widths) != 1:
    raise ValueError(f"image_tokenizer.widths: {options.widths} must be one width for vit, which has one level; "
                     "image_tokenizer.patch makes its places larger")
  width = options.widths[0]
  if width % (HEAD if width > HEAD else 4) or width < 4:
    raise ValueError(f"image_tokenizer.widths: {options.widths} must be a multiple of {HEAD} for vit's heads, or of 4 "
                     "below that")
  if options.blocks[0] < 1:
    raise ValueError(f"image_tokenizer.blocks: {options.blocks} must be 1 or more layers for vit")
