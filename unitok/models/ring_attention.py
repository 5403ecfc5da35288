"""Attention of rows whose tokens lie over several devices: keys, values and their integers go round (ring attention, Liu
2023, 2310.01889), by blocks on each device: XLA's loops (block_attention.py) on GPU and TPU, too, not the fused kernel,
and `decoder.attention` is not heeded. `ulysses` heeds it.

A device takes what it sees of each piece that comes by; the pieces' outputs are joined by the logarithms of their sums.
Backwards the pieces go round again, each with its gradients so far, which are whole when it is at home.

Under a causal rule the last tokens see all pieces and the first hardly any; pieces in their order would leave devices
waiting. `balanced` therefore gives device s of S the pieces s and 2S-1-s of 2S ("zigzag", as in Llama 3's
training, 2407.21783, section 3.3.2): what it sees of the keys is then the same for all, and in whole blocks. Token by
token in turn (striped, Brandon 2023, 2311.09431) is as even, but then every pair of blocks is half seen and none can be
passed over. The rule's integers and the positions travel with the tokens, so the order of a row's tokens is of no
account.
"""
import functools

import jax
import jax.numpy as jnp

from unitok.models import block_attention as by_blocks
from unitok.models.rule import Rule
from unitok.models.scores import Scores

AXIS = "sequence"


def balanced(batch, devices: int):
  """Every array [b l …] of a batch with a row's tokens in the order that gives each of so many devices even work."""
  length = jax.tree.leaves(batch)[0].shape[1]
  pieces = jnp.arange(length).reshape(2 * devices, -1)
  order = jnp.stack([pieces[:devices], pieces[devices:][::-1]], 1).reshape(-1)
  return jax.tree.map(lambda x: x[:, order], batch)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend_ring(devices: int, score: Scores, q, k, v, rule: Rule):
  """As `attention.attend`, of this device's tokens: q [b n h d], k and v [b g n d], rule i32[b n] each -> [b n h d].

  Inside a shard_map over AXIS of so many devices.
  """
  return _forward(devices, score, q, k, v, rule)[0]


def _next(devices: int, *trees):
  """What the device before has."""
  around = [(n, (n + 1) % devices) for n in range(devices)]
  return jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, around), trees)


def _forward(devices, score, q, k, v, rule):
  length = q.shape[1]
  q, k, v = by_blocks.head_first(q * score.factor(q.shape[-1]), k), by_blocks.padded(k), by_blocks.padded(v)

  def one(state, _):
    (out, log_sum), (k, v, keys) = state
    some, its = by_blocks.forward(score, q, k, v, by_blocks.blocks_of(rule, keys))
    its = jnp.where(its < 1e30, its, -1e30)                     # nothing seen
    both = jnp.logaddexp(log_sum, its)
    share = lambda one: jnp.exp(one - both)[..., None]
    out = out * share(log_sum) + some.astype(jnp.float32) * share(its)
    return ((out, both), _next(devices, k, v, keys)), None

  nothing = (jnp.zeros_like(q, jnp.float32), jnp.zeros_like(q[..., 0], jnp.float32) - 1e30)
  ((out, log_sum), _), _ = jax.lax.scan(one, (nothing, (k, v, rule)), length=devices)
  out, log_sum = out.astype(q.dtype), jnp.where(log_sum > -1e29, log_sum, 1e30)
  return by_blocks.tokens_first(out, length), (q, k, v, rule, out, log_sum)


def _backward(devices, score, kept, grad):
  q, k, v, rule, out, log_sum = kept
  length = grad.shape[1]
  grad, aside = by_blocks.gradients_of(grad, out)

  def one(state, _):
    dq, (k, v, keys, dk, dv) = state
    more = by_blocks.backward(score, q, k, v, by_blocks.blocks_of(rule, keys), grad, log_sum, aside)
    return (dq + more[0], _next(devices, k, v, keys, dk + more[1], dv + more[2])), None

  none = [jnp.zeros_like(x, jnp.float32) for x in (q, k, v)]
  (dq, (*_, dk, dv)), _ = jax.lax.scan(one, (none[0], (k, v, rule, *none[1:])), length=devices)
  return *by_blocks.finished(score, q, k, v, dq, dk, dv, length), jax.tree.map(lambda x: None, rule)


attend_ring.defvjp(_forward, _backward)
