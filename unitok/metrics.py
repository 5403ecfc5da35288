"""Means as (sum, count) pairs, merged exactly; codebook usage."""
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mean(NamedTuple):
  """A mean that can be merged across batches, hosts and tasks."""
  total: jax.Array
  count: jax.Array

  @classmethod
  def of(cls, values, weights=None):
    weights = jnp.ones_like(values) if weights is None else weights
    return cls((values * weights).sum(), weights.sum())

  def __add__(self, other):
    return Mean(self.total + other.total, self.count + other.count)

  def value(self) -> float:
    """NaN where nothing was counted."""
    return float(self.total) / float(self.count) if float(self.count) else float("nan")


def usage(counts) -> dict:
  """Share of codes with a count above 0, and exp of the entropy of their frequencies, for counts f[k]."""
  p = counts / jnp.maximum(counts.sum(), 1e-9)
  entropy = -(p * jnp.log(jnp.maximum(p, 1e-12))).sum()
  return {"usage": (counts > 0).mean(), "perplexity": jnp.exp(entropy)}
