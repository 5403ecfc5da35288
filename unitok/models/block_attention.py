"""Attention block by block, from the three integers alone: no n x n mask, blocks that nobody sees are passed over.

Softmax is taken as the blocks come (Milakov 2018, 1805.02867; FlashAttention, 2205.14135), backwards the weights are
made again from the logarithm of their sum (2307.08691), so memory grows with the length, not with its square.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unitok.models.rule import NOTHING, Rule, visible
from unitok.models.scores import Scores

SIZE = 128
"""Tokens of a block."""


class Blocks(NamedTuple):
  """Which blocks of keys each block of queries may see. `count` of `keys` are meant, the others are not looked at."""
  rules: tuple[Rule, Rule]   # of queries and of keys, i32[b n] each, n a multiple of SIZE
  keys: jax.Array     # i32[b blocks blocks]: numbers of key blocks, those to be looked at first
  count: jax.Array    # i32[b blocks]
  queries: jax.Array  # i32[b blocks blocks], [b blocks]: the same for each block of keys
  seen: jax.Array


def blocks_of(rule: Rule, keys: Rule | None = None) -> Blocks:
  """From the least and greatest integers of each block; padding counts for nothing. keys: their rule, where they are not
  the queries' own tokens."""
  queries = pad(rule, -rule.order.shape[1] % SIZE)
  keys = queries if keys is None else pad(keys, -keys.order.shape[1] % SIZE)

  def ends(name, rule):
    some, x = rule.segment_ids > 0, getattr(rule, name)
    cut = lambda fill: jnp.where(some, x, fill).reshape(len(x), -1, SIZE)
    return cut(2**30).min(-1), cut(-2**30).max(-1)

  q = lambda name: (x[:, :, None] for x in ends(name, queries))
  k = lambda name: (x[:, None, :] for x in ends(name, keys))
  (least, most), (since, _), (_, until) = q("order"), k("visible_from"), k("visible_until")
  (first, last), (from_, to) = q("segment_ids"), k("segment_ids")
  pairs = (most >= since) & (least <= until) & (last >= from_) & (first <= to)
  at_front = lambda x: jnp.argsort(~x, -1, stable=True).astype(jnp.int32)
  other = pairs.swapaxes(1, 2)
  return Blocks((queries, keys), at_front(pairs), pairs.sum(-1, dtype=jnp.int32), at_front(other),
                other.sum(-1, dtype=jnp.int32))


def pad(rule: Rule, more: int) -> Rule:
  """The rule with `more` tokens of padding behind each row."""
  return Rule(*(jnp.pad(x, ((0, 0), (0, more)), constant_values=nothing) for x, nothing in zip(rule, NOTHING)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_blocks(score: Scores, q, k, v, blocks: Blocks):
  """As `attention.attend`: q [b n h d], k and v [b g n d] -> [b n h d]; a query that sees nothing gives zeros."""
  return _forward(score, q, k, v, blocks)[0]


def _forward(score, q, k, v, blocks):
  length = q.shape[1]
  q, k, v = head_first(q * score.factor(q.shape[-1]), k), padded(k), padded(v)
  out, log_sum = forward(score, q, k, v, blocks)
  return tokens_first(out, length), (q, k, v, blocks, out, log_sum)


def forward(score, q, k, v, blocks):
  """q [b g e n d] scaled, k and v [b g n d] -> out as q, and the logarithm of the weights' sum f32[b g e n], 1e30 where
  nothing is seen."""
  return jax.lax.map(functools.partial(_forward_row, score), (q, k, v, blocks.rules, blocks.keys, blocks.count))


def padded(x):
  """[b heads n d] with n a multiple of SIZE."""
  return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % SIZE), (0, 0)))


def head_first(q, k):
  """[b n h d] -> [b g h/g n d], padded."""
  b, _, h, d = q.shape
  return padded(q.transpose(0, 2, 1, 3)).reshape(b, k.shape[1], h // k.shape[1], -1, d)


def tokens_first(x, length: int):
  """[b g e n d] -> [b length h d]."""
  b, g, e, n, d = x.shape
  return x.reshape(b, g * e, n, d)[:, :, :length].transpose(0, 2, 1, 3)


def _cut(x, number, axis: int):
  return jax.lax.dynamic_slice_in_dim(x, number * SIZE, SIZE, axis)


def _put(x, part, number, axis: int):
  return jax.lax.dynamic_update_slice_in_dim(x, part.astype(x.dtype), number * SIZE, axis)


def _mask(rules, i, j):
  """bool[SIZE SIZE] of a block of queries and one of keys."""
  queries, keys = (Rule(*(_cut(x, n, 0)[None] for x in rule)) for rule, n in zip(rules, (i, j)))
  return visible(queries, keys)[0]


def _times(how, a, b):
  return jnp.einsum(how, a, b, preferred_element_type=jnp.float32)


def _forward_row(score, row):
  """q [g e n d], k and v [g n d] -> out [g e n d], log of the weights' sum f32[g e n]."""
  q, k, v, rules, keys, count = row
  g, e, n, d = q.shape

  def queries(i, done):
    mine = _cut(q, i, 2).reshape(g, e * SIZE, d)

    def one(step, state):
      total, weight, most = state
      j = keys[i, step]
      scores = score(_times("gqd,gkd->gqk", mine, _cut(k, j, 1))).reshape(g, e, SIZE, SIZE)
      scores = jnp.where(_mask(rules, i, j), scores, -jnp.inf).reshape(g, e * SIZE, SIZE)
      higher = jnp.maximum(most, scores.max(-1))      # at least -1e30: never the difference of two infinities
      weights, keep = jnp.exp(scores - higher[..., None]), jnp.exp(most - higher)
      total = total * keep[..., None] + _times("gqk,gkd->gqd", weights.astype(v.dtype), _cut(v, j, 1))
      return total, weight * keep + weights.sum(-1), higher

    like = jnp.zeros_like(mine[..., 0], jnp.float32)
    total, weight, most = jax.lax.fori_loop(0, count[i], one, (jnp.zeros_like(mine, jnp.float32), like, like - 1e30))
    # what sees nothing has no weight: its output is 0, and so are the weights made again from a sum of e^1e30
    sees = weight > 0
    out = total / jnp.where(sees, weight, 1.0)[..., None]
    log_sum = jnp.where(sees, most + jnp.log(jnp.where(sees, weight, 1.0)), 1e30)
    return (_put(done[0], out.reshape(g, e, SIZE, d), i, 2), _put(done[1], log_sum.reshape(g, e, SIZE), i, 2))

  return jax.lax.fori_loop(0, n // SIZE, queries, (jnp.zeros_like(q), jnp.zeros_like(q[..., 0], jnp.float32)))


def _backward(score, kept, grad):
  q, k, v, blocks, out, log_sum = kept
  length = grad.shape[1]
  grad, aside = gradients_of(grad, out)
  dq, dk, dv = backward(score, q, k, v, blocks, grad, log_sum, aside)
  return *finished(score, q, k, v, dq, dk, dv, length), jax.tree.map(lambda x: None, blocks)


def gradients_of(grad, out):
  """The output's gradient [b n h d] as `out` [b g e n d] is, and its product with it, f32[b g e n]."""
  grad = padded(grad.transpose(0, 2, 1, 3)).reshape(out.shape)
  return grad, (grad.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)


def backward(score, q, k, v, blocks, grad, log_sum, aside):
  """The gradients f32 of q, k and v as `forward` takes them; log_sum: over all keys, those elsewhere too."""
  return jax.lax.map(functools.partial(_backward_row, score),
                     (q, k, v, grad, log_sum, aside, blocks.rules, blocks.queries, blocks.seen))


def finished(score, q, k, v, dq, dk, dv, length: int):
  """Gradients in the form of `attend_blocks`' arguments."""
  dq = tokens_first(dq, length) * score.factor(q.shape[-1])
  return dq.astype(q.dtype), dk[:, :, :length].astype(k.dtype), dv[:, :, :length].astype(v.dtype)


def _backward_row(score, row):
  """The gradients f32 of q [g e n d], k and v [g n d] in one walk over the blocks, key block by key block."""
  q, k, v, grad, log_sum, aside, rules, queries, seen = row
  g, e, n, d = q.shape
  flat = lambda x: x.reshape(g, e * SIZE, *x.shape[3:])

  def keys(j, done):
    dq, dk, dv = done
    k_j, v_j = _cut(k, j, 1), _cut(v, j, 1)

    def one(step, state):
      dq, dk_j, dv_j = state
      i = queries[j, step]
      q_i, grad_i = flat(_cut(q, i, 2)), flat(_cut(grad, i, 2))
      scores = score(_times("gqd,gkd->gqk", q_i, k_j))
      masked = jnp.where(_mask(rules, i, j), scores.reshape(g, e, SIZE, SIZE), -jnp.inf)
      weights = jnp.exp(masked - _cut(log_sum, i, 2)[..., None]).reshape(g, e * SIZE, SIZE)
      by_scores = weights * (_times("gqd,gkd->gqk", grad_i, v_j) - flat(_cut(aside, i, 2))[..., None])
      weights, by_scores = weights.astype(v.dtype), score.back(scores, by_scores).astype(q.dtype)
      dq_i = _times("gqk,gkd->gqd", by_scores, k_j).reshape(g, e, SIZE, d)
      dq = _put(dq, _cut(dq, i, 2) + dq_i, i, 2)
      return dq, dk_j + _times("gqk,gqd->gkd", by_scores, q_i), dv_j + _times("gqk,gqd->gkd", weights, grad_i)

    none = jnp.zeros_like(k_j, jnp.float32)
    dq, dk_j, dv_j = jax.lax.fori_loop(0, seen[j], one, (dq, none, none))
    return dq, _put(dk, dk_j, j, 1), _put(dv, dv_j, j, 1)

  none = jnp.zeros_like(k, jnp.float32)
  return jax.lax.fori_loop(0, n // SIZE, keys, (jnp.zeros_like(q, jnp.float32), none, none))


attend_blocks.defvjp(_forward, _backward)
