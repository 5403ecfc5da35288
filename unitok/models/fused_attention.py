"""Attention in one Pallas kernel a pass, for GPU and TPU: the mask is made in the kernel from the three integers.

A program holds a block of queries (or, for the gradients of keys and values, of keys) and walks over all blocks of the
other side, passing over those it cannot see; FlashAttention-2's forward and backward (2307.08691). A row's keys and
values must fit into the memory beside a program (VMEM on a TPU), some 16,384 tokens of 64 in bfloat16.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from unitok.models.block_attention import SIZE, pad
from unitok.models.rule import Rule
from unitok.models.scores import Scores


class Fused(NamedTuple):
  """The rule twice, as columns for queries and as rows for keys: i32[b n 1], i32[b 1 n], n a multiple of SIZE."""
  queries: tuple[jax.Array, jax.Array]              # order, segment_ids
  keys: tuple[jax.Array, jax.Array, jax.Array]      # visible_from, visible_until, segment_ids


def fused_of(rule: Rule) -> Fused:
  rule = pad(rule, -rule.order.shape[1] % SIZE)
  return Fused((rule.order[:, :, None], rule.segment_ids[:, :, None]),
               (rule.visible_from[:, None], rule.visible_until[:, None], rule.segment_ids[:, None]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_fused(score: Scores, q, k, v, fused: Fused):
  """As `attention.attend`: q [b n h d], k and v [b g n d] -> [b n h d]; a query that sees nothing gives zeros."""
  return _forward(score, q, k, v, fused)[0]


def _dot(a, b, trans_a: bool = False, trans_b: bool = False):
  return jax.lax.dot_general(a, b, (((0 if trans_a else 1,), (1 if trans_b else 0,)), ((), ())),
                             preferred_element_type=jnp.float32)


def _visible(order, segment, since, until, key_segment):
  """bool[SIZE SIZE] of columns [SIZE 1] and rows [1 SIZE]."""
  return (segment == key_segment) & (since <= order) & (order <= until)


def _if_any(mask, change, state):
  return jax.lax.cond(jnp.max(mask.astype(jnp.int32)) > 0, change, lambda same: same, state)


def _forward_kernel(score, q_ref, order_ref, segment_ref, k_ref, v_ref, since_ref, until_ref, key_segment_ref, out_ref,
                    sum_ref):
  q, order, segment = q_ref[0, 0], order_ref[0], segment_ref[0]

  def one(j, state):
    at = pl.ds(j * SIZE, SIZE)
    mask = _visible(order, segment, since_ref[0, :, at], until_ref[0, :, at], key_segment_ref[0, :, at])

    def look(state):
      total, weight, most = state
      scores = jnp.where(mask, score(_dot(q, k_ref[0, 0, at, :], trans_b=True)), -jnp.inf)
      higher = jnp.maximum(most, jnp.max(scores, -1, keepdims=True))
      weights, keep = jnp.exp(scores - higher), jnp.exp(most - higher)
      values = v_ref[0, 0, at, :]
      return (total * keep + _dot(weights.astype(values.dtype), values),
              weight * keep + jnp.sum(weights, -1, keepdims=True), higher)

    return _if_any(mask, look, state)

  column = jnp.zeros((SIZE, 1), jnp.float32)
  state = (jnp.zeros(q.shape, jnp.float32), column, column - 1e30)
  total, weight, most = jax.lax.fori_loop(0, k_ref.shape[2] // SIZE, one, state)
  sees = jnp.where(weight > 0, weight, 1.0)
  out_ref[0, 0] = (total / sees).astype(out_ref.dtype)
  sum_ref[0, 0] = jnp.where(weight > 0, most + jnp.log(sees), 1e30)   # nothing seen: weights made again are 0


def _queries_kernel(score, q_ref, grad_ref, sum_ref, aside_ref, order_ref, segment_ref, k_ref, v_ref, since_ref,
                    until_ref, key_segment_ref, dq_ref):
  q, grad, log_sum, aside = q_ref[0, 0], grad_ref[0, 0], sum_ref[0, 0], aside_ref[0, 0]
  order, segment = order_ref[0], segment_ref[0]

  def one(j, dq):
    at = pl.ds(j * SIZE, SIZE)
    mask = _visible(order, segment, since_ref[0, :, at], until_ref[0, :, at], key_segment_ref[0, :, at])

    def look(dq):
      keys = k_ref[0, 0, at, :]
      scores = score(_dot(q, keys, trans_b=True))
      weights = jnp.exp(jnp.where(mask, scores, -jnp.inf) - log_sum)
      by_scores = score.back(scores, weights * (_dot(grad, v_ref[0, 0, at, :], trans_b=True) - aside))
      return dq + _dot(by_scores.astype(keys.dtype), keys)

    return _if_any(mask, look, dq)

  dq_ref[0, 0] = jax.lax.fori_loop(0, k_ref.shape[2] // SIZE, one, jnp.zeros(q.shape, jnp.float32))


def _keys_kernel(score, k_ref, v_ref, since_ref, until_ref, key_segment_ref, q_ref, grad_ref, sum_ref, aside_ref,
                 order_ref, segment_ref, dk_ref, dv_ref):
  keys, values = k_ref[0, 0], v_ref[0, 0]
  since, until, key_segment = since_ref[0], until_ref[0], key_segment_ref[0]

  def one(i, state):
    at = pl.ds(i * SIZE, SIZE)
    mask = _visible(order_ref[0, at, :], segment_ref[0, at, :], since, until, key_segment)

    def look(state):
      dk, dv = state
      q, grad = q_ref[0, 0, at, :], grad_ref[0, 0, at, :]
      scores = score(_dot(q, keys, trans_b=True))
      weights = jnp.exp(jnp.where(mask, scores, -jnp.inf) - sum_ref[0, 0, at, :])
      by_scores = score.back(scores, weights * (_dot(grad, values, trans_b=True) - aside_ref[0, 0, at, :]))
      return (dk + _dot(by_scores.astype(q.dtype), q, trans_a=True),
              dv + _dot(weights.astype(grad.dtype), grad, trans_a=True))

    return _if_any(mask, look, state)

  none = jnp.zeros(keys.shape, jnp.float32)
  dk_ref[0, 0], dv_ref[0, 0] = jax.lax.fori_loop(0, q_ref.shape[2] // SIZE, one, (none, none))


def _block(array, share: int = 1, cut: bool = True) -> pl.BlockSpec:
  """What a program (row, head, block) sees of an array: its block of SIZE tokens, or with `cut` off all of them.

  The array is [b heads n d] with `share` heads of the program to one of its own, [b n 1] or [b 1 n].
  """
  tokens = 2 if array.ndim == 4 or array.shape[1] == 1 else 1
  shape = [1, *array.shape[1:]]
  if cut:
    shape[tokens] = SIZE
  if array.ndim == 4:
    shape[1] = 1

  def where(row, head, block):
    at = [row] + [0] * (array.ndim - 1)
    at[tokens] = block if cut else 0
    if array.ndim == 4:
      at[1] = jax.lax.div(head, share)
    return tuple(at)

  return pl.BlockSpec(tuple(shape), where)


def _call(kernel, score: Scores, like, mine: list, all_of: list, out: list):
  """The kernel for every row, head and block of `like` [b h n d]. mine, all_of: (array, heads to one of its own) that
  are cut into blocks or not; out: the shapes of the results [b h n …]."""
  b, h, n, _ = like.shape
  specs = [_block(x, share) for x, share in mine] + [_block(x, share, cut=False) for x, share in all_of]
  arrays = [x for x, _ in (*mine, *all_of)]

  def run(*arrays, **how):
    return pl.pallas_call(functools.partial(kernel, score), grid=(b, h, n // SIZE), in_specs=specs,
                          out_specs=[_block(x) for x in out],
                          out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in out], **how)(*arrays)

  return jax.lax.platform_dependent(
      *arrays, cpu=functools.partial(run, interpret=True), tpu=run,
      default=functools.partial(run, compiler_params=triton.CompilerParams(num_warps=4, num_stages=2)))


def _padded(x):
  return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % SIZE), (0, 0)))


def _forward(score, q, k, v, fused):
  length, dim = q.shape[1], q.shape[-1]
  q, k, v = _padded((q * score.factor(dim)).swapaxes(1, 2)), _padded(k), _padded(v)
  share, columns, rows = q.shape[1] // k.shape[1], [(x, 1) for x in fused.queries], [(x, 1) for x in fused.keys]
  log_sum = jax.ShapeDtypeStruct((*q.shape[:3], 1), jnp.float32)
  # the kernels' order of arguments: see their signatures
  out, log_sum = _call(_forward_kernel, score, q, [(q, 1), *columns], [(k, share), (v, share), *rows], [q, log_sum])
  return out.swapaxes(1, 2)[:, :length], (q, k, v, fused, out, log_sum)


def _backward(score, kept, grad):
  q, k, v, fused, out, log_sum = kept
  length, (b, groups, n, dim) = grad.shape[1], k.shape
  share, columns, rows = q.shape[1] // groups, [(x, 1) for x in fused.queries], [(x, 1) for x in fused.keys]
  grad = _padded(grad.swapaxes(1, 2))
  aside = (grad.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
  given = [(x, 1) for x in (q, grad, log_sum, aside)]
  exact = jax.ShapeDtypeStruct(q.shape, jnp.float32)
  dq, = _call(_queries_kernel, score, q, [*given, *columns], [(k, share), (v, share), *rows], [exact])
  dk, dv = _call(_keys_kernel, score, q, [(k, share), (v, share), *rows], [*given, *columns], [exact, exact])
  dq = dq.swapaxes(1, 2)[:, :length] * score.factor(dim)
  dk, dv = (x.reshape(b, groups, share, n, dim).sum(2)[:, :, :length] for x in (dk, dv))
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), jax.tree.map(lambda x: None, fused)


attend_fused.defvjp(_forward, _backward)
