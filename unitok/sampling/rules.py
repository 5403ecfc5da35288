"""What may be drawn, and how logits become one id: guidance, temperature, top-k, top-p."""
import math

import jax
import jax.numpy as jnp

from unitok.config import Sampling


def guide(conditional, unconditional, scale: float):
  """u + s (c - u) (Ho & Salimans 2022, 2207.12598); scale 1 is exactly the conditional."""
  return conditional if scale == 1.0 else unconditional + scale * (conditional - unconditional)


def top_k(logits, k: int):
  """All but the k largest become -inf."""
  least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
  return jnp.where(logits < least, -jnp.inf, logits)


def top_p(logits, p: float):
  """Keeps the smallest set of most likely ids with at least probability p (Holtzman 2019, 1904.09751)."""
  ranked = jnp.sort(logits, -1)[..., ::-1]
  before = jnp.cumsum(jax.nn.softmax(ranked, -1), -1) - jax.nn.softmax(ranked, -1)
  least = jnp.where(before < p, ranked, jnp.inf).min(-1, keepdims=True)
  return jnp.where(logits < least, -jnp.inf, logits)


def gathered(logits, bins: range, spread: float = 16.0):
  """Logits f32[b v] that are greatest where most of the probability is, not at the likeliest id, of a block of bins along a
  line: the block counts as all its bins together beside other ids, and a bin as what lies around it by a normal kernel
  of `spread` bins. Of a flat distribution over a thousand bins the likeliest is noise."""
  inside = logits[:, bins.start:bins.stop]
  near = jnp.arange(-int(3 * spread), int(3 * spread) + 1) / spread
  around = jax.vmap(lambda p: jnp.convolve(p, jnp.exp(-(near**2) / 2), "same"))(jax.nn.softmax(inside, -1))
  together = jax.nn.logsumexp(inside, -1, keepdims=True) + jnp.log(around / around.max(-1, keepdims=True))
  return logits.at[:, bins.start:bins.stop].set(together)


def draw(logits, allowed, keys, sampling: Sampling, bins: range | None = None):
  """i32[b]: one allowed id a row of logits f32[b v], allowed bool[b v], keys one a row. bins: ids that the likeliest is
  found among as `gathered` says."""
  if sampling.temperature == 0:
    logits = gathered(logits, bins) if bins else logits
    return jnp.argmax(jnp.where(allowed, logits, -jnp.inf), -1).astype(jnp.int32)
  logits = jnp.where(allowed, logits, -jnp.inf)
  logits = logits / sampling.temperature
  if sampling.top_k:
    logits = top_k(logits, sampling.top_k)
  if sampling.top_p < 1:
    logits = top_p(logits, sampling.top_p)
  noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
  return jnp.argmax(logits + noise, -1).astype(jnp.int32)


def check(sampling: Sampling):
  """ValueError naming a setting out of its range."""
  for name, value, legal, fits in (
      ("temperature", sampling.temperature, "a number >= 0", 0 <= sampling.temperature < math.inf),
      ("top_k", sampling.top_k, ">= 0 (0 keeps all)", sampling.top_k >= 0),
      ("top_p", sampling.top_p, "in (0, 1]", 0 < sampling.top_p <= 1),
      ("passes", sampling.passes, ">= 0 (0 draws code by code)", sampling.passes >= 0),
      ("guidance_scale", sampling.guidance_scale, "a number >= 0", 0 <= sampling.guidance_scale < math.inf),
      ("text_attention", sampling.text_attention, "a number >= 0", 0 <= sampling.text_attention < math.inf)):
    if not fits:
      raise ValueError(f"sampling.{name}: {value} must be {legal}")
