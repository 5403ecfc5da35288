"""Vector quantization with l2-normalised low-dimensional codes (ViT-VQGAN, 2110.04627; LlamaGen, 2406.06525)."""
import jax
import jax.numpy as jnp

from unitok.models.quantizers.codebook import Quantized, nearest, revive, straight_through, use_counts


def size(options) -> int:
  return options.codebook_size


def dim(options) -> int:
  return options.code_dim


def _unit(x):
  return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-12)


def init(key, options):
  codebook = _unit(jax.random.normal(key, (options.codebook_size, options.code_dim)))
  return {"codebook": codebook}, {"counts": jnp.ones(options.codebook_size)}


def quantize(params, state, z, options) -> Quantized:
  """Nearest code on the unit sphere. Losses: ||sg(z) - e||² + commitment_weight ||z - sg(e)||²."""
  z, codebook = _unit(z), _unit(params["codebook"])
  codes = nearest(jax.lax.stop_gradient(z), jax.lax.stop_gradient(codebook))
  values = codebook[codes]
  stop = jax.lax.stop_gradient
  losses = {"codebook": ((stop(z) - values) ** 2).sum(-1).mean(),
            "commitment": options.commitment_weight * ((z - stop(values)) ** 2).sum(-1).mean()}
  return Quantized(straight_through(z, values), codes, losses)


def update(params, state, z, codes, step, key, options):
  counts = options.decay * state["counts"] + (1 - options.decay) * use_counts(codes, options.codebook_size)
  codebook, counts, dead = revive(params["codebook"], counts, _unit(z), step, key, options)
  return {"codebook": codebook}, {"counts": counts}, dead.sum()


def lookup(params, state, codes, options):
  return _unit(params["codebook"])[codes]
