"""What codebooks share: the nearest code, running counts, revival of dead codes."""
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Quantized(NamedTuple):
  values: jax.Array               # f32[n d], straight-through
  codes: jax.Array                # i32[n]
  losses: dict[str, jax.Array]    # each already weighted, to be added


def nearest(z, codebook):
  """i32[n]: the row of codebook f32[k d] closest to each z f32[n d] (Euclidean); ties take the lowest."""
  scores = z @ codebook.T - 0.5 * (codebook**2).sum(-1)
  return jnp.argmax(scores, -1).astype(jnp.int32)


def straight_through(z, values):
  """`values` forward, the identity to z backward (van den Oord 2017, 1711.00937)."""
  return z + jax.lax.stop_gradient(values - z)


def use_counts(codes, size: int):
  """f32[k]: how often each code occurs."""
  return jnp.zeros(size, jnp.float32).at[codes].add(1.0)


def revive(codebook, counts, z, step, key, options):
  """Puts codes that are hardly used onto vectors of this batch, every `revive_every` steps.

  codebook f32[k d], counts f32[k] running uses a step, z f32[n d]. A code is dead when its count is
  below `revive_below` of the mean count. Each dead code takes a vector drawn with probability
  proportional to its squared distance from its nearest code (k-means++, Arthur 2007), which is where a
  code is missing, and the mean count, so that it lives long enough to be used.
  Returns (codebook, counts, dead bool[k]).
  """
  size = codebook.shape[0]
  mean = counts.mean()
  due = (step % max(options.revive_every, 1) == 0) & (options.revive_every > 0) & (step > 0)
  dead = due & (counts < options.revive_below * mean)
  error = ((z - codebook[nearest(z, codebook)]) ** 2).sum(-1)
  at = jnp.searchsorted(jnp.cumsum(error), jax.random.uniform(key, (size,)) * error.sum())
  at = jnp.minimum(at, z.shape[0] - 1)
  codebook = jnp.where(dead[:, None], z[at], codebook)
  return codebook, jnp.where(dead, mean, counts), dead
