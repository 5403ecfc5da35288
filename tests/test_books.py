"""Several codes a place: documents keep them, loss and sampler take them in their order, one code costs nothing."""
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run
from test_sampler import asked, filled, packed

from train import evaluate
from unitok import cli, config as c
from unitok.commands import describe
from unitok.config import Objectives, Sampling
from unitok.data.shards import CodeShards, pack, unpack
from unitok.data.sources import open_source
from unitok.evaluation.likelihood import score_captions
from unitok.metrics import usage, uses
from unitok.model import Model, erase
from unitok.models import autoencoder
from unitok.models.rule import rule_of
from unitok.objectives import DRAWING, NEEDS, OBJECTIVES
from unitok.objectives.codes import Codes
from unitok.run import code_vectors, load_image_tokenizer
from unitok.sampling.sampler import Sampler
from unitok.sequence import Part, build
from unitok.steps import Language, Tokenizer
from unitok.vocab import make_vocabulary

BOOKS, SIZE, GRID, ROW = 3, 12, (3, 4), 80
V = make_vocabulary({"text": 20, "image": SIZE, "image.1": SIZE, "image.2": SIZE, "location": 1024, "size": 16}, {})
PLAIN = make_vocabulary({"text": 20, "image": SIZE, "location": 1024, "size": 16}, {})
OPTIONS = c.Decoder(layers=2, width=16, heads=2, kv_heads=1, hidden=16, depth_hidden=24, rope_base=100.0)
WITH_PICTURES = [name for name in OBJECTIVES if {"image", "questions", "pieces"} & set(NEEDS[name])]
GREEDY = Sampling(temperature=0.0)


def places(first):
  """i32[… 3]: a place whose first code is k has 5 k + 1 and 7 k + 2 besides, so that one tells the others."""
  first = np.asarray(first, np.int32)
  every = np.stack([first, (5 * first + 1) % SIZE, (7 * first + 2) % SIZE], -1)
  return np.where(first[..., None] < 0, np.int32(-1), every)


def record(seed: int, books: bool, unknown: bool = False) -> Codes:
  """Of all objectives, its picture with all codes once; unknown: the picture is to be drawn."""
  rng = np.random.default_rng(seed)
  words = lambda: rng.integers(0, 20, 3).astype(np.int32)
  first = rng.permutation(SIZE).reshape(GRID).astype(np.int32)
  image = np.full(GRID, -1, np.int32) if unknown else first
  pieces = (words(), first[:2], words(), *((image[:, :2],) if unknown else (first[:, :2], words())))
  make = places if books else lambda some: some
  box = lambda: rng.integers(0, 1024, 4).astype(np.int32)
  return Codes((words(),), make(image), objects=tuple((words(), box()) for _ in range(2)),
               questions=((words(), words()),), pieces=tuple(make(one) if one.ndim == 2 else one for one in pieces),
               coarse=make(first[:2, :2]))


def language(sharpness: float = 30.0, options=OPTIONS):
  model = Language(options, V.size, tuple(OBJECTIVES), further=V.further)
  params = jax.jit(model.init)(jax.random.key(5))
  params["head"]["kernel"] = params["head"]["kernel"] * sharpness
  return model, params


@pytest.fixture(scope="module")
def sampler():
  return Sampler(*language(), V)


def known(name: str, seed: int = 0, books: bool = True):
  return build(OBJECTIVES[name](record(seed, books), np.random.default_rng(seed), DRAWING), V if books else PLAIN)


# ---- documents

@pytest.mark.parametrize("options", [Objectives(), Objectives(row_ends=True, size_tokens=True, training_grid=2)])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "glm_sentences"])
def test_a_document_keeps_every_code(name, options):
  """As with one code a place, and beside each of a picture's tokens and targets the further codes of that place."""
  for seed in range(4):
    several, plain = (build(OBJECTIVES[name](record(seed, books), np.random.default_rng(seed), options), v)
                      for books, v in ((True, V), (False, PLAIN)))
    assert plain.extra_codes is None and plain.extra_targets is None
    for field in ("loss_weights", "order", "visible_from", "visible_until", "positions", "fills", "advances"):
      assert np.array_equal(getattr(several, field), getattr(plain, field)), field
    assert [V.name(one) for one in several.inputs] == [PLAIN.name(one) for one in plain.inputs]
    for ids, extra in ((several.inputs, several.extra_codes), (several.targets, several.extra_targets)):
      of_place = V.allowed("image")[ids]
      assert (extra[~of_place] == -1).all() and extra.shape == (several.length, BOOKS - 1)
      codes = V.image_codes(np.column_stack([ids, extra])[of_place])
      assert np.array_equal(codes, places(codes[:, 0]))
    assert several.learned == plain.learned + 2 * V.allowed("image")[several.targets[several.loss_weights > 0]].sum()
  assert V.allowed("image")[several.inputs].any() or name not in WITH_PICTURES


def test_codes_that_do_not_fit_the_vocabulary():
  image = record(0, True).image
  for codes, v, says in ((image[..., :2], V, "2 codes a place, the vocabulary has 3"),
                         (image[..., 0], V, "1 codes a place"),
                         (image, PLAIN, "3 codes a place, the vocabulary has 1")):
    with pytest.raises(ValueError, match=says):
      build([Part("image", codes)], v)
  half = image.copy()
  half[0, 0, 1] = -1
  with pytest.raises(ValueError, match="known and unknown"):
    build([Part("image", half)], V)


def test_shards_keep_every_code():
  before, after = record(0, True), unpack(pack(record(0, True)))
  assert np.array_equal(before.image, after.image)
  assert all(np.array_equal(a, b) for a, b in zip(before.pieces, after.pieces, strict=True))


# ---- the loss

def test_one_code_a_place_has_no_depth_head():
  shapes = lambda *further: jax.eval_shape(Language(OPTIONS, V.size, (), further=further).init, jax.random.key(0))
  plain, several = shapes(), shapes(*V.further)
  assert set(several) - set(plain) == {"depth"}
  assert {name: one for name, one in several.items() if name != "depth"} == plain


def test_the_loss_is_the_mean_over_the_books():
  """With even predictions a word costs log v, a place of three (log v + 2 log k) / 3: no more than a token."""
  model, params = language(0.0, dataclasses.replace(OPTIONS, z_loss=0.0))
  document = known("pair")
  loss, tasks = jax.jit(model.loss)(params, packed([document], ROW))
  of_place = V.allowed("image")[document.targets] & (document.loss_weights > 0)
  rest = (document.loss_weights > 0) & ~of_place
  assert of_place.sum() == 12 and rest.any()
  total = rest.sum() * np.log(V.size) + 12 * (np.log(V.size) + 2 * np.log(SIZE)) / 3
  assert float(loss) == pytest.approx(total / document.loss_weights.sum(), rel=1e-5)
  assert float(tasks.count[0]) == document.loss_weights.sum()


def test_a_code_is_predicted_from_the_books_before_it():
  """By gradient: the nats of book g of a place depend on the place's codes of the books before g, and on no other of
  its codes, its own included."""
  model, params = language(1.0)
  document = known("image")                      # the last place's codes are nobody's input
  batch = packed([document], ROW)
  last = int(np.flatnonzero(document.loss_weights)[-1])
  ids = np.array([document.targets[last], *document.extra_targets[last]])

  def nats(table):
    of = model.model({**params, "embed": {"embedding": table}})
    hidden = of.hidden(batch.inputs, batch.positions, rule_of(batch), batch.extra_codes)
    return model.of_books(of, hidden, batch.targets, batch.extra_targets)[0][:, last]

  every = jnp.abs(jax.jit(jax.jacrev(nats))(params["embed"]["embedding"])).max(-1)       # [book id]
  slope = every[:, ids]                                                                 # [book, the code of a book]
  assert np.array_equal(np.asarray(slope) > 0, np.tri(BOOKS, k=-1, dtype=bool))
  earlier = np.array([document.inputs[last], *document.extra_codes[last]])             # the place before, all seen
  assert (every[:, earlier] > 0).all()


def test_packed_documents_do_not_know_each_other(sampler):
  documents = [known(name, n) for n, name in enumerate(OBJECTIVES) if name != "glm_sentences"]
  loss = jax.jit(sampler.language.loss)
  together, _ = loss(sampler.params, packed(documents, sum(d.length for d in documents) + 5))
  single = [float(loss(sampler.params, packed([d], ROW))[0]) for d in documents]
  weights = [d.loss_weights.sum() for d in documents]
  assert float(together) == pytest.approx(np.average(single, weights=weights), rel=1e-5)


# ---- drawing

def to_draw(name: str, seed: int, null: bool = False):
  """The objective's document whose picture is to be drawn; of infill and parallel a part of it."""
  rng, codes = np.random.default_rng(seed), record(seed, True, unknown=True)
  codes = codes._replace(text=(codes.text[0][:0],)) if null else codes
  image = record(seed, True).image
  if name == "infill":
    hole = rng.random(GRID) < 0.5
    hole[0, 0], hole[1, 1] = False, True
    codes = codes._replace(image=np.where(hole[..., None], np.int32(-1), image))
  if name == "parallel":
    groups = rng.integers(-1, 4, GRID)
    groups.flat[0] = 0
    codes = codes._replace(image=np.where((groups < 0)[..., None], image, codes.image), groups=groups)
  if name in ("image_to_text", "question"):
    text = np.full(4, -1, np.int32)
    codes = codes._replace(image=image, text=(text,), questions=((codes.questions[0][0], text),))
  return build(OBJECTIVES[name](codes, rng, DRAWING), V)


def with_drawn(document, ids):
  """(the document with what was drawn as its inputs, the places of the draws)."""
  done, at_draws = filled(document, ids if ids.ndim == 1 else ids[:, 0])
  if ids.ndim == 2:
    extra = done.extra_codes.copy()
    for at, one in zip(at_draws, ids):
      extra[document.fills[at]:document.fills[at] + 1] = one[1:]
    done = done._replace(extra_codes=extra)
  return done, at_draws


@functools.partial(jax.jit, static_argnums=0)
def outputs(language, params, batch):
  model = language.model(params)
  hidden = model.hidden(batch.inputs, batch.positions, rule_of(batch), batch.extra_codes)
  return hidden, model.logits(hidden)


@functools.partial(jax.jit, static_argnums=0)
def next_book(language, params, hidden, codes):
  return language.model(params).next_book(hidden, codes)


def logits_of(sampler, document, at_draws, ids):
  """[f32[draws v], then f32[draws k] of each further book]: of an uncached pass over the finished document."""
  found = outputs(sampler.language, sampler.params, packed([document], ROW))
  hidden, logits = (np.asarray(x)[0, at_draws] for x in found)
  further = [np.asarray(next_book(sampler.language, sampler.params, hidden, ids[:, :g])) for g in range(1, BOOKS)] \
      if ids.ndim == 2 else []
  return [logits, *further]


def choices(document, at_draws, logits):
  """The ids that are likeliest among the legal ones, i32[draws] or i32[draws 3]."""
  allowed = np.stack([V.allowed(V.blocks[document.blocks[at]].name) for at in at_draws])
  ends = document.ends[at_draws]
  allowed[np.flatnonzero(ends >= 0), ends[ends >= 0]] = True
  first = np.where(allowed, logits[0], -np.inf).argmax(-1)
  further = [one.argmax(-1) + ids.start for one, ids in zip(logits[1:], V.further)]
  return np.column_stack([first, *further]) if further else first


KINDS = ("text_to_image", "image", "infill", "layout", "pair", "interleaved", "image_to_text", "question")


@pytest.mark.parametrize("kinds", [KINDS, (*KINDS, "parallel")])
def test_cached_drawing_is_the_full_forward_pass(sampler, kinds):
  """Greedy draws are the likeliest codes of one uncached pass over the finished document, book by book."""
  documents = [to_draw(name, seed) for seed in range(3) for name in kinds]
  count = 0
  for document, ids in zip(documents, sampler.draw(documents, GREEDY, 0), strict=True):
    assert ids.ndim == (2 if V.blocks[document.blocks[asked(document)[0]]].name == "image" else 1)
    done, at_draws = with_drawn(document, ids)
    assert np.array_equal(ids, choices(document, at_draws, logits_of(sampler, done, at_draws, ids)))
    count += len(ids)
  assert count > 100


@pytest.mark.parametrize("name", ["text_to_image", "infill", "parallel"])
def test_guidance_is_taken_from_both_passes_for_every_book(sampler, name):
  documents, nulls = ([to_draw(name, seed, null) for seed in range(3)] for null in (False, True))
  drawn = sampler.draw(documents, dataclasses.replace(GREEDY, guidance_scale=2.5), 0, nulls)
  for document, null, ids in zip(documents, nulls, drawn):
    both = [logits_of(sampler, *with_drawn(d, ids), ids) for d in (document, null)]
    guided = [without + 2.5 * (with_it - without) for with_it, without in zip(*both)]
    assert np.array_equal(ids, choices(document, asked(document), guided))


def test_draws_are_of_their_books_and_of_their_rows(sampler):
  """Whatever the batch; top-1 is greedy for every book; draws of a warm picture differ in every book."""
  documents = [to_draw(name, seed) for seed in range(2) for name in ("text_to_image", "infill", "layout")]
  warm = Sampling(temperature=3.0)
  together = sampler.draw(documents, warm, 7)
  for ids in together:
    V.image_codes(ids)                           # ValueError for an id of another block
  assert np.array_equal(sampler.draw([documents[4]], warm, 7, first_row=4)[0], together[4])
  greedy = sampler.draw(documents, GREEDY, 0)
  assert all(np.array_equal(a, b) for a, b in zip(greedy, sampler.draw(documents, Sampling(top_k=1), 5)))
  codes = np.concatenate([V.image_codes(ids) for ids in together])
  assert not np.array_equal(codes[:, 1], codes[:, 2]) and all(len(set(book)) > 4 for book in codes.T)


def test_jacobi_draws_every_book_as_sequential(sampler):
  """A guess is right where all codes of the place are."""
  documents = [to_draw(name, seed) for seed in range(4) for name in ("text_to_image", "infill", "layout", "image_to_text")]
  for warm in (Sampling(temperature=3.0), Sampling(temperature=30.0)):
    alike = sampler.run(documents, dataclasses.replace(warm, strategy="sequential", window=4), 7)
    jacobi = sampler.run(documents, dataclasses.replace(warm, strategy="jacobi", window=4), 7)
    assert all(np.array_equal(a, b) for a, b in zip(alike.ids, jacobi.ids, strict=True))
    assert jacobi.passes.sum() < alike.passes.sum()


def test_other_strategies_draw_every_book(sampler):
  """One pass of maskgit is one of groups, more fill every place; rows with a window of a row are sequential, and
  draw every place with a smaller one."""
  every, groups = np.full((*GRID, BOOKS), -1, np.int32), np.zeros(GRID, np.int32)
  whole = [build(OBJECTIVES["parallel"](Codes((np.arange(n),), every, groups=groups), np.random.default_rng(0), DRAWING), V)
           for n in (2, 3)]
  warm = Sampling(temperature=3.0)
  once = sampler.draw(whole, dataclasses.replace(warm, strategy="maskgit", passes=1), 7)
  assert all(map(np.array_equal, once, sampler.draw(whole, dataclasses.replace(warm, strategy="groups"), 7)))
  for ids in sampler.draw(whole, dataclasses.replace(warm, strategy="maskgit", passes=3), 7):
    assert ids.shape == (groups.size, BOOKS) and (V.image_codes(ids) >= 0).all()
  documents = [to_draw(name, seed) for seed in range(2) for name in ("text_to_image", "infill")]
  rows = lambda window: sampler.draw(documents, dataclasses.replace(warm, strategy="rows", row_window=window), 7)
  assert all(map(np.array_equal, rows(GRID[1]), sampler.draw(documents, warm, 7)))
  assert all((V.image_codes(ids) >= 0).all() for ids in rows(1))


def test_log_likelihood_counts_every_book(sampler):
  kinds = "text_to_image", "parallel", "pair", "image_to_text"
  documents = [known(name, seed) for seed in range(2) for name in kinds]
  for document, found in zip(documents, sampler.log_likelihood(documents, batch_size=3), strict=True):
    at, total = np.flatnonzero(document.loss_weights), 0.0
    for place in at:
      ids = np.array([document.targets[place], *document.extra_targets[place]])[None]
      logits = logits_of(sampler, document, [place], ids)
      codes = [ids[0, 0], *(ids[0, 1:] - [r.start for r in V.further] if ids[0, 1] >= 0 else ())]
      total += sum(float(jax.nn.log_softmax(one[0])[code]) for one, code in zip(logits, codes))
    assert found == pytest.approx(total, abs=1e-3)


def test_captions_of_one_picture_are_scored_as_apart(sampler):
  """Many in a row with their picture, whose further codes they see."""
  words = lambda text: np.array([int(n) for n in text.split()], np.int32)
  model = types.SimpleNamespace(sampler=sampler, vocabulary=V, text=types.SimpleNamespace(encode=words),
                                config=c.Config(decoder=OPTIONS))
  texts = ["1 2 3", "4", "5 6", "7 8 9 10"] * 4
  images = [record(seed, True).image for seed in range(2)]
  score = lambda image: score_captions(model, [(image, texts)])[0]
  for image in images:
    apart = [build(OBJECTIVES["image_to_text"](Codes((words(text),), image), np.random.default_rng(0), DRAWING), V)
             for text in texts]
    np.testing.assert_allclose(score(image), sampler.log_likelihood(apart), atol=1e-4)
  other = images[0].copy()
  other[..., 2] = (other[..., 2] + 1) % SIZE
  assert np.abs(score(images[0]) - score(other)).max() > 1e-3


# ---- the tokenizer, and a whole run

def test_usage_of_several_books():
  """The means over the books: one with all of its codes alike, one with a single code."""
  codes = np.stack([np.arange(8) % 4, np.zeros(8, int)], -1)
  counts = uses(codes.reshape(2, 4, 2), 4, 2)
  assert counts.tolist() == [[2, 2, 2, 2], [8, 0, 0, 0]]
  assert {name: float(one) for name, one in usage(counts).items()} == pytest.approx(
      {"usage": 5 / 8, "dead": 3, "perplexity": 2.5})


def tokenizer_of(kind: str, books: int) -> c.ImageTokenizer:
  quantizer = dataclasses.replace(small_run.CONFIG.image_tokenizer.quantizer, kind=kind, books=books)
  return dataclasses.replace(small_run.CONFIG.image_tokenizer, quantizer=quantizer)


@pytest.mark.parametrize("kind", ["residual", "product"])
def test_pictures_through_their_codes(kind):
  tokenizer = Tokenizer(tokenizer_of(kind, 2))
  params, state = jax.jit(tokenizer.init)(jax.random.key(0))
  pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 16, 3)).astype(np.uint8)
  codes = jax.jit(tokenizer.encode)(params, state, pixels)
  assert tokenizer.books == 2 and codes.shape == (3, 2, 4, 2) and tokenizer.codebook_size == 32
  last, quantized, _ = jax.jit(tokenizer.through)(params, state, autoencoder.to_pm1(pixels))
  assert np.array_equal(codes.reshape(-1, 2), quantized.codes)
  want = np.asarray(autoencoder.to_u8(jax.jit(tokenizer.finish)(params, last)), int)
  assert np.abs(np.asarray(jax.jit(tokenizer.decode)(params, state, codes), int) - want).max() <= 1


def test_kinds_with_one_code_a_place_refuse_more():
  with pytest.raises(ValueError, match="quantizer.books: 4, but l2 has one code a position.* residual or product"):
    autoencoder.check(tokenizer_of("l2", 4), 16)
  with pytest.raises(ValueError, match="quantizer.books: 0 must be"):
    autoencoder.check(tokenizer_of("residual", 0), 16)
  with pytest.raises(ValueError, match="decoder.depth_hidden: 0"):
    language(1.0, dataclasses.replace(OPTIONS, depth_hidden=0))


@pytest.mark.slow
def test_a_run(tmp_path, monkeypatch, capsys):
  """Every stage, evaluation, report and all that a model draws, with a residual tokenizer of two books."""
  tasks = dict.fromkeys(("text_to_image", "image_to_text", "infill", "parallel", "text"), 1.0)
  config = dataclasses.replace(small_run.CONFIG, image_tokenizer=tokenizer_of("residual", 2),
                               decoder=dataclasses.replace(small_run.CONFIG.decoder, tasks=tasks, depth_hidden=16),
                               evaluation=c.Evaluation(examples=4, batch_size=8, show=2))
  folder = small_run.make(tmp_path / "run", config)
  metrics = evaluate.run(config, folder)
  image = metrics["image_tokenizer"]
  assert image["bits_per_pixel"] == 2 * 5 / 16 and image["codebook_size"] == 32 and len(image["codebook_counts"]) == 64
  tokens = metrics["decoder"]["nats_per_token"]
  assert 1 < tokens["image"] < 8 and tokens["image_tokens"] == tokens["image_n"] * 4 * 4 * 2
  assert "2 codes at each of 4 × 4 places out of 32" in (folder / "report" / "index.html").read_text()
  assert (folder / "report" / "samples" / "decoder_000003.png").exists()

  told = describe(str(folder))
  assert told["image_tokenizer"]["books"] == 2 and told["image_tokenizer"]["codes_a_picture"] == 32
  assert told["decoder"]["vocabulary"]["image.1"] == 32
  image, shards = load_image_tokenizer(folder), CodeShards(folder / "codes" / "val")
  source = open_source(config.data, "val")
  images = np.stack([source[n].image for n in range(3)])
  assert np.array_equal(image.encode(images)[1], shards[1].image) and shards[1].image.shape == (4, 4, 2)
  assert shards.manifest["grid"] == [4, 4] and code_vectors(folder).shape == (2, 32, 4)

  model, warm = Model.open(folder), Sampling(guidance_scale=2.0, top_k=20)
  drawn, decode = [], model.image.decode
  monkeypatch.setattr(model.image, "decode", lambda codes: drawn.append(codes.copy()) or decode(codes))
  assert model.generate(["a small red circle", ""], warm, seed=1).shape == (2, 16, 16, 3)
  assert model.generate(["blue"], dataclasses.replace(warm, passes=3)).shape == (1, 16, 16, 3)
  assert [one.shape for one in drawn] == [(2, 4, 4, 2), (1, 4, 4, 2)]
  masks = np.zeros((3, 16, 16), bool)
  masks[:, :8, :8] = True
  model.infill(images, masks)
  kept = ~masks[:, ::4, ::4]
  assert np.array_equal(drawn[-1][kept], image.encode(erase(images, masks))[kept]) and (drawn[-1] >= 0).all()
  assert len(model.caption(images)) == 3 and np.isfinite(model.log_likelihood(["a", "b", "c"], images)).all()
  capsys.readouterr()
  assert cli.main(["explain", "--objective", "text_to_image", "--model", str(folder)]) == 0
  assert f"image {shards[0].image[0, 0, 0]} + image.1 {shards[0].image[0, 0, 1]}" in capsys.readouterr().out
