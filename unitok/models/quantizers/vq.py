"""Plain vector quantization (van den Oord 2017, 1711.00937), its codebook put onto vectors of the first batch."""
import jax
import jax.numpy as jnp

from unitok.models.quantizers.codebook import GRADIENTS, Quantized, counted, nearest, pull, revive


def init(key, options):
  codebook = jax.random.normal(key, (options.codebook_size, options.code_dim))
  return {"codebook": codebook}, {"counts": jnp.ones(options.codebook_size), "fresh": jnp.ones((), bool)}


def quantize(params, state, z, options) -> Quantized:
  """Nearest code."""
  codes = nearest(jax.lax.stop_gradient(z), jax.lax.stop_gradient(params["codebook"]))
  values = params["codebook"][codes]
  return Quantized(GRADIENTS[options.gradient](z, values), codes, pull(z, values, options))


def update(params, state, z, codes, step, key, options):
  """At first the codes become vectors of the batch, a little apart where it has fewer; then revival."""
  at = jax.random.choice(key, z.shape[0], (options.codebook_size,), replace=z.shape[0] < options.codebook_size)
  apart = 0.01 * z.std() * jax.random.normal(jax.random.fold_in(key, 1), params["codebook"].shape)
  codebook = jnp.where(state["fresh"], z[at] + apart, params["codebook"])
  codebook, counts, dead = revive(codebook, counted(state["counts"], codes, options), z, step, key, options)
  return {"codebook": codebook}, {"counts": counts, "fresh": jnp.zeros((), bool)}, dead.sum()


def lookup(params, state, codes, options):
  return params["codebook"][codes]
