"""The one attention rule, and attention by it.

Token j is visible to token i exactly when

    segment_ids[j] == segment_ids[i]  and  visible_from[j] <= order[i] <= visible_until[j]
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rule(NamedTuple):
  """The integers of n tokens a row, i32[b n] each; padding is (-1, large, -1, 0)."""
  order: jax.Array
  visible_from: jax.Array
  visible_until: jax.Array
  segment_ids: jax.Array


def rule_of(batch) -> Rule:
  return Rule(batch.order, batch.visible_from, batch.visible_until, batch.segment_ids)


def visible(queries: Rule, keys: Rule):
  """bool[b q k]."""
  order = queries.order[:, :, None]
  return ((queries.segment_ids[:, :, None] == keys.segment_ids[:, None, :])
          & (keys.visible_from[:, None, :] <= order) & (order <= keys.visible_until[:, None, :]))


def attend(q, k, v, mask, bias=None):
  """Softmax attention in float32; a query that sees nothing gives zeros.

  q [b q h d], k and v [b g k d] with h a multiple of g (grouped queries, 2305.13245), mask bool[b q k], bias f32[b k]
  (None: nothing) is added to the scores of a key.
  Keys lie head by head, as a cache keeps them: the other way round a step of drawing turns the whole cache over.
  """
  b, n, h, d = q.shape
  groups, each = k.shape[1], h // k.shape[1]
  q = q.reshape(b, n, groups, each, d).transpose(0, 2, 3, 1, 4).reshape(b, groups, each * n, d)
  scores = jnp.einsum("bgqd,bgkd->bgqk", q, k, preferred_element_type=jnp.float32) * d**-0.5
  shift = 0.0 if bias is None else bias[:, None]
  scores = scores.reshape(b, groups, each, n, -1) + jnp.where(mask, shift, -1e30)[:, None, None]
  weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
  # divided after the product: fewer passes over [q k]
  share = mask.any(-1)[:, None, None] / weights.sum(-1)
  out = jnp.einsum("bgqk,bgkd->bgqd", weights.reshape(b, groups, each * n, -1).astype(v.dtype), v)
  out = out.reshape(b, groups, each, n, d) * share[..., None].astype(v.dtype)
  return out.transpose(0, 3, 1, 2, 4).reshape(b, n, h, d)


def rotation(positions, dim: int, base: float):
  """cos, sin f32[b n dim/2] of rotary embeddings (Su 2021, 2104.09864) over K position axes.

  Pair p turns by axis p mod K at frequency base^(-2p/dim); with equal axes that is exactly the
  one-dimensional embedding. positions i32[b n K].
  """
  pairs = dim // 2
  frequency = base ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs)
  angle = positions[..., jnp.arange(pairs) % positions.shape[-1]].astype(jnp.float32) * frequency
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x, cos, sin):
  """x [b n h d], pairs are (x[p], x[p + d/2])."""
  a, b = jnp.split(x, 2, -1)
  cos, sin = cos[:, :, None].astype(x.dtype), sin[:, :, None].astype(x.dtype)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
