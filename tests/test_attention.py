"""Attention by the rule: every implementation gives the same, forwards and backwards."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok import config as c
from unitok.models.attention import ATTENTION, Mask, attend, look
from unitok.models.block_attention import SIZE, Blocks, blocks_of
from unitok.models.rule import NOTHING, Rule, visible
from unitok.steps import Language

FOREVER = 2**30
BLOCKED = tuple(name for name in ATTENTION if name != "dense")


def rule_of(*rows) -> Rule:
  """Each row a list of (order, from, until, segment)."""
  return Rule(*(jnp.asarray(np.array([[token[n] for token in row] for row in rows], np.int32)) for n in range(4)))


def causal(length: int, segment: int = 1) -> list[tuple]:
  return [(n, n, FOREVER, segment) for n in range(length)]


def prefix(known: int, length: int, segment: int = 1) -> list[tuple]:
  return [(0, 0, FOREVER, segment)] * known + [(n + 1, n + 1, FOREVER, segment) for n in range(length - known)]


def placeholders(runs: int, length: int, segment: int = 1) -> list[tuple]:
  """A document of runs, each behind a token that nobody sees later."""
  row, order = [], 0
  for _ in range(runs):
    row.append((order, order, order, segment))
    row += [(order + 1 + n, order + 1 + n, FOREVER, segment) for n in range(length)]
    order += length + 1
  return row


PADDING = [tuple(NOTHING)]
RULES = {
    "causal": rule_of(causal(300)),
    "one block": rule_of(causal(5)),
    "prefix": rule_of(prefix(190, 300)),
    "packed": rule_of(causal(140) + prefix(100, 133, 2) + placeholders(3, 8, 3), causal(300, 7)),
    "padding in front and behind": rule_of(PADDING * 130 + causal(100) + PADDING * 70),
    "nothing": rule_of(PADDING * 200),
    "placeholders": rule_of(placeholders(20, 12)),
    "shuffled": rule_of([causal(400)[n] for n in np.random.default_rng(0).permutation(400)]),
}


def arrays(rule, heads: int = 4, groups: int = 2, dim: int = 8, dtype=jnp.float32):
  keys, (b, n) = jax.random.split(jax.random.key(1), 4), rule.order.shape
  q, out = (jax.random.normal(keys[i], (b, n, heads, dim), dtype) for i in (0, 3))
  k, v = (jax.random.normal(keys[i], (b, groups, n, dim), dtype) for i in (1, 2))
  return q, k, v, out


@jax.jit
def both_ways(q, k, v, seen, grad):
  out, back = jax.vjp(lambda *x: attend(*x, seen), q, k, v)
  return out, *back(grad)


def test_dense_equals_jax_with_the_same_mask():
  rule = rule_of(causal(9), prefix(4, 9))
  q, k, v, _ = arrays(rule)
  wanted = jax.nn.dot_product_attention(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask=visible(rule, rule)[:, None])
  np.testing.assert_allclose(attend(q, k, v, look(rule, "dense")), wanted, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", BLOCKED)
def test_every_implementation_equals_the_dense_one(kind, name):
  rule = RULES[name]
  q, k, v, grad = arrays(rule)
  for got, wanted in zip(both_ways(q, k, v, look(rule, kind), grad), both_ways(q, k, v, look(rule, "dense"), grad)):
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize("kind", BLOCKED)
def test_bfloat16_stays_within_its_rounding(kind):
  """Of outputs and gradients of some 1, bfloat16 keeps 8 bits: 0.4 %, a few of which add up."""
  rule = RULES["packed"]
  q, k, v, grad = arrays(rule, dtype=jnp.bfloat16)
  wanted = both_ways(*(x.astype(jnp.float32) for x in (q, k, v)), look(rule, "dense"), grad.astype(jnp.float32))
  for kind in (kind, "dense"):
    for got, exact in zip(both_ways(q, k, v, look(rule, kind), grad), wanted):
      assert got.dtype == jnp.bfloat16
      np.testing.assert_allclose(got.astype(jnp.float32), exact, atol=0.06)


@pytest.mark.parametrize("kind", ATTENTION)
def test_a_query_that_sees_nothing_gives_zeros_and_finite_gradients(kind):
  rule = rule_of(PADDING * 2 + causal(3) + PADDING)
  q, k, v, grad = arrays(rule)
  out, *grads = both_ways(q, k, v, look(rule, kind), grad)
  assert (np.asarray(out)[0, [0, 1, 5]] == 0).all() and (np.asarray(out)[0, 2] != 0).any()
  assert all(np.isfinite(x).all() for x in grads)


def test_blocks_that_nobody_sees_are_not_looked_at():
  """Of four documents of a block each, as many pairs of blocks; of a causal row, those on and under the diagonal."""
  blocks = blocks_of(rule_of([token for n in range(4) for token in causal(SIZE, n + 1)], causal(4 * SIZE)))
  assert blocks.count.tolist() == [[1, 1, 1, 1], [1, 2, 3, 4]] and blocks.seen.tolist() == [[1, 1, 1, 1], [4, 3, 2, 1]]
  assert blocks.keys[0, :, 0].tolist() == [0, 1, 2, 3] and sorted(blocks.keys[1, 3].tolist()) == [0, 1, 2, 3]


def test_what_is_not_looked_at_costs_nothing():
  """The loop really ends at the counts: with none, nothing is seen."""
  rule = RULES["causal"]
  q, k, v, _ = arrays(rule)
  blocks = blocks_of(rule)
  assert not np.asarray(attend(q, k, v, blocks._replace(count=blocks.count * 0))).any()


def test_rows_choose_by_their_length():
  short, long = (rule_of(causal(n)) for n in (511, 512))
  assert isinstance(look(short), Mask) and isinstance(look(long), Blocks)


@pytest.mark.parametrize("kind", BLOCKED)
def test_the_decoder_is_the_same_with_either(kind):
  options = c.Decoder(layers=2, width=32, heads=4, kv_heads=2, hidden=48, grid_embedding=8, attention="dense")
  rule = RULES["packed"]
  ids = jax.random.randint(jax.random.key(0), rule.order.shape, 0, 50)
  positions = jnp.repeat(rule.order[..., None] % 90, 3, -1)
  one, other = (Language(dataclasses.replace(options, attention=name), 50, ()) for name in ("dense", kind))
  params = one.init(jax.random.key(1))
  logits = [jax.jit(lambda p, model=model: model.model(p)(ids, positions, rule))(params) for model in (one, other)]
  np.testing.assert_allclose(*logits, atol=1e-4)


def test_memory_grows_with_the_length_not_with_its_square():
  """Temporary bytes of the compiled forward and backward pass: twice the tokens, twice the bytes."""
  def bytes_of(length):
    rule = rule_of(causal(length))
    q, k, v, grad = arrays(rule, 2, 1, 8)
    run = lambda *x: both_ways(x[0], x[1], x[2], look(rule, "blocks"), x[3])
    return jax.jit(run).lower(q, k, v, grad).compile().memory_analysis().temp_size_in_bytes

  assert bytes_of(4096) < 2.3 * bytes_of(2048)
