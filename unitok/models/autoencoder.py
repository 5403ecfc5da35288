"""The autoencoder around a quantizer: which network, which pictures it can take."""
import jax
import jax.numpy as jnp
from flax import nnx

from unitok.config import check_size
from unitok.models import convnext, lpips, vit, vqgan
from unitok.models.adversary import least_side
from unitok.models.precision import Precision
from unitok.models.quantizers import QUANTIZERS

NETWORKS = {"convnext": convnext, "vqgan": vqgan, "vit": vit}
"""Modules with an Encoder and a Painter, which paints up to its last layer and finishes with it."""


class Autoencoder(nnx.Module):
  def __init__(self, options, precision: Precision, rngs: nnx.Rngs):
    network, dim = NETWORKS[options.network], QUANTIZERS[options.quantizer.kind].dim(options.quantizer)
    self.encoder = network.Encoder(options, dim, precision, rngs)
    self.painter = network.Painter(options, dim, precision, rngs)


def to_pm1(pixels):
  """u8 0..255 -> f32 in [-1, 1]."""
  return pixels.astype(jnp.float32) / 127.5 - 1


def to_u8(pixels_pm1):
  return jnp.clip(jnp.round((pixels_pm1 + 1) * 127.5), 0, 255).astype(jnp.uint8)


def check(options, image_size: int, sizes: tuple[tuple[int, int], ...] = ()):
  """ValueError where this network cannot make a grid of codes from the picture, or from one of the sizes."""
  if options.quantizer.kind not in QUANTIZERS:
    raise ValueError(f"image_tokenizer.quantizer.kind: {options.quantizer.kind!r} is unknown; one of "
                     f"{', '.join(QUANTIZERS)}")
  # the quantizer refuses sizes that it cannot have
  jax.eval_shape(lambda key: QUANTIZERS[options.quantizer.kind].init(key, options.quantizer), jax.random.key(0))
  if (codes := QUANTIZERS[options.quantizer.kind].size(options.quantizer)) != options.quantizer.codebook_size:
    raise ValueError(f"image_tokenizer.quantizer.codebook_size: {options.quantizer.codebook_size}, but levels "
                     f"{options.quantizer.levels} make {codes}; take that, or levels whose product is the size")
  if options.quantizer.books != QUANTIZERS[options.quantizer.kind].books(options.quantizer):
    several = [name for name, one in QUANTIZERS.items() if one.books(options.quantizer) == options.quantizer.books]
    raise ValueError(f"image_tokenizer.quantizer.books: {options.quantizer.books}, but {options.quantizer.kind} has "
                     f"one code a position; take 1, or quantizer.kind {' or '.join(several)}")
  if options.network not in NETWORKS:
    raise ValueError(f"image_tokenizer.network: {options.network!r} is unknown; one of {', '.join(NETWORKS)}")
  if options.network == "vqgan" and any(width % min(vqgan.GROUPS, width) for width in options.widths):
    raise ValueError(f"image_tokenizer.widths: {options.widths} must be multiples of {vqgan.GROUPS}, or smaller than "
                     "that, for vqgan's norms")
  if len(options.blocks) != len(options.widths):
    raise ValueError(f"image_tokenizer.blocks: {options.blocks} must have one number a level of widths "
                     f"{options.widths}")
  if options.network == "vit":
    vit.check(options)
  least = least_side(options.losses.judge_layers)
  if options.losses.adversarial and image_size < least:
    raise ValueError(f"image_tokenizer.losses.judge_layers: {options.losses.judge_layers} need pictures of {least} pixels "
                     "a side or more; take fewer layers, or larger pictures")
  if options.losses.perceptual and not options.losses.perceptual_weights:
    raise ValueError(f"image_tokenizer.losses.perceptual: {options.losses.perceptual:g} needs LPIPS' weights; name a "
                     "safetensors file with losses.perceptual_weights, or take losses.edges, which needs none")
  if options.losses.perceptual and image_size < lpips.LEAST_SIDE:
    raise ValueError(f"image_tokenizer.losses.perceptual: needs pictures of {lpips.LEAST_SIDE} pixels a side or more, "
                     f"data.image_size is {image_size}; take losses.edges")
  for size in sizes:
    check_size(size, options.downsampling, "data.sizes", f"the tokenizer's {options.downsampling} pixels a code")
  if options.train.accumulate != 1:
    raise ValueError(f"image_tokenizer.train.accumulate: {options.train.accumulate}, but its codes are counted over the "
                     "whole batch at once; take 1 and a smaller batch_size, or more devices (mesh.data)")
  if image_size % options.downsampling:
    raise ValueError(f"data.image_size: {image_size} is no multiple of the tokenizer's {options.downsampling} pixels a "
                     f"code; take {image_size // options.downsampling * options.downsampling or options.downsampling}")
