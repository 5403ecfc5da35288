"""Vector quantization whose codebook is a running mean of what it stands for (van den Oord 2017, appendix A.1)."""
import jax
import jax.numpy as jnp

from unitok.models.quantizers.codebook import GRADIENTS, Quantized, counted, nearest, revive


def init(key, options):
  codebook = jax.random.normal(key, (options.codebook_size, options.code_dim)) * 0.1
  return {}, {"codebook": codebook, "sums": jnp.copy(codebook), "counts": jnp.ones(options.codebook_size)}


def quantize(params, state, z, options) -> Quantized:
  """Nearest code; the only loss is commitment, for the codebook is no parameter."""
  codes = nearest(jax.lax.stop_gradient(z), state["codebook"])
  values = state["codebook"][codes]
  commitment = options.commitment_weight * ((z - values) ** 2).sum(-1).mean()
  return Quantized(GRADIENTS[options.gradient](z, values), codes, {"commitment": commitment})


def update(params, state, z, codes, step, key, options):
  """N ← γN + (1-γ)n, m ← γm + (1-γ)Σz, e = m / N (eq. 6-8), then revival."""
  keep, counts = options.decay, counted(state["counts"], codes, options)
  sums = keep * state["sums"] + (1 - keep) * jnp.zeros_like(state["sums"]).at[codes].add(z)
  codebook = sums / jnp.maximum(counts, 1e-5)[:, None]
  codebook, counts, dead = revive(codebook, counts, z, step, key, options)
  return params, {"codebook": codebook, "sums": codebook * counts[:, None], "counts": counts}, dead.sum()


def lookup(params, state, codes, options):
  return state["codebook"][codes]
