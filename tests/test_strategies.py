"""Decoding strategies: `jacobi` gives the sample of `sequential`, and groups cover the picture."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sampler import GREEDY, GRID, SOME, V, asked, filled, forward, in_rows, language, legal, sampler, spy, to_draw

from unitok.config import Sampling
from unitok.models import decoder
from unitok.models.rule import Rule
from unitok.objectives import DRAWING, OBJECTIVES
from unitok.objectives.codes import Codes, control
from unitok.objectives.parallel import SCHEDULES
from unitok.sampling import rows as layout
from unitok.sampling.by_rows import by_rows
from unitok.sampling.groups import GROUPS, ORDERS, groups_of
from unitok.sampling.guidance import Guidance, guide
from unitok.sampling.rows import NEIGHBOURS
from unitok.sampling.rules import Repetition, rules_of
from unitok.sampling.sampler import Watch
from unitok.sampling.strategy import Placed, first_drawn, in_groups, one_by_one
from unitok.sequence import Part, build, visible, without

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


def test_jacobi_guided_by_text_and_picture_apart(sampler):
  """Three documents for one that is drawn: as above."""
  documents = [to_draw("infill", seed, length=4) for seed in range(6)]
  nulls = [to_draw("infill", seed, length=4, null=True) for seed in range(6)]
  of_picture = lambda d: (np.arange(d.length) < asked(d)[0]) & V.allowed("image")[np.maximum(d.inputs, 0)]
  empties = [without(d, of_picture(d)) for d in nulls]
  sampling = Sampling(temperature=6.0, guidance_scale=2.5, image_guidance_scale=1.5)
  found = [sampler.run(documents, dataclasses.replace(sampling, **way), 3, nulls, empties=empties) for way in (
      dict(strategy="jacobi", window=WINDOW), dict(strategy="sequential", window=WINDOW), dict(strategy="sequential"))]
  assert all(same(found[0].ids, found[1].ids)) and all(same(found[0].ids, found[2].ids))
  assert found[0].passes.sum() < found[2].passes.sum()


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


def test_passes_are_as_wide_as_they_need_to_be(sampler, monkeypatch):
  """Columns of each pass by hand: codes that were drawn before, and placeholders, from which alone is drawn; the ids do not
  depend on how many columns a pass has, nor on where one stops to be watched."""
  document = lambda words, grid, passes: build(OBJECTIVES["parallel"](
      Codes((np.arange(words, dtype=np.int32),), np.full(grid, -1, np.int32), groups=groups_of(
          np.ones(grid, bool), Sampling(passes=passes), words)), np.random.default_rng(0), DRAWING), V)
  runs_of = lambda some: layout.runs_of([Placed(d, GROUPS.passes(d)) for d in some])
  assert runs_of([document(3, (8, 8), 8)]) == [(1, 1, 1), (6, 4, 2), (12, 8, 1), (24, 12, 2), (28, 14, 2)]
  plain = [Placed(d, one_by_one(d)) for d in (to_draw("text_to_image", 0), to_draw("infill", 1))]
  assert layout.runs_of(plain, 8) == [(1, 1, 16)]
  documents = [document(words, GRID, 5) for words in range(4)]
  warm, stops = Sampling(temperature=8.0), []
  found = [sampler.draw(documents, warm, 0), sampler.draw(documents, warm, 0, watch=Watch(stops.append, 2))]
  runs = [runs_of(documents)]
  monkeypatch.setattr(layout, "LOOPS", 1)
  found.append(sampler.draw(documents, warm, 0))
  runs.append(runs_of(documents))
  columns = [sum(run.width * run.passes for run in some) for some in runs]
  assert len(runs[0]) > 2 >= len(runs[1]) and columns[0] < columns[1] and len(stops) == 2
  assert all(same(found[0], found[1])) and all(same(found[0], found[2]))


def test_the_cache_has_no_room_for_placeholders(sampler, monkeypatch):
  """Slots for the prefix, what is drawn and one pass; where a row draws code by code, its own; the ids are those of a cache
  with a slot for each column."""
  engine, laid_out = layout.in_slots, []
  monkeypatch.setattr("unitok.sampling.sampler.in_slots", lambda *given: laid_out.append(engine(*given)) or laid_out[-1])
  grid = (8, 8)
  document = lambda words: build(OBJECTIVES["parallel"](Codes(
      (np.arange(words, dtype=np.int32),), np.full(grid, -1, np.int32), groups=groups_of(
          np.ones(grid, bool), Sampling(passes=8), words)), np.random.default_rng(0), DRAWING), V)
  alone, mixed = [document(words) for words in range(4)], [document(1), to_draw("text_to_image", 2), to_draw("refine", 3)]
  warm = Sampling(temperature=8.0, text_attention=0.5)
  found = [sampler.draw(some, warm, 0) for some in (alone, mixed)]
  (rows, others), widest = laid_out, 28       # 13 codes of the seventh group, 14 placeholders, rounded up
  assert len(rows.holds) <= -(-(16 + 64 + widest) // 16) * 16 < rows.ids.shape[1] - 30
  assert len(others.holds) <= others.ids.shape[1] + 15
  for row in others.rule.segment_ids[:, others.holds]:
    assert row.any()
  monkeypatch.setattr("unitok.sampling.sampler.in_slots", lambda rows, *given: rows)
  for some, ids in zip((alone, mixed), found):
    assert all(same(ids, sampler.draw(some, warm, 0)))


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


# ---- by confidence

def at_once(seed: int, null: bool = False, hole: bool = False):
  """A document of `parallel` with one group: a whole picture, or a part."""
  return regrouped(seed, np.zeros(GRID, int), null, hole)


def regrouped(seed: int, groups: np.ndarray, null: bool = False, hole: bool = False, codes: np.ndarray | None = None):
  """The same in those groups, and `codes` where they are known."""
  rng = np.random.default_rng(seed)
  words, image = rng.integers(0, 20, 4).astype(np.int32), rng.integers(0, 30, GRID).astype(np.int32)
  kept = (rng.random(GRID) < 0.4) & hole
  image = np.where(kept, image, -1 if codes is None else codes).astype(np.int32)
  return build(OBJECTIVES["parallel"](Codes((words[:0 if null else 4],), image, groups=np.where(kept, -1, groups)), rng,
                                      DRAWING), V)


SURE = dataclasses.replace(GREEDY, strategy="maskgit", passes=4, choice_temperature=0.0)


def test_maskgit_keeps_what_it_is_surest_of(sampler):
  """With and without guidance, of whole pictures and of holes side by side: each pass draws from the logits of one uncached
  pass over the document whose groups are those that stayed so far and, last, all that is left; the surest stay."""
  for scale in (1.0, 2.5):
    how = [dict(seed=seed, hole=seed % 2 == 1) for seed in range(4)]
    documents, nulls = [at_once(**one) for one in how], [at_once(**one, null=True) for one in how]
    drawn = sampler.run(documents, dataclasses.replace(SURE, guidance_scale=scale), 0, nulls)
    assert drawn.passes.tolist() == [3] * 4
    for one, document, ids in zip(how, documents, drawn.ids):
      places = np.rint(document.positions[document.fills >= 0]).astype(int)
      rows, columns = places[:, 1] - places[:, 0], places[:, 2] - places[:, 0]
      known, groups = np.full(GRID, -1), np.full(GRID, 9)
      for turn, size in enumerate(SCHEDULES["cosine"](len(ids), 4)):
        left = groups[rows, columns] == 9
        both = []
        for null in (False, True):
          part = regrouped(**one, null=null, groups=groups, codes=np.where(groups < 9, known, -1))
          both.append(forward(sampler, part._replace(inputs=np.maximum(part.inputs, 0)))[part.fills >= 0])
        logits = np.where(V.allowed("image"), guide(both[0], both[1], scale), -np.inf)
        assert len(logits) == left.sum()
        sure = np.asarray(jax.nn.log_softmax(logits, -1)).max(-1)
        stay = np.flatnonzero(left)[np.argsort(-sure, kind="stable")[:size]]
        assert np.array_equal(ids[stay], logits.argmax(-1)[np.argsort(-sure, kind="stable")[:size]])
        groups[rows[stay], columns[stay]] = turn
        known[rows[stay], columns[stay]] = V.to_codes("image", ids[stay])
      assert (groups[rows, columns] < 4).all()


def test_one_pass_of_maskgit_is_one_of_groups(sampler):
  """The same ids for the same key; with more passes it takes as many, no more than there are places, whatever the batch."""
  warm = Sampling(temperature=8.0, guidance_scale=2.0)
  documents, nulls = ([at_once(seed, null, hole=seed > 1) for seed in range(4)] for null in (False, True))
  once = sampler.run(documents, dataclasses.replace(warm, strategy="maskgit", passes=1), 5, nulls)
  assert all(same(once.ids, sampler.draw(documents, dataclasses.replace(warm, strategy="groups"), 5, nulls)))
  assert once.passes.tolist() == [0] * 4
  often = dataclasses.replace(warm, strategy="maskgit", passes=12, repetition_penalty=1.3)
  looks = []
  all_drawn = sampler.run(documents, often, 5, nulls, watch=Watch(lambda so_far: looks.append(so_far.ids), 2))
  counts = [len(asked(d)) for d in documents]
  assert all_drawn.passes.tolist() == [count - 1 for count in counts] and counts[0] == 12 > counts[3]
  assert [len(ids) for ids in all_drawn.ids] == counts and not any(same(all_drawn.ids, once.ids))
  for ids in all_drawn.ids:
    V.image_codes(ids)
  for look in looks:        # what stays is not drawn again
    assert all(np.isin(part, [-1, *whole]).all() and np.array_equal(part[part >= 0], whole[:len(part)][part >= 0])
               for part, whole in zip(look, all_drawn.ids))
  assert [(look[0] >= 0).sum() for look in looks] == [1, 3, 5, 7, 9, 11]
  alone = sampler.run(documents[3:], often, 5, nulls[3:], first_row=3)
  assert same(alone.ids, all_drawn.ids[3:]) == [True]


def test_what_maskgit_cannot_draw(sampler):
  for name in ("text_to_image", "image_to_text", "parallel"):
    with pytest.raises(ValueError, match="sampling.strategy: maskgit draws pictures whose codes are all asked for at once"):
      sampler.draw([to_draw(name, 1)], SURE, 0)
  with pytest.raises(ValueError, match="sampling.passes: 0 must be 1 or more for the strategy maskgit"):
    sampler.draw([at_once(0)], dataclasses.replace(SURE, passes=0), 0)


# ---- by rows

def test_rows_with_a_window_of_a_whole_row_are_sequential(sampler):
  """The same ids, passes and key, of pictures, holes and texts, with guidance; a hole takes no more passes."""
  kinds = ("text_to_image", "infill", "image", "layout")
  documents, nulls = ([to_draw(name, seed, length=4, null=null) for seed in range(4) for name in kinds[:2]]
                      for null in (False, True))
  for sampling, some, without_text in (
      (Sampling(temperature=8.0), [to_draw(name, seed) for seed in range(4) for name in (*kinds, "image_to_text")], None),
      (Sampling(temperature=6.0, guidance_scale=2.5, repetition_penalty=1.2), documents, nulls)):
    rows = sampler.run(some, dataclasses.replace(sampling, strategy="rows", row_window=GRID[1]), 3, without_text)
    plain = sampler.run(some, sampling, 3, without_text)
    assert all(same(rows.ids, plain.ids)) and (rows.passes <= plain.passes).all()
    assert rows.passes[0] == plain.passes[0] and (rows.passes < plain.passes).any()


def test_passes_of_rows():
  """A place comes behind the one left of it and behind its window of the rows above; a row end asks for the next row, or a
  stand-in does, which nobody else sees; every token is there as soon as its id is."""
  hole = np.array([[0, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0]], bool)
  options = [dataclasses.replace(DRAWING, row_ends=row_ends, training_grid=grid) for row_ends in (False, True) for grid in (0, 3)]
  for places, window, kinds, passes in (
      *((np.ones((3, 6), bool), 2, one, [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7], [4, 5, 6, 7, 8, 9]]) for one in options),
      (np.ones((3, 6), bool), 0, options[0], [[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8], [6, 7, 8, 9, 10, 11]]),
      (np.ones((2, 4), bool), 1, options[0], [[0, 1, 2, 3], [1, 2, 3, 4]]),
      (np.ones((1, 5), bool), 2, options[0], [[0, 1, 2, 3, 4]]),
      (hole, 2, options[1], [[-1, 0, 1, -1, -1, 2], [3, 4, 5, 6, 7, 8], [5, 6, -1, 8, 9, -1]])):
    codes = Codes((np.arange(3, dtype=np.int32),), np.where(places, -1, 7).astype(np.int32))
    document = build(OBJECTIVES["infill" if not places.all() else "text_to_image"](
        codes, np.random.default_rng(0), kinds), V)
    one = by_rows(document, Sampling(row_window=window), IMAGE)
    new, first = one.document, first_drawn(one.document)
    at = asked(new)
    assert one.passes[at - first].tolist() == np.array(passes)[places].tolist()
    assert np.array_equal(new.blocks[at], document.blocks[asked(document)])
    stand = one.also[one.also >= 0] if one.also is not None else np.zeros(0, int)
    assert len(stand) == (0 if kinds.row_ends or len(places) == 1 else 1 if not places.all() else len(places) - 1)
    see = visible(new.order, new.visible_from, new.visible_until, np.ones_like(new.order))
    plain = visible(document.order, document.visible_from, document.visible_until, np.ones_like(document.order))
    ours = np.setdiff1d(np.arange(new.length), stand)
    assert np.array_equal(see[np.ix_(ours, ours)], plain) and not see[np.ix_(ours, stand)].any()
    for token in stand:
      assert np.array_equal(see[token, ours], plain[ours.searchsorted(token) - 1] & (ours != token - 1)) and see[token, token]
      assert np.array_equal(new.positions[token], new.positions[token - 1]) and new.fills[token - 1] == -1 < new.fills[token]
      copied = np.flatnonzero(one.also == token)[0]
      assert one.passes[copied - first] < one.passes[token - first] <= one.passes[token - 1 - first]
      assert new.positions[new.fills[copied], 1] == new.positions[token, 1]
    inside = at[new.fills[at] < new.length]
    assert (one.passes[new.fills[inside] - first] == one.passes[inside - first] + 1).all()


def test_rows_see_what_is_drawn_so_far(spy):
  """Each draw is from the logits of an uncached pass with the visibility of code by code, less what is not drawn yet."""
  sampler, seen = spy
  documents = [to_draw(name, seed) for seed in range(2) for name in ("text_to_image", "infill")]
  by = dataclasses.replace(GREEDY, strategy="rows", row_window=1)
  drawn = sampler.run(documents, by, 0)
  jax.effects_barrier()
  assert len(seen) == drawn.passes.max() + 1 and drawn.passes[0] == 5      # 3 rows of 4: 0 .. 3, 1 .. 4, 2 .. 5
  stand_ins = 0
  for row, (document, ids) in enumerate(zip(documents, drawn.ids)):
    one = by_rows(document, by, IMAGE)
    new, first = one.document, first_drawn(document)
    at, inputs = asked(new), new.inputs.copy()
    inside = new.fills[at] < new.length
    inputs[new.fills[at][inside]] = ids[inside]
    if one.also is not None:
      copies = np.flatnonzero(one.also >= 0)
      inputs[one.also[copies]], stand_ins = ids[np.searchsorted(at, copies)], stand_ins + len(copies)
    assert (inputs >= 0).all()
    when = np.append(np.full(first, -1), one.passes)
    see = visible(new.order, new.visible_from, new.visible_until, np.ones_like(new.order)) & (when <= when[:, None])
    pad = lambda x: np.pad(x, ((0, 40 - new.length), *[(0, 0)] * (x.ndim - 1)))
    see = np.pad(see, (0, 40 - new.length)) | np.eye(40, dtype=bool)
    logits = np.asarray(masked(sampler.language, sampler.params, pad(inputs), pad(new.positions), see))
    for token, code in zip(at, ids):
      behind = at[(when[at] == when[token]) & (at >= token)]
      np.testing.assert_allclose(in_rows(seen[when[token]], 4)[row, -len(behind)], logits[token], atol=1e-4)
      assert code == np.where(V.allowed("image"), logits[token], -np.inf).argmax()
  assert stand_ins >= 4


@functools.partial(jax.jit, static_argnums=0)
def masked(language, params, inputs, positions, see):
  """f32[l v] of the uncached model with bool[l l] `see`."""
  def attend(q, k, v, seen, _):
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[1], 1) for x in (k, v))
    scores = jnp.where(see, jnp.einsum("bqhd,bhkd->bhqk", q, k) / jnp.sqrt(q.shape[-1]), -jnp.inf)
    return jnp.einsum("bhqk,bhkd->bqhd", jax.nn.softmax(scores, -1), v)
  rule = Rule(*(np.ones((1, len(inputs)), np.int32) for _ in Rule._fields))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(decoder, "attend", attend)
    return language.model(params)(inputs[None], positions[None], rule)[0]


def test_what_rows_cannot_draw(sampler):
  with pytest.raises(ValueError, match="sampling.strategy: rows draws code by code, and a document asks for groups"):
    sampler.draw([to_draw("parallel", 0)], Sampling(strategy="rows"), 0)
  with pytest.raises(ValueError, match="sampling.row_window: 2 must be 0 for sequential; it goes with rows"):
    sampler.draw([to_draw("text_to_image", 0)], Sampling(row_window=2), 0)
  two = build([control("[boi]"), Part("image", np.full(GRID, -1, np.int32), 1.0)] * 2, V)
  with pytest.raises(ValueError, match="sampling.strategy: rows draws one picture of a document"):
    sampler.draw([two], Sampling(strategy="rows"), 0)
