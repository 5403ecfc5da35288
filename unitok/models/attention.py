"""Attention by the one rule: what computes it, and rotary positions."""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unitok.models.block_attention import SIZE, Blocks, attend_blocks, blocks_of, pad
from unitok.models.fused_attention import Fused, attend_fused, fused_of
from unitok.models.int8 import quantized
from unitok.models.ring_attention import attend_ring
from unitok.models.rule import Rule, visible
from unitok.models.scores import PLAIN, Scores
from unitok.sharding import constrain, devices, over

LONG, LONG_FUSED = 512, 2048
"""Tokens of a row from which the whole mask gives way: on a CPU to blocks, on GPU and TPU to the fused kernel (there the
whole mask is fast while it fits)."""


class Mask(NamedTuple):
  """Who sees whom, written out: bool[b q k], and f32[b k] (None: nothing) that is added to the scores of a key."""
  pairs: jax.Array
  bias: jax.Array | None = None


def look(rule: Rule, kind: str = "auto", across: str = "ring") -> Mask | Blocks | Fused | Rule:
  """What `attend` must know of a rule, made once for all layers; kind: a name in ATTENTION, or auto, by the length;
  across: `config.Decoder.sequence_attention`, of which ring needs the rule alone."""
  if devices("sequence") > 1 and across == "ring":
    return rule
  if kind == "auto":
    length, cpu = rule.order.shape[1], jax.default_backend() == "cpu"
    kind = ("blocks" if cpu else "fused") if length >= (LONG if cpu else LONG_FUSED) else "dense"
  return ATTENTION[kind](rule)


ATTENTION = {"dense": lambda rule: Mask(visible(rule, rule)), "blocks": blocks_of, "fused": fused_of}
"""dense: the mask written out; blocks: XLA's loops over blocks; fused: a Pallas kernel (interpreted on a CPU)."""


def attend(q, k, v, seen: Mask | Blocks | Fused | Rule, scores: Scores = PLAIN, turned: bool = False):
  """Softmax attention in float32; a query that sees nothing gives zeros.

  q [b q h d], k and v [b g k d] with h a multiple of g (grouped queries, 2305.13245) -> [b q h d].
  Keys lie head by head, as a cache keeps them: the other way round a step of drawing turns the whole cache over. turned:
  k is [b g d k], which a Mask alone takes.
  """
  if isinstance(seen, Mask):
    q, k, v = constrain(q, "queries"), constrain(k, "keys"), constrain(v, "keys")
    return attend_dense(q, k, v, *seen, score=scores, turned=turned)
  if isinstance(seen, Rule):
    ring, names = functools.partial(attend_ring, devices("sequence"), scores), ("ring queries", "ring keys", "ring keys")
    return over(ring, (q, k, v), names, seen, "hidden")
  one = functools.partial(attend_blocks if isinstance(seen, Blocks) else attend_fused, scores)
  return over(one, (q, k, v), ("queries", "keys", "keys"), seen)


def attend_dense(q, k, v, mask, bias=None, score: Scores = PLAIN, turned: bool = False):
  """By a mask bool[b q k], and a bias f32[b k] of each key's scores."""
  form = "bgqd,bgdk->bgqk" if turned else "bgqd,bgkd->bgqk"
  products = lambda q: jnp.einsum(form, q, k, preferred_element_type=jnp.float32)
  return _attend(q, products, lambda w: jnp.einsum("bgqk,bgkd->bgqd", w.astype(v.dtype), v), k.shape[1], mask, bias, score)


def attend_int8(q, k, v, k_scale, v_scale, mask, bias=None, score: Scores = PLAIN):
  """As attend_dense of turned keys, of int8 k [b g d k] and v [b g k d] and the scale f32[b g k] of each key and value.

  Queries are rounded to int8, too; weights to two of them, what the first leaves over the second, since many small
  ones count beside a few large ones.
  """
  def products(q):
    rows, scale = quantized(q)
    sums = jnp.einsum("bgqd,bgdk->bgqk", rows, k, preferred_element_type=jnp.int32)
    return sums.astype(jnp.float32) * scale[..., None] * k_scale[:, :, None]

  def of_values(weights):
    weights = weights * v_scale[:, :, None]
    first, scale = quantized(weights)
    second, less = quantized(weights - first * scale[..., None])
    sums = jnp.einsum("bgqk,bgkd->bgqd", jnp.concatenate([first, second], 2), v, preferred_element_type=jnp.int32)
    sums = sums.astype(jnp.float32) * jnp.concatenate([scale, less], 2)[..., None]
    return sum(jnp.split(sums, 2, 2)).astype(q.dtype)

  return _attend(q, products, of_values, k.shape[1], mask, bias, score)


def _attend(q, products, of_values, groups: int, mask, bias, score: Scores):
  """products: [b g rows d] -> f32[b g rows k] with the keys; of_values: f32[b g rows k] -> [b g rows d]."""
  b, n, h, d = q.shape
  each = h // groups
  q = q.reshape(b, n, groups, each, d).transpose(0, 2, 3, 1, 4).reshape(b, groups, each * n, d)
  q = q if score.relax == 1 else q / score.relax
  scores = score(products(q) * d**-0.5)
  shift = 0.0 if bias is None else bias[:, None]
  scores = scores.reshape(b, groups, each, n, -1) + jnp.where(mask, shift, -1e30)[:, None, None]
  weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
  # divided after the product: fewer passes over [q k]
  share = mask.any(-1)[:, None, None] / weights.sum(-1)
  out = of_values(weights.reshape(b, groups, each * n, -1))
  out = out.reshape(b, groups, each, n, d) * share[..., None].astype(out.dtype)
  return out.transpose(0, 3, 1, 2, 4).reshape(b, n, h, d)


def largest(q, k, rule: Rule):
  """f32[b n h]: the largest q·k / √d of what each query sees, before any soft cap; -inf where it sees nothing.

  q [b n h d], k [b g n d] as `attend` takes them; made by rows and blocks of queries, so memory grows with the length.
  """
  return over(_largest, (q, k), ("queries", "keys"), rule)


def _largest(q, k, rule):
  length, heads, dim = q.shape[1:]

  def one_row(row):
    q, k, rule = row
    padded = Rule(*(x[0] for x in pad(Rule(*(x[None] for x in rule)), -length % SIZE)))
    q = jnp.pad(q, ((0, -length % SIZE), (0, 0), (0, 0))).reshape(-1, SIZE, len(k), heads // len(k), dim)

    def one_block(block):
      q, queries = block
      products = jnp.einsum("qged,gkd->qgek", q, k, preferred_element_type=jnp.float32) * dim**-0.5
      pairs = visible(*(Rule(*(x[None] for x in some)) for some in (queries, rule)))[0]
      return jnp.where(pairs[:, None, None], products, -jnp.inf).max(-1)

    found = jax.lax.map(one_block, (q, jax.tree.map(lambda x: x.reshape(-1, SIZE), padded)))
    return found.reshape(-1, heads)[:length]

  return jax.lax.map(one_row, (q, k, rule))


def rotation(positions, dim: int, base: float):
  """cos, sin f32[b n dim/2] of rotary embeddings (Su 2021, 2104.09864) over K position axes.

  Pair p turns by axis p mod K at frequency base^(-2p/dim); with equal axes that is exactly the
  one-dimensional embedding. positions [b n K].
  """
  pairs = dim // 2
  frequency = base ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs)
  angle = jnp.asarray(positions)[..., jnp.arange(pairs) % positions.shape[-1]].astype(jnp.float32) * frequency
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x, cos, sin):
  """x [b n h d], pairs are (x[p], x[p + d/2])."""
  a, b = jnp.split(x, 2, -1)
  cos, sin = cos[:, :, None].astype(x.dtype), sin[:, :, None].astype(x.dtype)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
