"""Look-up-free quantization (Yu 2023, 2310.05737): a code is the signs of log2(codebook_size) numbers.

The entropy loss wants each position sure of its code and all codes used alike. Bits are taken as independent in both
entropies (BSQ's way, Zhao 2024, 2406.07548, eq. 10-12), so that 2^18 codes cost 18 numbers a position. Commitment is a mean
over the bits: as a sum, as of vectors, it holds all positions to one code before any picture is learned.
"""
import jax
import jax.numpy as jnp
import numpy as np

from unitok.models.quantizers.codebook import Quantized, straight_through


def dim(options) -> int:
  return options.codebook_size.bit_length() - 1


def init(key, options):
  if options.codebook_size < 2 or options.codebook_size & (options.codebook_size - 1):
    raise ValueError(f"quantizer.codebook_size: {options.codebook_size} is no power of two, which {options.kind} makes "
                     f"of bits; take {1 << max(dim(options), 1)} or {2 << max(dim(options), 1)}")
  return {}, {"counts": jnp.ones(options.codebook_size)}


def quantize(params, state, z, options) -> Quantized:
  values = signs(z)
  commitment = options.commitment_weight * ((z - jax.lax.stop_gradient(values)) ** 2).mean()
  losses = {"commitment": commitment, "entropy": entropy(4 * z, options)}
  return Quantized(straight_through(z, values), to_codes(z), losses)


def lookup(params, state, codes, options):
  return to_signs(codes, dim(options))


def signs(z):
  """1 or -1, f32 like z; 0 is 1."""
  return jnp.where(z >= 0, 1.0, -1.0)


def to_codes(z):
  """i32[n] of f32[n d]: bit p is set where number p is not below 0."""
  return ((z >= 0) * (1 << np.arange(z.shape[-1]))).sum(-1).astype(jnp.int32)


def to_signs(codes, bits: int):
  return jnp.where(codes[:, None] >> np.arange(bits) & 1, 1.0, -1.0)


def entropy(logits, options):
  """entropy_weight · (mean entropy of a position's bits - entropy of the mean bits), nats; f32[n d] logits of set bits."""
  nats = lambda p: -(p * jnp.log(p + 1e-9) + (1 - p) * jnp.log(1 - p + 1e-9)).sum(-1)
  p = jax.nn.sigmoid(logits)
  return options.entropy_weight * (nats(p).mean() - nats(p.mean(0)))
