"""SimVQ (Zhu 2024, 2411.02038): a frozen Gaussian codebook times one learned matrix: every step moves all codes."""
import jax
import jax.numpy as jnp

from unitok.models.quantizers.codebook import GRADIENTS, Quantized, nearest, pull


def init(key, options):
  shape = options.codebook_size, options.code_dim
  matrix = jax.random.normal(jax.random.fold_in(key, 1), (options.code_dim,) * 2) * options.code_dim**-0.5
  frozen = jax.random.normal(key, shape) * options.code_dim**-0.5
  return {"matrix": matrix}, {"codebook": frozen, "counts": jnp.ones(options.codebook_size)}


def quantize(params, state, z, options) -> Quantized:
  codebook = state["codebook"] @ params["matrix"]
  codes = nearest(jax.lax.stop_gradient(z), jax.lax.stop_gradient(codebook))
  values = codebook[codes]
  return Quantized(GRADIENTS[options.gradient](z, values), codes, pull(z, values, options))


def lookup(params, state, codes, options):
  return state["codebook"][codes] @ params["matrix"]
