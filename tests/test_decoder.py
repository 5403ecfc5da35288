"""The decoder's own properties: attention by the rule, rotary positions, grid embedding, embedded codes."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok import config as c
from unitok.models.attention import rotate, rotation
from unitok.models.decoder import REMAT, check
from unitok.models.rule import Rule
from unitok.optim import optimizer
from unitok.sequence import Batch
from unitok.steps import Language, decoder_state, decoder_step, know_codes, gradient_products
from unitok.vocab import make_vocabulary

OPTIONS = c.Decoder(layers=2, width=32, heads=4, kv_heads=2, hidden=48, grid_embedding=8)


def causal(b: int, l: int) -> Rule:
  order = jnp.tile(jnp.arange(l), (b, 1))
  return Rule(order, order, jnp.full((b, l), 2**30), jnp.ones((b, l), jnp.int32))


def test_equal_axes_give_the_one_dimensional_rotary_embedding():
  x = np.random.default_rng(0).normal(size=(1, 5, 1, 12)).astype(np.float32)
  positions = np.array([0, 3, 4, 9, 70])
  turned = rotate(jnp.asarray(x), *rotation(jnp.asarray(np.repeat(positions[None, :, None], 3, 2)), 12, 100.0))
  for n, position in enumerate(positions):
    for pair in range(6):
      angle = position * 100.0 ** (-pair / 6)
      a, b = x[0, n, 0, pair], x[0, n, 0, pair + 6]
      assert turned[0, n, 0, pair] == pytest.approx(a * np.cos(angle) - b * np.sin(angle), abs=1e-4)
      assert turned[0, n, 0, pair + 6] == pytest.approx(b * np.cos(angle) + a * np.sin(angle), abs=1e-4)


def started(language: Language, tx=None):
  """Its weights, or the whole state of its training."""
  return language.init(jax.random.key(0)) if tx is None else decoder_state(language, tx, jax.random.key(0))


def grid_positions(start: int):
  rows, columns = np.divmod(np.arange(6), 3)
  return jnp.asarray(np.stack([np.full(6, start), start + rows, start + columns], -1)[None])


def test_positions_are_relative_but_a_pictures_places_are_not():
  """Moving a whole document changes nothing; giving its tokens other rows does."""
  language = Language(OPTIONS, 50, ())
  params, ids = started(language), np.random.default_rng(1).integers(0, 50, (1, 6))
  logits = jax.jit(lambda positions: language.model(params)(ids, positions, causal(1, 6)))
  here, there = logits(grid_positions(2)), logits(grid_positions(9))
  np.testing.assert_allclose(here, there, atol=1e-4)
  other = grid_positions(2).at[0, 5, 1].add(1)
  assert np.abs(logits(other)[0, 5] - here[0, 5]).max() > 1e-2
  assert np.isfinite(logits(grid_positions(2).at[0, 5, 1].add(500))).all()   # past the table: its last row


def test_no_grid_embedding_has_no_such_weights():
  with_tables, without = (jax.eval_shape(Language(dataclasses.replace(OPTIONS, grid_embedding=n), 50, ()).init,
                                         jax.random.key(0)) for n in (8, 0))
  assert {"row", "column"} == set(with_tables) - set(without)


def test_unrolled_layers_are_the_same():
  """Outputs and gradients of the scanned layers, written out two at a time (of three, so that one is left over)."""
  options = dataclasses.replace(OPTIONS, layers=3)
  ids, rule = jnp.arange(12).reshape(1, 12) % 7, causal(1, 12)
  positions = jnp.tile(jnp.arange(12)[None, :, None], (1, 1, 3))

  def both(unroll):
    language = Language(dataclasses.replace(options, unroll=unroll), 100, ())
    out = lambda params: language.model(params)(ids, positions, rule)
    return jax.jit(jax.value_and_grad(lambda params: (out(params) ** 2).mean()))(started(language))

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), both(1), both(2))


@pytest.mark.parametrize("name", [name for name in REMAT if name != "none"])
def test_what_is_computed_again_is_the_same_and_not_kept(name):
  """Outputs and gradients; temporary bytes of the compiled gradient, of which a layer's own are the larger part here."""
  options = dataclasses.replace(OPTIONS, layers=4, hidden=256)
  ids, rule = jnp.arange(256).reshape(4, 64) % 7, causal(4, 64)
  positions = jnp.tile(jnp.arange(64)[None, :, None], (4, 1, 3))

  def both(name):
    language = Language(dataclasses.replace(options, remat=name), 100, ())
    params = started(language)
    loss = lambda params: (language.model(params)(ids, positions, rule) ** 2).mean()
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
    return compiled(params), compiled.memory_analysis().temp_size_in_bytes

  (kept, before), (again, after) = both("none"), both(name)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), again, kept)
  assert after < (0.5 if name == "layer" else 0.8) * before


def test_know_codes_puts_near_codes_near_and_leaves_the_rest():
  """Among the embeddings and among the head's columns."""
  vocabulary = make_vocabulary({"text": 10, "image": 16}, {})
  language = Language(OPTIONS, vocabulary.size, ())
  state = started(language, optimizer(c.Train()))
  vectors = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
  vectors[0] *= 2       # so that its own part is small beside it
  vectors[1] = vectors[0] + 0.01
  ids = vocabulary.block("image").table
  after = know_codes(state, ids, vectors, jax.random.key(1))
  others = np.setdiff1d(np.arange(vocabulary.size), ids)
  for table in (lambda params: np.asarray(params["embed"]["embedding"]), lambda params: np.asarray(params["head"]["kernel"].T)):
    before, now = table(state.params), table(after.params)
    np.testing.assert_array_equal(now[others], before[others])
    np.testing.assert_array_equal(now, table(after.extra["average"]))
    assert now[ids].std() == pytest.approx(before[ids].std(), rel=0.2)
    cosine = np.corrcoef(now[ids])
    assert cosine[0, 1] > 0.6 > np.abs(cosine[0, 2:]).mean()


def test_gradients_of_tasks_add_up():
  """Their parts sum to the gradient of the loss, so the entries of their inner products to its squared norm; and they are
  measured on every so many steps alone."""
  options = dataclasses.replace(OPTIONS, z_loss=0.0, gradients_every=2)
  language, tx = Language(options, 50, ("a/text", "b/text", "c/text")), optimizer(c.Train())
  rng, length = np.random.default_rng(0), 24
  order = np.tile(np.arange(length, dtype=np.int32), (2, 1))
  batch = Batch(inputs=rng.integers(0, 50, (2, length)), targets=rng.integers(0, 50, (2, length)),
                loss_weights=rng.random((2, length), np.float32), order=order, visible_from=order,
                visible_until=np.full_like(order, 2**30), segment_ids=np.ones_like(order),
                tasks=rng.integers(0, 2, (2, length)), positions=np.repeat(order[..., None], 3, -1).astype(np.float32))
  state = started(language, tx)
  gram = np.asarray(jax.jit(lambda p: gradient_products(language, p, batch))(state.params))
  grads = jax.jit(jax.grad(lambda p: language.loss(p, batch)[0]))(state.params)
  assert gram[:2, :2].sum() == pytest.approx(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)), rel=1e-4)
  assert not gram[2].any() and gram[0, 1] != 0
  step = jax.jit(lambda s: decoder_step(language, tx, s, batch, jax.random.key(1)))
  (_, first), (_, second) = step(state), step(state._replace(step=jnp.int32(1)))
  assert first["gradient_norm/a/text"].value() == pytest.approx(gram[0, 0]**0.5, rel=1e-4)
  assert first["gradient_cosine/a/text b/text"].value() == pytest.approx(gram[0, 1] / (gram[0, 0] * gram[1, 1])**0.5, rel=1e-3)
  assert not any(float(second[name].count) for name in second if name.startswith(("gradient_norm/", "gradient_cosine/")))
  assert not float(first["gradient_norm/c/text"].count) and len([k for k in first if k.startswith("gradient_cosine")]) == 3
  assert [first[f"share/{name}/text"].value() for name in "abc"] == pytest.approx(
      [float((batch.tasks == n).mean()) for n in range(3)])


def test_padding_is_counted():
  """A Mean over all tokens, so that batches merge: 3 of 16, then 5 of 16."""
  language, tx = Language(OPTIONS, 50, ("text/text",)), optimizer(c.Train())
  state, shares = started(language, tx), []
  step = jax.jit(lambda s, b: decoder_step(language, tx, s, b, jax.random.key(1)))
  for count in (3, 5):
    rule = causal(2, 8)
    padding = jnp.arange(16).reshape(2, 8) >= 16 - count
    batch = Batch(inputs=rule.order, targets=rule.order, loss_weights=jnp.where(padding, 0.0, 1.0), order=rule.order,
                  visible_from=rule.visible_from, visible_until=rule.visible_until,
                  segment_ids=jnp.where(padding, 0, 1), tasks=0 * rule.order, positions=jnp.stack([rule.order] * 3, -1))
    shares.append(step(state, batch)[1]["padding"])
  assert [share.value() for share in shares] == [3 / 16, 5 / 16] and (shares[0] + shares[1]).value() == 8 / 32


@pytest.mark.parametrize("change, word", [(dict(heads=5), "heads"), (dict(kv_heads=3), "kv_heads"), (dict(unroll=0), "unroll")])
def test_a_shape_that_cannot_be_built_is_named(change, word):
  with pytest.raises(ValueError, match=f"decoder.{word}"):
    check(dataclasses.replace(OPTIONS, **change))


def test_muon_orthogonalises_the_layers_and_leaves_the_rest_to_adamw():
  language = Language(OPTIONS, 50, ())
  params = started(language)
  train = c.Train(optimizer="muon", learning_rate=1.0, warmup_steps=0, steps=10, weight_decay=0.0, clip=1e9)
  tx = optimizer(train)
  grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
  updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  singular = np.linalg.svd(np.asarray(updates["layers"]["out"]["kernel"][0]), compute_uv=False)
  raw = np.linalg.svd(np.asarray(grads["layers"]["out"]["kernel"][0]), compute_uv=False)
  # five iterations leave the very smallest behind, so the lowest tenth is not asked
  assert singular[0] / singular[-4] < 3 < raw[0] / raw[-4]
  step = np.abs(updates["embed"]["embedding"])
  np.testing.assert_allclose(step, step.mean(), rtol=1e-2)   # Adam's first step is the sign, whatever the gradient


def random_batch(tasks: int, length: int = 24) -> Batch:
  rng, order = np.random.default_rng(0), np.tile(np.arange(length, dtype=np.int32), (2, 1))
  return Batch(inputs=rng.integers(0, 50, (2, length)), targets=rng.integers(0, 50, (2, length)),
               loss_weights=rng.random((2, length), np.float32), order=order, visible_from=order,
               visible_until=np.full_like(order, 2**30), segment_ids=np.ones_like(order),
               tasks=rng.integers(0, tasks, (2, length)), positions=np.repeat(order[..., None], 3, -1).astype(np.float32))


@pytest.mark.parametrize("train", [c.Train(warmup_steps=0), c.Train(warmup_steps=0, optimizer="muon")])
def test_a_step_that_is_not_finite_changes_nothing(train):
  """A target of infinite weight, or a gradient alone that overflows (its loss is finite): bits stay, the number goes on."""
  language = Language(dataclasses.replace(OPTIONS, train=train), 50, ("a/text", "b/image"))
  tx, batch = optimizer(train), random_batch(2)
  state = started(language, tx)
  step = jax.jit(lambda s, b: decoder_step(language, tx, s, b, jax.random.key(1)))
  good, metrics = step(state, batch)
  assert metrics["skipped"] == 0 and (good.params["head"]["kernel"] != state.params["head"]["kernel"]).any()
  weights = batch.loss_weights.copy()
  weights[0, 3] = np.inf
  steep = {**good.params, "norm": {"scale": jnp.full(32, 1e-37)}, "head": {"kernel": jnp.full((32, 50), 1e38)}}
  for before, some in ((good, batch._replace(loss_weights=weights)), (good._replace(params=steep), batch)):
    after, metrics = step(before, some)
    assert metrics["skipped"] == 1 and after.step == before.step + 1
    jax.tree.map(np.testing.assert_array_equal, after[1:], before[1:])
  assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["gradient_norm"])
