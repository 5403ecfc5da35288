"""The compiled sampler against the plain forward pass, and the attention rule against gradients."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok import config as c
from unitok.config import Sampling
from unitok.models import decoder
from unitok.models import rule as rules_of
from unitok.models.attention import Mask
from unitok.objectives import DRAWING, OBJECTIVES
from unitok.objectives.codes import Codes, control
from unitok.objectives.glm import blanks
from unitok.sampling import STRATEGIES, rules
from unitok.sampling import sampler as engine
from unitok.sampling.guidance import guide
from unitok.sampling.sampler import Sampler
from unitok.sequence import FOREVER, PADDING, Batch, build, visible
from unitok.steps import Language
from unitok.vocab import make_vocabulary

V = make_vocabulary({"text": 20, "image": 30, "location": 1024}, {})
LOCATION, BINS = 3, V.block("location").ranges[0]
GRID, LIMIT, ROW = (3, 4), 7, 96
GREEDY = Sampling(temperature=0.0)


def language(layers: int = 2, sharpness: float = 30.0, **switches):
  """(Language, params) with random weights whose predictions are far from even."""
  options = c.Decoder(layers=layers, width=16, heads=2, kv_heads=1, hidden=16, rope_base=100.0, **switches)
  model = Language(options, V.size, tuple(OBJECTIVES), image=V.image)
  params = jax.jit(model.init)(jax.random.key(5))
  params["head"]["kernel"] = params["head"]["kernel"] * sharpness
  return model, params


@pytest.fixture(scope="module")
def sampler():
  return Sampler(*language(), V)


def to_draw(name: str, seed: int, length: int | None = None, null: bool = False):
  """A document of the objective with something to draw. null: the same without its caption."""
  rng = np.random.default_rng(seed)
  words = rng.integers(0, 20, rng.integers(0, 6) if length is None else length).astype(np.int32)
  image = rng.integers(0, 30, GRID).astype(np.int32)
  unknown = np.full(LIMIT, -1, np.int32)
  groups = None
  boxes = rng.integers(0, 1024, (2, 4)).astype(np.int32)
  objects = ((words[:1], boxes[0]), (words[1:], boxes[1]))
  if name in ("text_to_image", "image", "pair", "parallel", "refine", "layout"):
    codes = Codes((words,), np.full(GRID, -1, np.int32), coarse=image[:2, :2])
    groups = rng.integers(-1, 4, GRID) if name in ("parallel", "refine") else None     # -1: a kept code
    if groups is not None:
      groups.flat[0] = 0
      codes = codes._replace(image=np.where(groups < 0, image, codes.image), groups=groups)
  elif name == "infill":
    hole = rng.random(GRID) < 0.5
    hole[0, 0], hole[1, 1] = False, True
    codes = Codes((words,), np.where(hole, np.int32(-1), image))
  elif name == "glm_spans":
    codes = Codes((np.concatenate([words, unknown[:4], words[:2], [3], unknown[:3], words]),), image if seed % 2 else None)
  elif name == "glm_sentences":
    codes = Codes((np.concatenate([words, unknown[:3]]), unknown[:4], np.array([3], np.int32)), image if seed % 2 else None)
  else:
    codes = Codes((unknown if name == "image_to_text" else np.concatenate([words, unknown]),), image)
  codes = codes._replace(text=(words[:0],)) if null else codes
  if name == "layout":
    codes = codes._replace(objects=objects)
  elif name == "locate":
    codes = codes._replace(objects=((words, np.full(4, -1, np.int32)),))
  elif name == "detect":       # up to two more behind those known: a box, then its name
    codes = codes._replace(objects=(*objects, *[(unknown, np.full(4, -1, np.int32))] * 2)[seed % 3:])
  elif name == "question":
    codes = codes._replace(questions=((words, unknown),))
  elif name == "interleaved":       # a picture of its own size, or a text
    last = np.full((2, 3), -1, np.int32) if seed % 2 else unknown
    codes = codes._replace(pieces=(words, image, image[:2], last))
  return build(OBJECTIVES[name](codes, rng, DRAWING), V)


def asked(document) -> np.ndarray:
  """Tokens whose prediction is drawn, in order."""
  return np.flatnonzero(document.fills >= 0)


def filled(document, ids):
  """The document with what was drawn as its inputs; what is left behind an end is out of sight, and the rest moves up."""
  inputs, ids, void, drawn_at = document.inputs.copy(), list(ids), np.zeros(document.length, bool), []
  for at in asked(document):
    if void[at]:
      continue
    drawn_at.append(at)
    one, goes_to = ids.pop(0), document.fills[at]
    inputs[goes_to:goes_to + 1] = one
    if one == document.ends[at]:
      known = [n for n in range(at + 1, document.length) if document.inputs[n] >= 0 and one != V.special("[eos]")]
      void[goes_to:min(known, default=document.length)] = True
  assert not ids
  up = np.cumsum(void & document.advances)
  return document._replace(inputs=np.maximum(inputs, 0), visible_until=np.where(void, -1, document.visible_until),
                           positions=document.positions - up[:, None]), drawn_at


def passes_of(document, together: bool) -> np.ndarray:
  """The pass of each token from the first that is drawn from on."""
  return STRATEGIES["groups" if together else "sequential"].passes(document)


def turns(documents, done, together: bool) -> dict[int, int]:
  """Pass -> its number among those that are run: each in which a token of some document is not void."""
  run = {0}
  for document, one in zip(documents, done):
    run |= set(passes_of(document, together)[one.visible_until[asked(document)[0]:] >= 0].tolist())
  return {turn: n for n, turn in enumerate(sorted(run))}


def column_of(document, at: int, together: bool) -> tuple[int, int]:
  """(pass, place in it from its end: -1 is the last) of a token that is drawn from; those that are not stand before them."""
  of = passes_of(document, together)
  return of[at - asked(document)[0]], -int((of[asked(document) - asked(document)[0]] == of[at - asked(document)[0]])[
      np.searchsorted(asked(document), at):].sum())


def in_rows(logits: np.ndarray, documents: int) -> np.ndarray:
  """f32[rows columns v] of what a pass draws from, for so many documents and those that pad them."""
  return logits.reshape(1 << (documents - 1).bit_length(), -1, logits.shape[-1])


def forward(sampler, document) -> np.ndarray:
  """f32[l v] of the uncached model."""
  row = packed([document], ROW)
  return np.asarray(whole(sampler.language, sampler.params, row))[0, :document.length]


@functools.partial(jax.jit, static_argnums=0)
def whole(language, params, batch):
  """The uncached model on a Batch of one shape, so that it compiles once."""
  return language.model(params)(batch.inputs, batch.positions, rules_of.rule_of(batch))


def legal(document, at: int) -> np.ndarray:
  out = V.allowed(V.blocks[document.blocks[at]].name)
  if document.ends[at] >= 0:
    out[document.ends[at]] = True
  return out


def mixed(count: int):
  """Documents of all objectives and lengths, side by side."""
  return [to_draw(name, seed) for seed in range(count) for name in OBJECTIVES]


@pytest.fixture
def spy(sampler, monkeypatch):
  """A new sampler, and the list of the logits f32[b v] that its loop draws from, of the whole vocabulary, filled as it
  runs."""
  seen, draw = [], rules.draw
  monkeypatch.setattr(engine, "drawable", lambda rows, vocabulary: ())

  def watched(logits, allowed, keys, *how):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), logits, ordered=True)
    return draw(logits, allowed, keys, *how)

  monkeypatch.setattr(rules, "draw", watched)
  return Sampler(sampler.language, sampler.params, V), seen


SOME = ("text_to_image", "image_to_text", "infill", "text", "glm_document")
SWITCHED = dict(norm="sandwich", qk_norm=False, pb_relax=32.0, attention_softcap=2.0, logit_softcap=10.0, dropout=0.3)


@pytest.mark.parametrize("kinds, switches", [
    (SOME, {}), (tuple(OBJECTIVES), {}), (SOME, SWITCHED), (SOME, dict(norm="swin")),
    (SOME, dict(experts=4, expert_hidden=8)), (SOME, dict(modality_experts="all"))])
def test_cached_decoding_is_the_full_forward_pass(spy, kinds, switches):
  """Every logit drawn from equals that of one uncached pass over the finished document, and greedy is its argmax.

  Documents of many objectives and lengths share a batch, so that padding, placeholders and ends must not matter: once
  token by token, once in passes of several.
  """
  sampler, seen = spy
  if switches:
    sampler = Sampler(*language(**switches), V)
  documents = [to_draw(name, seed) for seed in range(4) for name in kinds]
  drawn = sampler.draw(documents, GREEDY, 0)
  jax.effects_barrier()
  together, count = "parallel" in kinds, 0
  assert any(in_rows(of, len(documents)).shape[1] > 1 for of in seen) == together
  done = [filled(document, ids) for document, ids in zip(documents, drawn)]
  run = turns(documents, [one for one, _ in done], together)
  for row, (document, ids, (one, at_draws)) in enumerate(zip(documents, drawn, done)):
    logits = forward(sampler, one)
    for at, one in zip(at_draws, ids, strict=True):
      turn, place = column_of(document, at, together)
      np.testing.assert_allclose(in_rows(seen[run[turn]], len(documents))[row, place], logits[at], atol=1e-4)
      likely = rules.gathered(jnp.asarray(logits[at])[None], BINS)[0] if document.blocks[at] == LOCATION else logits[at]
      assert one == np.where(legal(document, at), likely, -np.inf).argmax()
      count += 1
  assert count > 100


def test_what_is_drawn_has_the_form_of_training(sampler):
  """A drawn document's logits are those of the document that training builds from the finished example: blanks that
  ended early are as if they had been no longer, and their neighbours do not see what is missing."""
  short = 0
  for seed in range(40):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 20, 3).astype(np.int32)
    gap = np.full(5, -1, np.int32)
    text = np.concatenate([words, gap, words[:1], gap[:3], words])
    document = build([control("[glm_spans]"), *blanks(text, [(9, 12), (3, 8)], "[mask]")], V)
    ids = sampler.draw([document], Sampling(temperature=20.0), seed)[0]
    done, at_draws = filled(document, ids)
    ends = np.flatnonzero(ids == V.special("[eop]"))
    cut = ends[0] + 1 if ends.size and ends[0] < 3 else 3
    first, second = (V.to_codes("text", part[part != V.special("[eop]")]) for part in (ids[:cut], ids[cut:]))
    whole_text = np.concatenate([words, second, words[:1], first, words])
    spans = [(4 + len(second), 4 + len(second) + len(first)), (3, 3 + len(second))]
    trained = build([control("[glm_spans]"), *blanks(whole_text, spans, "[mask]")], V)
    at = np.flatnonzero(trained.loss_weights)
    alike = np.isin(trained.targets[at], ids) & (trained.targets[at] != V.special("[eop]"))
    ours = [n for n, one in zip(at_draws, ids) if one != V.special("[eop]")]
    assert len(ours) == alike.sum() == len(first) + len(second)
    np.testing.assert_allclose(forward(sampler, done)[ours], forward(sampler, trained)[at[alike]], atol=1e-4)
    short += len(first) + len(second) < 8
  assert short > 5


class InOrder:
  """A generator that leaves the objects of `detect` as they are."""
  permutation = staticmethod(range)


def test_a_list_of_objects_is_drawn_as_it_is_trained(spy):
  """Whatever ends early: the logits of every draw are those of the document that training builds from the objects
  drawn, and so is their likelihood. No pass is spent on what is void in all rows."""
  plain, seen = spy
  eos, sep = V.special("[eos]"), V.special("[sep]")
  often = np.ones(V.size, np.float32)
  often[[eos, sep]] = -4, 3      # with these weights [eos] is likely at some places, not at all
  kernel = plain.params["head"]["kernel"] * often
  sampler, most, longest = Sampler(plain.language, {**plain.params, "head": {"kernel": kernel}}, V), 4, 5
  pictures = np.random.default_rng(0).integers(0, 30, (16, *GRID)).astype(np.int32)
  unknown = (np.full(longest, -1, np.int32), np.full(4, -1, np.int32))
  detect = lambda image, objects: build(OBJECTIVES["detect"](Codes((), image, objects=objects), InOrder, DRAWING), V)
  documents = [detect(image, (unknown,) * most) for image in pictures]
  drawn = sampler.draw(documents, Sampling(temperature=10.0), 3)
  jax.effects_barrier()
  done = [filled(document, ids) for document, ids in zip(documents, drawn)]
  run, counts, whole_lists = turns(documents, [one for one, _ in done], False), [], 0
  last = max(column_of(document, at_draws[-1], False)[0] for document, (_, at_draws) in zip(documents, done))
  assert len(seen) == sum(turn <= last for turn in run)
  for row, (image, document, ids, (_, at_draws)) in enumerate(zip(pictures, documents, drawn, done)):
    objects, left, forced = [], ids.tolist(), []
    while left and left[0] != eos:
      name = left[4:left.index(sep)] if sep in left[4:4 + longest] else left[4:4 + longest]
      objects.append((V.to_codes("text", name), V.to_codes("location", left[:4])))
      left = left[4 + len(name) + (len(name) < longest):]
      forced += [False] * (4 + len(name)) + [len(name) == longest]
    trained = detect(image, tuple(objects))
    at = np.flatnonzero(trained.loss_weights)[~np.array([*forced, not left])]      # [eos] was not drawn at the limit
    assert trained.targets[at].tolist() == ids.tolist()
    ours = [seen[run[column_of(document, n, False)[0]]][row] for n in at_draws]
    np.testing.assert_allclose(ours, forward(sampler, trained)[at], atol=1e-4)
    counts.append(len(objects))
    if left and not any(forced):
      log_p = np.asarray(jax.nn.log_softmax(np.array(ours)))[np.arange(len(ids)), ids]
      np.testing.assert_allclose(log_p.sum(), sampler.log_likelihood([trained], 1)[0], atol=1e-3)
      whole_lists += bool(objects)
  assert {0, most} <= set(counts) and len(set(counts)) > 2 and whole_lists
  row = counts.index(most)
  seen.clear()
  alone = sampler.draw(documents[row:row + 1], Sampling(temperature=10.0), 3, first_row=row)[0]
  jax.effects_barrier()
  one, at_draws = done[row]
  last = column_of(documents[row], at_draws[-1], False)[0]
  passes = sum(turn <= last for turn in turns(documents[row:row + 1], [one], False))
  assert np.array_equal(alone, drawn[row]) and len(seen) == passes < last - 4


@functools.partial(jax.jit, static_argnums=0)
def with_text_attention(language, params, batch, text):
  """The uncached model with bool[b l] `text` 1.4 nearer, by the softmax as it is written in books."""
  def attend(q, k, v, seen, _):
    mask = seen.pairs
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[1], 1) for x in (k, v))
    scores = jnp.einsum("bqhd,bhkd->bhqk", q, k) / jnp.sqrt(q.shape[-1]) + 1.4 * text[:, None, None]
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), -1)
    return jnp.einsum("bhqk,bhkd->bqhd", jnp.where(mask[:, None], weights, 0), v)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(decoder, "attend", attend)
    return language.model(params)(batch.inputs, batch.positions, rules_of.rule_of(batch))


@pytest.mark.parametrize("together", [False, True])
def test_text_attention(spy, together):
  """Text is 1.4 nearer to all in the documents whose picture is drawn, and in no other."""
  sampler, seen = spy
  kinds = ("text_to_image", "infill", "layout", "image_to_text", "question", *(["parallel"] if together else []))
  documents = [to_draw(name, seed, length=4) for seed in range(2) for name in kinds]
  drawn = sampler.draw(documents, dataclasses.replace(GREEDY, text_attention=1.4), 0)
  jax.effects_barrier()
  done = [filled(document, ids) for document, ids in zip(documents, drawn)]
  run, moved = turns(documents, [one for one, _ in done], together), 0
  for row, (document, ids, (one, at_draws)) in enumerate(zip(documents, drawn, done)):
    batch = packed([one], ROW)
    text = V.allowed("text")[batch.inputs] & (V.blocks[document.blocks[at_draws[0]]].name == "image")
    logits = np.asarray(with_text_attention(sampler.language, sampler.params, batch, text))[0]
    for at in at_draws:
      turn, place = column_of(document, at, together)
      np.testing.assert_allclose(in_rows(seen[run[turn]], len(documents))[row, place], logits[at], atol=1e-4)
    moved += not np.allclose(logits[at_draws], forward(sampler, one)[at_draws], atol=1e-2)
    assert text.any() == (kinds[row % len(kinds)] not in ("image_to_text", "question"))
  assert moved == 2 * (len(kinds) - 2)


def test_no_text_attention_is_plain(sampler, monkeypatch):
  """0 adds nothing anywhere; a bias of zeros gives the same bits."""
  biases, attend = [], decoder.attend
  monkeypatch.setattr(decoder, "attend", lambda *a: (biases.append(a[3].bias), attend(*a))[1])
  for text_attention in (0.0, 0.5):
    biases.clear()
    Sampler(sampler.language, sampler.params, V).draw([to_draw("text_to_image", 0)], Sampling(text_attention=text_attention), 0)
    assert biases and all((bias is None) == (text_attention == 0) for bias in biases)
  rng = np.random.default_rng(0)
  q, (k, v) = rng.normal(size=(2, 5, 4, 8)).astype(np.float32), rng.normal(size=(2, 2, 2, 7, 8)).astype(np.float32)
  mask = rng.random((2, 5, 7)) < 0.5
  assert np.array_equal(attend(q, k, v, Mask(mask)), attend(q, k, v, Mask(mask, jnp.zeros((2, 7)))))


def test_parallel_groups_are_drawn_in_as_many_passes(spy):
  """Four groups of three codes are four passes, whatever their order; in each all codes of a group are drawn."""
  sampler, seen = spy
  order = np.random.default_rng(0).permutation(12)
  groups = (order // 3).reshape(GRID)
  codes = Codes((np.arange(3, dtype=np.int32),), np.full(GRID, -1, np.int32), groups=groups)
  ids = sampler.draw([build(OBJECTIVES["parallel"](codes, np.random.default_rng(0), DRAWING), V)], Sampling(), 0)[0]
  jax.effects_barrier()
  assert len(seen) == 4 and len(ids) == 12


def test_guidance_is_taken_from_both_passes(spy):
  """u + s (c - u) at every place, u with the null caption and what was drawn so far."""
  sampler, seen = spy
  for name in ("text_to_image", "infill", "parallel"):
    documents = [to_draw(name, seed, length=4) for seed in range(3)]
    nulls = [to_draw(name, seed, length=4, null=True) for seed in range(3)]
    seen.clear()
    drawn = sampler.draw(documents, Sampling(temperature=0.0, guidance_scale=2.5), 0, nulls)
    jax.effects_barrier()
    for row, (document, null, ids) in enumerate(zip(documents, nulls, drawn)):
      with_it, without = forward(sampler, filled(document, ids)[0]), forward(sampler, filled(null, ids)[0])
      for at, other in zip(asked(document), asked(null)):
        want = without[other] + 2.5 * (with_it[at] - without[other])
        turn, place = column_of(document, at, name == "parallel")
        np.testing.assert_allclose(in_rows(seen[turn], 3)[row, place], want, atol=5e-4)
  with pytest.raises(ValueError, match="guidance needs the documents without their condition"):
    sampler.draw(documents, Sampling(guidance_scale=2.0), 0)


def test_guidance_scale_one_is_plain(sampler):
  documents = [to_draw("text_to_image", seed, length=4) for seed in range(4)]
  nulls = [to_draw("text_to_image", seed, null=True) for seed in range(4)]
  plain, guided = sampler.draw(documents, Sampling(), 3), sampler.draw(documents, Sampling(guidance_scale=1.0), 3, nulls)
  assert all(np.array_equal(a, b) for a, b in zip(plain, guided))
  assert np.array_equal(guide(1.0, 2.0, 1.0), 1.0)


@pytest.mark.parametrize("name, sampling", [
    ("text_to_image", Sampling(temperature=4.0)),
    ("image_to_text", Sampling(temperature=4.0, repetition_penalty=1.5, top_p=0.9)),
    ("text_to_image image_to_text", Sampling(temperature=4.0)),
    ("locate", GREEDY)])
def test_only_what_may_come_is_computed(sampler, monkeypatch, name, sampling):
  """A picture's codes, a text with its end, both, boxes: with the logits of these ids alone what all of them give."""
  documents, columns, draw = [to_draw(one, seed) for seed in range(8) for one in name.split()], [], rules.draw
  few = Sampler(sampler.language, sampler.params, V)
  monkeypatch.setattr(rules, "draw", lambda logits, *how: (columns.append(logits.shape[-1]), draw(logits, *how))[1])
  found = few.draw(documents, sampling, 3)
  assert set(columns) == {{"text_to_image": 30, "image_to_text": 21, "locate": 1024}.get(name, 51)}
  monkeypatch.setattr(engine, "drawable", lambda rows, vocabulary: ())
  columns.clear()
  assert all(np.array_equal(a, b) for a, b in zip(found, few.draw(documents, sampling, 3), strict=True))
  assert set(columns) == {V.size} and len({ids.tobytes() for ids in found}) > 3


def test_numbers_are_inputs_of_one_program(sampler):
  """Other temperatures, scales and the like are not compiled again; what a neutral one leaves out is another program. The
  state between two passes, its cache with it, is given up to the next."""
  fresh, states = Sampler(sampler.language, sampler.params, V), []
  go_on = fresh._go_on
  fresh._go_on = lambda *given: (states.append(given[-2]), go_on(*given))[1]
  documents, nulls = ([to_draw("text_to_image", 1, length=4, null=null)] for null in (False, True))
  warm = Sampling(temperature=0.7, top_p=0.9, min_p=0.01, repetition_penalty=1.2, guidance_scale=2.0, text_attention=0.5,
                  guidance_interval=(0.1, 0.9))
  other = Sampling(temperature=9.0, top_p=0.99, min_p=0.001, repetition_penalty=1.1, guidance_scale=3.0, text_attention=0.1,
                   guidance_interval=(0.0, 0.5))
  drawn = [fresh.draw(documents, sampling, 3, nulls)[0] for sampling in (warm, other)]
  assert not np.array_equal(*drawn) and fresh._begin._cache_size() == go_on._cache_size() == 1
  assert all(leaf.is_deleted() for state in states for leaf in jax.tree.leaves(state.cache))
  fresh.draw(documents, dataclasses.replace(warm, top_p=1.0), 3, nulls)
  assert fresh._begin._cache_size() == go_on._cache_size() == 2


def test_noise_is_of_the_id():
  keys = jax.random.split(jax.random.key(3), 4)
  whole = jax.vmap(lambda key: jax.random.gumbel(key, (99,)))(keys)
  ids = np.array([2, 7, 98, 0], np.uint32)
  assert np.array_equal(rules.noise(keys, ids), whole[:, ids]) and np.isfinite(whole).all()


def test_first_largest():
  x = np.random.default_rng(0).integers(0, 9, (64, 40)).astype(np.float32)
  x[1], x[2, :-1], x[3] = -np.inf, -np.inf, 0
  assert np.array_equal(rules.first_largest(x), x.argmax(-1))


def test_other_weights(sampler):
  """A sampler that gets others draws with them, not with what it kept of the last."""
  documents, other = [to_draw("text_to_image", 1)], Sampler(sampler.language, sampler.params, V)
  before = other.draw(documents, GREEDY, 0)
  other.params = language(sharpness=-30.0)[1]
  after = other.draw(documents, GREEDY, 0)
  assert not np.array_equal(before, after)
  other.params = sampler.params
  assert np.array_equal(before, other.draw(documents, GREEDY, 0))


def test_form_of_what_is_drawn(sampler):
  """A picture has exactly its grid, a hole its places, in the image's block; a text ends with [eos] or at the limit."""
  documents = mixed(12)
  drawn = sampler.draw(documents, Sampling(), 1)
  ended = []
  for document, ids in zip(documents, drawn):
    done, at_draws = filled(document, ids)      # as many as the form says
    for at, one in zip(at_draws, ids, strict=True):
      assert legal(document, at)[one]
    end = document.ends[asked(document)[-1]]
    if end < 0:
      assert len(ids) == len(asked(document)) and V.allowed("image", "location")[ids].all()
    else:
      ended.append(ids[-1] == end)
  assert 0 < sum(ended) < len(ended)     # both happened
  pictures = [ids for n, ids in enumerate(drawn) if documents[n].inputs[0] == V.special("[text_to_image]")]
  assert len(pictures) == 12 and {len(ids) for ids in pictures} == {GRID[0] * GRID[1]}


def test_same_whatever_the_batch(sampler):
  """A draw depends on the seed and the row's number, not on its neighbours or their count."""
  documents = [*mixed(1), to_draw("text_to_image", 9, length=20), to_draw("infill", 9)]    # one longer than a prefix's step
  together = sampler.draw(documents, Sampling(), 7)
  alone = [sampler.draw([documents[n]], Sampling(), 7, first_row=n)[0] for n in range(4)]   # one an objective
  halves = sampler.draw(documents[:3], Sampling(), 7) + sampler.draw(documents[3:], Sampling(), 7, first_row=3)
  assert all(np.array_equal(a, b) for a, b in zip(together, halves, strict=True))
  assert all(np.array_equal(a, b) for a, b in zip(together, alone))
  other = sampler.draw(documents, Sampling(), 8)
  assert any(not np.array_equal(a, b) for a, b in zip(together, other))
  same = [documents[0]] * 4
  assert len({ids.tobytes() for ids in sampler.draw(same, Sampling(), 7)}) > 1   # rows differ


@pytest.mark.parametrize("sampling", [Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(temperature=1e-4)])
def test_narrowest_is_greedy(sampler, sampling):
  boxless = lambda d: (d.blocks[d.fills >= 0] != LOCATION).all()      # the likeliest box is not of the likeliest bins
  documents = [one for one in mixed(2) if boxless(one)]
  for greedy, narrow in zip(sampler.draw(documents, GREEDY, 0), sampler.draw(documents, sampling, 5)):
    assert np.array_equal(greedy, narrow)


def test_rules():
  """The ids that stay, and how often each is drawn."""
  logits = np.log(np.array([[0.1, 0.4, 0.2, 0.3]], np.float32))
  kept = lambda x: np.flatnonzero(np.isfinite(np.asarray(x)[0])).tolist()
  assert [kept(rules.TopK(k)(logits)) for k in (1, 2, 9)] == [[1], [1, 3], [0, 1, 2, 3]]
  assert [kept(rules.TopP(p)(logits)) for p in (0.3, 0.5, 0.75, 1.0)] == [[1], [1, 3], [1, 2, 3], [0, 1, 2, 3]]
  assert kept(rules.TopP(0.5)(np.log(np.array([[0.5, 0.25, 0.25]], np.float32)))) == [0]     # at least p, not more
  assert [kept(rules.MinP(p)(logits)) for p in (1.0, 0.7, 0.5, 0.2)] == [[1], [1, 3], [1, 2, 3], [0, 1, 2, 3]]
  keys = jax.random.split(jax.random.key(0), 4_000)
  many, allowed = np.repeat(logits, 4_000, 0), np.tile([True, True, True, False], (4_000, 1))
  share = lambda sampling: np.bincount(rules.draw(many, allowed, keys, sampling), minlength=4) / 4_000
  np.testing.assert_allclose(share(Sampling()), np.array([1, 4, 2, 0]) / 7, atol=0.03)
  np.testing.assert_allclose(share(Sampling(temperature=0.5)), np.array([1, 16, 4, 0]) / 21, atol=0.03)
  np.testing.assert_allclose(share(Sampling(top_k=2)), np.array([0, 2, 1, 0]) / 3, atol=0.03)


def test_bins_are_drawn_where_most_of_the_probability_is():
  """Ids 10 .. 209 are bins; the first ten are others."""
  p = np.full((4, 210), 1e-6)
  p[0, 10 + 40], p[0, 10 + 120:10 + 161] = 0.05, 0.9 / 41     # one likely bin, and a hill of less likely ones
  p[1, 3], p[1, 60:110] = 0.4, 0.6 / 50                         # another id, likelier than each bin, not than all
  p[2, 3], p[2, 60:110] = 0.6, 0.4 / 50                         # and than all
  p[3, 77] = 1.0                                                # what is sure stays
  logits = jnp.log(jnp.asarray(p / p.sum(1, keepdims=True), jnp.float32))
  greedy = lambda x: rules.draw(x, jnp.ones(x.shape, bool), jax.random.split(jax.random.key(0), 4), GREEDY).tolist()
  assert greedy(logits) == [50, 3, 3, 77]
  found = greedy(rules.gathered(logits, range(10, 210)))
  assert abs(found[0] - 150) <= 1 and abs(found[1] - 84.5) <= 1 and found[2:] == [3, 77]


@pytest.mark.parametrize("setting, says", [
    (dict(temperature=-1.0), "sampling.temperature: -1.0 must be"),
    (dict(temperature=float("inf")), "sampling.temperature: inf must be"),
    (dict(temperature=float("nan")), "sampling.temperature: nan must be"),
    (dict(top_k=-2), "sampling.top_k: -2 must be"),
    (dict(top_p=0.0), "sampling.top_p: 0.0 must be"),
    (dict(top_p=1.5), "sampling.top_p: 1.5 must be"),
    (dict(min_p=-0.1), r"sampling.min_p: -0.1 must be in \[0, 1\]"),
    (dict(repetition_penalty=0.0), "sampling.repetition_penalty: 0.0 must be a number > 0"),
    (dict(image_guidance_scale=-1.0), "sampling.image_guidance_scale: -1.0 must be"),
    (dict(guidance_schedule="steep"), "sampling.guidance_schedule: 'steep' must be one of constant, linear, cosine"),
    (dict(guidance_interval=(0.5, 0.5)), r"sampling.guidance_interval: \(0.5, 0.5\) must be two shares"),
    (dict(strategy="fast"), "sampling.strategy: 'fast' must be one of sequential, jacobi, groups"),
    (dict(window=-1), "sampling.window: -1 must be >= 0 tokens"),
    (dict(window=4, passes=2), "sampling.window: 4 must be 0 for groups; it goes with sequential, jacobi"),
    (dict(strategy="jacobi", passes=2), "sampling.passes: 2 must be 0 for jacobi; they go with groups"),
    (dict(guesses="below"), "sampling.guesses: 'below' must be one of above, left"),
    (dict(group_sizes="even"), "sampling.group_sizes: 'even' must be one of cosine, uniform"),
    (dict(group_order="spiral"), "sampling.group_order: 'spiral' must be one of random, raster, halton, locality"),
    (dict(strategy="jacobi"), "sampling.strategy: jacobi draws code by code, and a document asks for groups"),
    (dict(image_guidance_scale=2.0), "sampling.guidance_scale: guidance needs the documents without their condition"),
    (dict(guidance_scale=-0.5), "sampling.guidance_scale: -0.5 must be"),
    (dict(guidance_scale=float("inf")), "sampling.guidance_scale: inf must be"),
    (dict(text_attention=-0.1), "sampling.text_attention: -0.1 must be a number >= 0"),
    (dict(text_attention=float("inf")), "sampling.text_attention: inf must be"),
    (dict(text_attention=float("nan")), "sampling.text_attention: nan must be")])
def test_settings_out_of_range(sampler, setting, says):
  with pytest.raises(ValueError, match=says):
    sampler.draw(mixed(1), Sampling(**setting), 0)


def test_nothing_to_draw(sampler):
  whole = build(OBJECTIVES["text_to_image"](Codes((), np.zeros(GRID, np.int32)), np.random.default_rng(0), DRAWING), V)
  with pytest.raises(ValueError, match="nothing to draw"):
    sampler.draw([whole], Sampling(), 0)
  assert sampler.draw([], Sampling(), 0) == []


def known(name: str, seed: int):
  """A document of training."""
  rng = np.random.default_rng(seed)
  words = lambda: rng.integers(0, 20, 2 + seed).astype(np.int32)
  text = (rng.integers(0, 20, 4 + seed).astype(np.int32),)
  codes = Codes(text, rng.integers(0, 30, GRID).astype(np.int32),
                objects=tuple((words(), rng.integers(0, 1024, 4).astype(np.int32)) for _ in range(2)),
                questions=((words(), words()),), pieces=(words(), rng.integers(0, 30, GRID).astype(np.int32), words()),
                coarse=rng.integers(0, 30, (2, 2)).astype(np.int32))
  if name == "glm_sentences":
    codes = codes._replace(text=text + (text[0][:2],), sentences=(np.array([2, 4 + seed]), np.array([2])))
  return build(OBJECTIVES[name](codes, rng, DRAWING), V)


def test_log_likelihood(sampler):
  """The sum over what carries loss, whatever is beside it."""
  documents = [known(name, seed) for seed in range(3) for name in OBJECTIVES]
  for document, found in zip(documents, sampler.log_likelihood(documents, batch_size=5)):
    log_p = np.asarray(jax.nn.log_softmax(forward(sampler, document)))
    at = np.flatnonzero(document.loss_weights)
    np.testing.assert_allclose(found, log_p[at, document.targets[at]].sum(), atol=1e-4)
  assert sampler.log_likelihood([]).shape == (0,)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_target_depends_on_what_the_rule_shows_and_on_no_other(name):
  """By gradient through one layer, where nothing is seen by way of another token."""
  model, params = language(layers=1, sharpness=1.0)
  mix = jax.random.normal(jax.random.key(0), (V.size,))

  @jax.jit
  def slope(table, batch):
    outputs = lambda t: (whole(model, {**params, "embed": {"embedding": t}}, batch)[0] * mix).sum(-1)
    return abs(jax.jacrev(outputs)(table)).max(-1)                        # [i id]

  for seed in range(3):
    document = known(name, seed)
    row, length = packed([document], 48), document.length
    row = row._replace(inputs=np.arange(48, dtype=np.int32)[None])         # so every token has a row of the table
    depends = np.asarray(slope(params["embed"]["embedding"], row))[:length, :length] > 0
    seen = visible(document.order, document.visible_from, document.visible_until, np.ones(length, int))
    at = np.flatnonzero(document.loss_weights)
    assert np.array_equal(depends[at], seen[at] | np.eye(length, dtype=bool)[at]), name
    rule = rules_of.rule_of(row)
    assert np.array_equal(rules_of.visible(rule, rule)[0, :length, :length], seen)    # itself included


def packed(documents, length: int) -> Batch:
  """Documents behind each other in one row."""
  fields = {}
  for name in Batch._fields:
    if getattr(documents[0], name, 0) is None:
      continue
    if name in ("segment_ids", "tasks"):
      values = [np.full(d.length, n + (name == "segment_ids"), np.int32) for n, d in enumerate(documents)]
    else:
      values = [getattr(d, name) for d in documents]
    row = np.concatenate(values)
    padding = np.full((length - len(row), *row.shape[1:]), PADDING[name], row.dtype)
    fields[name] = np.concatenate([row, padding])[None]
  return Batch(**fields)


def test_packed_documents_do_not_know_each_other(sampler):
  """Another second document leaves the first one's logits as they were; the packed loss is the sum of the single ones."""
  documents = [known(name, n) for n, name in enumerate(OBJECTIVES)]
  logits = lambda batch: np.asarray(whole(sampler.language, sampler.params, batch))
  one, two = packed(documents[:2], ROW), packed([documents[0], documents[3]], ROW)
  first = documents[0].length
  assert np.array_equal(logits(one)[0, :first], logits(two)[0, :first])
  assert not np.array_equal(logits(one)[0, first:], logits(two)[0, first:])
  loss_of = jax.jit(sampler.language.loss)
  loss, together = loss_of(sampler.params, packed(documents, sum(d.length for d in documents) + 5))
  single = [loss_of(sampler.params, packed([d], ROW)) for d in documents]
  for n, (document, (_, alone)) in enumerate(zip(documents, single)):
    np.testing.assert_allclose(together.total[n], alone.total[0], rtol=1e-5)
    assert together.count[n] == alone.count[0] == (document.loss_weights > 0).sum()
  np.testing.assert_allclose(loss, np.average([mean for mean, _ in single], weights=[d.loss_weights.sum() for d in documents]),
                             rtol=1e-5)
