"""Index backpropagation quantization (Shi 2024, 2412.02692): the choice of a code is a softmax over all of them
backward, so that every code learns at every step."""
import jax
import jax.numpy as jnp

from unitok.models.quantizers.codebook import Quantized, chunks, pull

SHARPNESS = 100.0
"""Of the softmax in the entropy loss, a temperature of 0.01: while scores are small a plain one is flat, and all positions
go to one code (on emoji, 4,096 codes: 12.0 dB and one code, instead of 15.6 dB and all of them after 300 steps)."""


def init(key, options):
  codebook = jax.random.normal(key, (options.codebook_size, options.code_dim)) * options.code_dim**-0.5
  return {"codebook": codebook}, {"counts": jnp.ones(options.codebook_size)}


def quantize(params, state, z, options) -> Quantized:
  """The code of the largest inner product. Backward it is softmax(z Cᵀ) C, made again chunk by chunk."""
  codebook = params["codebook"]

  @jax.checkpoint
  def choose(total, some):
    z, real = some
    scores = z @ codebook.T
    soft, codes = jax.nn.softmax(scores), jnp.argmax(scores, -1)
    hard = jax.nn.one_hot(codes, codebook.shape[0])
    log_p = jax.nn.log_softmax(SHARPNESS * scores)
    sure = jnp.exp(log_p)
    nats = -(sure * log_p).sum(-1)
    values = (hard + soft - jax.lax.stop_gradient(soft)) @ codebook
    return total + (sure * real[:, None]).sum(0), (values, codes.astype(jnp.int32), nats)

  total, several = jax.lax.scan(choose, jnp.zeros(codebook.shape[0]), chunks(z, codebook.shape[0]))
  values, codes, nats = (x.reshape(-1, *x.shape[2:])[:z.shape[0]] for x in several)
  mean = total / z.shape[0]
  entropy = options.entropy_weight * (nats.mean() + (mean * jnp.log(mean + 1e-9)).sum())
  return Quantized(values, codes, {**pull(z, values, options), "entropy": entropy})


def lookup(params, state, codes, options):
  return params["codebook"][codes]
