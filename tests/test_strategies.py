"""Decoding strategies: `jacobi` gives the sample of `sequential`, and groups cover the picture."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sampler import GREEDY, GRID, SOME, V, asked, filled, forward, language, legal, sampler, spy, to_draw

from unitok.config import Sampling
from unitok.models.rule import Rule
from unitok.objectives import DRAWING, OBJECTIVES
from unitok.objectives.codes import Codes
from unitok.objectives.parallel import SCHEDULES
from unitok.sampling import STRATEGIES
from unitok.sampling.groups import ORDERS, groups_of
from unitok.sampling.guidance import Guidance, guide
from unitok.sampling.rows import NEIGHBOURS
from unitok.sampling.rules import Repetition, rules_of
from unitok.sampling.strategy import first_drawn, in_groups
from unitok.sequence import build, without

ALONE = tuple(name for name in OBJECTIVES if name not in ("parallel", "refine"))
IMAGE = [block.name for block in V.blocks].index("image")
WINDOW = 5


def same(a, b) -> list[bool]:
  return [np.array_equal(x, y) for x, y in zip(a, b, strict=True)]


def all_ways(sampler, sampling: Sampling, documents, seed: int, nulls=None):
  """What jacobi, sequential in a program of the same shape, and sequential as it is draw."""
  ways = dict(jacobi=dict(strategy="jacobi", window=WINDOW), alike=dict(strategy="sequential", window=WINDOW),
              plain=dict(strategy="sequential"))
  return {name: sampler.run(documents, dataclasses.replace(sampling, **way), seed, nulls) for name, way in ways.items()}


@pytest.mark.parametrize("kinds, sampling", [
    (ALONE, Sampling(temperature=8.0)),
    (ALONE, Sampling(temperature=4.0, top_k=6, top_p=0.9, repetition_penalty=1.3)),
    (("text_to_image", "infill"), Sampling(temperature=8.0, guidance_scale=2.5)),
    (("text_to_image", "infill"), Sampling(temperature=6.0, guidance_scale=2.5, top_k=7, min_p=0.01, guesses="left",
                                           guidance_schedule="linear"))])
def test_jacobi_is_sequential(sampler, kinds, sampling):
  """Over many keys (a row's number and the seed are its key), objectives, guidance and rules: the same ids, in fewer
  passes; each row goes on at its own rate."""
  seeds = range(24 // len(kinds) + 1)
  documents = [to_draw(name, seed, length=None if len(kinds) > 2 else 4) for seed in seeds for name in kinds]
  nulls = [to_draw(name, seed, length=4, null=True) for seed in seeds for name in kinds] if len(kinds) == 2 else None
  assert len(documents) >= 24
  for seed in range(2):
    found = all_ways(sampler, sampling, documents, seed, nulls)
    jacobi, alike, plain = (found[name] for name in ("jacobi", "alike", "plain"))
    assert all(same(jacobi.ids, alike.ids)) and all(same(alike.ids, plain.ids))
    assert (jacobi.passes <= alike.passes).all() and (alike.passes <= plain.passes).all()
    share = jacobi.passes.sum() / alike.passes.sum()
    assert 2 / (WINDOW + 1) < share < 0.9 and len(set(jacobi.passes / alike.passes)) > 5, share


def test_guesses_that_are_all_right_are_all_kept(sampler):
  """Where the noise alone decides, one pass tells every draw of a window; the next one finds them right."""
  document = to_draw("text_to_image", 3)
  even = dataclasses.replace(Sampling(temperature=1e6), strategy="jacobi", window=WINDOW)
  drawn = sampler.run([document], even, 0)
  assert same(drawn.ids, sampler.draw([document], Sampling(temperature=1e6), 0)) == [True]
  assert drawn.passes.tolist() == [3]      # behind the prefix, which keeps one: 5 that it guessed, 1, 5


def test_greedy_jacobi_is_greedy(sampler):
  """Boxes included, whose likeliest bin is found among its neighbours."""
  documents = [to_draw(name, seed) for seed in range(2) for name in ALONE]
  for guesses in NEIGHBOURS:
    jacobi = dataclasses.replace(GREEDY, strategy="jacobi", window=WINDOW, guesses=guesses)
    assert all(same(sampler.draw(documents, jacobi, 0), sampler.draw(documents, GREEDY, 0)))


def test_jacobi_is_the_same_whatever_the_batch(sampler):
  """Ids and passes of a row do not depend on its neighbours."""
  documents, jacobi = [to_draw(name, 1) for name in SOME], Sampling(temperature=8.0, strategy="jacobi", window=WINDOW)
  together = sampler.run(documents, jacobi, 7)
  for n in (0, 3):
    alone = sampler.run(documents[n:n + 1], jacobi, 7, first_row=n)
    assert same(alone.ids, together.ids[n:n + 1]) == [True] and alone.passes[0] == together.passes[n]
  shorter = sampler.run(documents, dataclasses.replace(jacobi, window=3), 7)
  one = sampler.run(documents, dataclasses.replace(jacobi, window=1), 7)
  assert all(same(shorter.ids, together.ids)) and all(same(one.ids, together.ids))
  assert shorter.passes.sum() > together.passes.sum()


def test_what_is_drawn_goes_to_the_next_token():
  """The columns of a window rest on this, in every document that is drawn code by code."""
  for name in ALONE:
    for seed in range(4):
      document = to_draw(name, seed)
      at = asked(document)
      fills = document.fills[at]
      inside = fills < document.length
      assert not in_groups(document) and np.array_equal(fills[inside], at[inside] + 1)
      assert set(np.flatnonzero(document.inputs < 0)) == set(fills[inside])


@pytest.mark.parametrize("name, options", [("text_to_image", {}), ("text_to_image", dict(row_ends=True)),
                                           ("text_to_image", dict(training_grid=2)), ("infill", {}), ("interleaved", {})])
def test_the_place_above(name, options):
  """A first guess is copied from the place above; in a first row from the token before."""
  document = to_draw(name, 1) if not options else build(OBJECTIVES[name](
      Codes((np.arange(3, dtype=np.int32),), np.full(GRID, -1, np.int32)), np.random.default_rng(0),
      dataclasses.replace(DRAWING, **options)), V)
  back, found = NEIGHBOURS["above"](document, IMAGE), 0
  scale = 0.5 if "training_grid" in options else 1
  for at in np.flatnonzero(document.inputs < 0):
    t, row, column = document.positions[at]
    if back[at] > 1:
      np.testing.assert_allclose(document.positions[at - back[at]], (t, row - scale, column))
      assert document.visible_until[at - back[at]] > document.order[at - back[at]]
      found += 1
    elif name == "text_to_image":
      assert row == t
  assert found >= (7 if name == "text_to_image" else 2)      # the last code of twelve is no input
  assert np.array_equal(NEIGHBOURS["left"](document, IMAGE), np.ones(document.length))


def test_each_row_extends_at_a_place_of_its_own():
  """`Decoder.extend` with a slot for each row is the one with a number, row by row."""
  model, params = language()
  decoder, rng = model.model(params), np.random.default_rng(0)
  ids = rng.integers(0, V.size, (3, 10)).astype(np.int32)
  order = np.arange(10, dtype=np.int32)[None].repeat(3, 0)
  rule = Rule(**{name: {"order": order, "visible_from": order, "visible_until": np.full_like(order, 99),
                        "segment_ids": np.ones_like(order)}[name] for name in Rule._fields})
  positions = np.repeat(order[..., None], 3, -1).astype(np.float32)
  cut = lambda x, at: np.stack([row[one:one + 3] for row, one in zip(x, at)])
  filled_to_six, starts = [decoder.empty_cache(3, 10)], np.array([2, 5, 3], np.int32)
  _, cache = decoder.extend(ids[:, :6], positions[:, :6], Rule(*(x[:, :6] for x in rule)), filled_to_six[0], rule, 0)
  hidden, new = decoder.extend(cut(ids, starts), cut(positions, starts), Rule(*(cut(x, starts) for x in rule)), cache, rule,
                               jnp.asarray(starts))
  for row, at in enumerate(starts):
    one = lambda x: jax.tree.map(lambda a: a[row:row + 1], x)
    alone, of = decoder.extend(ids[row:row + 1, at:at + 3], positions[row:row + 1, at:at + 3],
                               Rule(*(x[row:row + 1, at:at + 3] for x in rule)), one(cache), one(rule), int(at))
    np.testing.assert_allclose(hidden[row], alone[0], atol=1e-5)
    for a, b in zip(jax.tree.leaves(one(new)), jax.tree.leaves(of)):
      np.testing.assert_allclose(a, b, atol=1e-6)


# ---- groups

@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", SCHEDULES)
def test_groups_cover_what_is_to_be_drawn(order, sizes):
  """Each place once, in as many groups as passes, of the sizes asked for; kept places in none; the seed chooses."""
  rng, hole = np.random.default_rng(0), np.ones((6, 8), bool)
  for places in (hole, rng.random((6, 8)) < 0.6):
    for passes in (1, 5, places.sum()):
      how = Sampling(passes=int(passes), group_order=order, group_sizes=sizes)
      groups = groups_of(places, how, 3)
      assert np.array_equal(groups >= 0, places)
      assert np.array_equal(np.bincount(groups[places]), SCHEDULES[sizes](places.sum(), passes))
      assert np.array_equal(groups, groups_of(places, how, 3))
  other = [groups_of(hole, Sampling(passes=8, group_order=order, group_sizes=sizes), seed) for seed in (0, 1)]
  assert np.array_equal(*other) == (order in ("raster", "halton"))


def test_orders_are_what_they_are_called():
  """Raster by rows; the first eight of Halton in eight rows and columns; those of a group by locality farther apart than
  by chance, and nearer to what was drawn."""
  groups = lambda order, passes, seed=0: groups_of(np.ones((8, 8), bool), Sampling(
      passes=passes, group_order=order, group_sizes="uniform"), seed)
  assert np.array_equal(groups("raster", 64), np.arange(64).reshape(8, 8))
  first = np.argwhere(groups("halton", 8) == 0)
  assert [len(set(axis)) for axis in first.T] == [8, 8]
  apart, near = {}, {}
  for order in ("random", "locality"):
    apart[order], near[order] = [], []
    for seed in range(8):
      numbers = groups(order, 8, seed)
      for group in range(1, 8):
        here, before = np.argwhere(numbers == group), np.argwhere(numbers < group)
        far = np.linalg.norm(here[:, None] - here, axis=-1) + 99 * np.eye(len(here))
        apart[order].append(far.min(1).mean())
        near[order].append(np.linalg.norm(here[:, None] - before, axis=-1).min(1).mean())
  assert np.mean(apart["locality"]) > 1.05 * np.mean(apart["random"]), apart
  assert np.mean(near["locality"]) < np.mean(near["random"]) + 0.01


def test_groups_take_as_many_passes(sampler):
  """Seven behind the prefix, which asks for the first group; a document without groups comes out as by `sequential`."""
  document = lambda passes, order: build(OBJECTIVES["parallel"](
      Codes((np.arange(3, dtype=np.int32),), np.full(GRID, -1, np.int32), groups=groups_of(
          np.ones(GRID, bool), Sampling(passes=passes, group_order=order), 1)), np.random.default_rng(0), DRAWING), V)
  for passes, order in ((8, "halton"), (3, "locality"), (1, "random")):
    assert sampler.run([document(passes, order)], Sampling(strategy="groups"), 0).passes.tolist() == [passes - 1]
  documents = [to_draw(name, 2) for name in SOME]
  warm = Sampling(temperature=8.0)
  grouped = sampler.draw(documents, dataclasses.replace(warm, strategy="groups"), 0)
  assert all(same(grouped, sampler.draw(documents, warm, 0)))


# ---- logit rules and guidance

def test_repetition():
  """A positive logit is divided, a negative one multiplied; what was not drawn stays."""
  logits = jnp.array([[2.0, -2.0, 4.0, -jnp.inf]])
  assert Repetition(2.0)(logits, jnp.array([[True, True, False, True]])).tolist() == [[1.0, -4.0, 4.0, -np.inf]]
  assert rules_of(Sampling()) == rules_of(Sampling(repetition_penalty=1.0)) and len(rules_of(Sampling())) == 1


@pytest.mark.parametrize("strategy", ["sequential", "jacobi", "groups"])
def test_what_was_drawn_before_is_less_likely(sampler, strategy):
  """Each draw is the likeliest of the penalised logits of one uncached pass, by any strategy; codes of a pass do not know
  of each other."""
  often = dataclasses.replace(GREEDY, repetition_penalty=1.5, strategy=strategy)
  documents = [to_draw("parallel" if strategy == "groups" else "text_to_image", seed) for seed in range(3)]
  drawn = sampler.draw(documents, often, 0)
  for document, ids in zip(documents, drawn):
    logits, at_draws = forward(sampler, filled(document, ids)[0]), asked(document)
    for at, one in zip(at_draws, ids, strict=True):
      seen = np.isin(np.arange(V.size), ids[document.fills[at_draws] <= at])
      x = np.where(seen, np.where(logits[at] > 0, logits[at] / 1.5, logits[at] * 1.5), logits[at])
      assert one == np.where(legal(document, at), x, -np.inf).argmax()
  plain = sampler.draw(documents, dataclasses.replace(GREEDY, strategy=strategy), 0)
  assert not all(same(drawn, plain))


def test_guidance_of_text_and_picture_apart(spy):
  """u + 1.5 (i - u) + 2.5 (c - i) at every place of a hole, with what was drawn so far."""
  sampler, seen = spy
  image = V.allowed("image")
  documents = [to_draw("infill", seed, length=4) for seed in range(3)]
  nulls = [to_draw("infill", seed, length=4, null=True) for seed in range(3)]
  empties = [without(d, (np.arange(d.length) < first_drawn(d)) & image[np.maximum(d.inputs, 0)]) for d in nulls]
  assert all(len(e.inputs) < len(n.inputs) and len(asked(e)) == len(asked(n)) for e, n in zip(empties, nulls))
  three = dataclasses.replace(GREEDY, guidance_scale=2.5, image_guidance_scale=1.5)
  drawn = sampler.draw(documents, three, 0, nulls, empties=empties)
  jax.effects_barrier()
  for row, (*kinds, ids) in enumerate(zip(documents, nulls, empties, drawn)):
    c, i, u = (forward(sampler, filled(d, ids)[0])[asked(d)] for d in kinds)
    begins = asked(documents[row])[0]
    found = np.stack([seen[at - begins][row] for at in asked(documents[row])])
    np.testing.assert_allclose(found, u + 1.5 * (i - u) + 2.5 * (c - i), atol=2e-3)
  with pytest.raises(ValueError, match="image_guidance_scale: guidance needs the documents without text and picture"):
    sampler.draw(documents, three, 0, nulls)
  two = dataclasses.replace(GREEDY, guidance_scale=2.5)
  assert Guidance(2.5, 1.0).documents == 2 and all(same(
      sampler.draw(documents, two, 0, nulls), sampler.draw(documents, two, 0, nulls, empties=empties)))


def test_schedules_and_intervals_of_guidance():
  """Nothing outside the interval, exactly; from 1 on it grows to the whole scale; constant is the plain formula."""
  rng = np.random.default_rng(0)
  c, u = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32), jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
  done = jnp.array([[0.0, 0.25, 0.5, 0.75]] * 2)
  both = jnp.concatenate([c, u])
  assert np.array_equal(Guidance(3.0)(both, done), guide(c, u, 3.0))
  assert np.array_equal(Guidance(1.0)(c, done), c)
  part = Guidance(3.0, interval=(0.25, 0.75))(both, done)
  assert np.array_equal(part[:, [0, 3]], c[:, [0, 3]])
  np.testing.assert_allclose(part[:, 1:3], (u + 3 * (c - u))[:, 1:3], atol=1e-5)
  grown = Guidance(3.0, schedule="linear")(both, done)
  assert np.array_equal(grown[:, 0], c[:, 0])
  for n, scale in enumerate((1, 1.5, 2, 2.5)):
    np.testing.assert_allclose(grown[:, n], (u + scale * (c - u))[:, n], atol=1e-5)
  round_one = Guidance(3.0, schedule="cosine")(both, done)
  np.testing.assert_allclose(round_one[:, 2], (u + 2 * (c - u))[:, 2], atol=1e-5)
