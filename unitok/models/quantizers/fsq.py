"""Finite scalar quantization (Mentzer 2023, 2309.15505): every dimension rounded to a few levels, no codebook."""
import math

import jax
import jax.numpy as jnp
import numpy as np

from unitok.models.quantizers.codebook import Quantized


def size(options) -> int:
  return math.prod(options.levels)


def dim(options) -> int:
  return len(options.levels)


def init(key, options):
  if not options.levels or min(options.levels) < 2:
    raise ValueError(f"quantizer.levels: {options.levels} must be two or more levels for every dimension, e.g. "
                     "(8, 8, 8)")
  return {}, {"counts": jnp.ones(size(options))}


def _bound(z, levels):
  """z squashed to the open interval whose rounding gives `levels` values, even numbers shifted by a half."""
  half = (levels - 1) * (1 + 1e-3) / 2
  offset = jnp.where(levels % 2 == 0, 0.5, 0.0)
  shift = jnp.arctanh(offset / half)
  return jnp.tanh(z + shift) * half - offset


def _basis(levels):
  return np.concatenate([[1], np.cumprod(levels[:-1])]).astype(np.int32)


def quantize(params, state, z, options) -> Quantized:
  levels = jnp.array(options.levels)
  bounded = _bound(z, levels)
  digits = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
  half = levels // 2
  codes = ((jnp.round(bounded).astype(jnp.int32) + half) * _basis(options.levels)).sum(-1).astype(jnp.int32)
  return Quantized(digits / half, codes, {})


def lookup(params, state, codes, options):
  levels = jnp.array(options.levels)
  digits = codes[:, None] // _basis(options.levels) % levels
  return (digits - levels // 2) / (levels // 2)
