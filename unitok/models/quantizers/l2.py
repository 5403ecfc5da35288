"""Vector quantization with l2-normalised low-dimensional codes (ViT-VQGAN, 2110.04627; LlamaGen, 2406.06525)."""
import jax
import jax.numpy as jnp

from unitok.models.quantizers.codebook import GRADIENTS, Quantized, counted, nearest, pull, revive, unit


def init(key, options):
  codebook = unit(jax.random.normal(key, (options.codebook_size, options.code_dim)))
  return {"codebook": codebook}, {"counts": jnp.ones(options.codebook_size)}


def quantize(params, state, z, options) -> Quantized:
  """Nearest code on the unit sphere."""
  z, codebook = unit(z), unit(params["codebook"])
  codes = nearest(jax.lax.stop_gradient(z), jax.lax.stop_gradient(codebook))
  values = codebook[codes]
  return Quantized(GRADIENTS[options.gradient](z, values), codes, pull(z, values, options))


def update(params, state, z, codes, step, key, options):
  counts = counted(state["counts"], codes, options)
  codebook, counts, dead = revive(params["codebook"], counts, unit(z), step, key, options)
  return {"codebook": codebook}, {"counts": counts}, dead.sum()


def lookup(params, state, codes, options):
  return unit(params["codebook"])[codes]
