"""The Python API on a run's folder. The weights are those of three steps: forms and invariants, not quality."""
import dataclasses
import json
import shutil

import numpy as np
import pytest
import small_run
from PIL import Image

from unitok.config import Objectives, Sampling
from unitok.data.record import Object
from unitok.data.sources import open_source
from unitok.modalities.image import ImageModality
from unitok.model import Model, erase, hole_of
from unitok.objectives import OBJECTIVES
from unitok.objectives.codes import Codes, control
from unitok.objectives.glm import blanks
from unitok.run import read_vocabulary
from unitok.sampling.windows import windows_over
from unitok.sequence import build

WARM = Sampling(temperature=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return small_run.made(tmp_path_factory)


@pytest.fixture(scope="module")
def model(folder):
  return Model.open(folder)


@pytest.fixture(scope="module")
def images():
  source = open_source(small_run.CONFIG.data, "val")
  return np.stack([source[n].image for n in range(5)])


def test_generate(model):
  """A picture a prompt; the same seed draws the same, whatever the batches."""
  prompts = ["a small red circle", "", "ß🦜", "a small red circle", "black"]
  drawn = model.generate(prompts, WARM, seed=3)
  assert drawn.shape == (5, 16, 16, 3) and drawn.dtype == np.uint8
  assert np.array_equal(drawn, model.generate(prompts, WARM, seed=3, batch_size=2))
  assert not np.array_equal(drawn, model.generate(prompts, WARM, seed=4))
  assert not np.array_equal(drawn[0], drawn[3])          # two samples of one prompt
  assert model.generate([]).shape == (0, 16, 16, 3)
  guided = model.generate(prompts, dataclasses.replace(WARM, guidance_scale=3.0), seed=3)
  assert np.array_equal(guided[1], drawn[1])             # the null caption has nothing to be guided from
  assert not np.array_equal(guided, drawn)


def test_ranked(model):
  """Of each prompt the same pictures as one after another, in the order of what they score."""
  prompts, likely = ["a small red circle", "two things"], model.log_likelihood
  pictures, scores = model.generate_ranked(prompts, 3, None, WARM, seed=3)
  every = [prompt for prompt in prompts for _ in range(3)]
  drawn = model.generate(every, WARM, seed=3).reshape(2, 3, 16, 16, 3)
  for n, prompt in enumerate(prompts):
    nats = likely([prompt] * 3, drawn[n])
    assert len(set(nats)) == 3
    np.testing.assert_allclose(scores[n], np.sort(nats)[::-1], atol=1e-4)
    assert np.array_equal(pictures[n], drawn[n][np.argsort(-nats)])
  bright = lambda prompts, pictures: pictures.mean((1, 2, 3))
  pictures, scores = model.generate_ranked([""], 4, bright, WARM, size=(16, 24))
  assert pictures.shape == (1, 4, 16, 24, 3) and (np.diff(scores[0]) <= 0).all()
  assert np.allclose(pictures[0].mean((1, 2, 3)), scores[0])
  for call, said in ((lambda: model.generate_ranked(prompts, 0), "samples: 0 of each prompt, must be 1 or more"),
                     (lambda: model.generate_ranked(["a", ""], 2), "prompt 1: it is empty"),
                     (lambda: model.generate_ranked(["a"], 2, size=(16, 24)), "size: 16 x 24 .* learned of 16 x 16"),
                     (lambda: model.generate_ranked(["a"], 2, lambda p, x: [np.nan, 1]), "must be 2 finite numbers"),
                     (lambda: model.generate_ranked(["a"], 2, lambda p, x: [1]), r"f32\[1\], must be 2 finite")):
    with pytest.raises(ValueError, match=said):
      call()


@pytest.mark.parametrize("way", [{}, {"passes": 5}, {"strategy": "jacobi", "window": 3},
                                 {"strategy": "maskgit", "passes": 5}, {"strategy": "rows", "row_window": 1}])
def test_watching(versatile, way):
  """What is drawn is the same; each look shows its first codes, and the rest is grey."""
  sampling, looks = dataclasses.replace(WARM, **way), []
  keep = lambda so_far: looks.append((so_far.first, so_far.share, so_far.made()))
  prompts = ["a red ring", "", "blue"]
  drawn = versatile.generate(prompts, sampling, seed=3)
  assert np.array_equal(versatile.watching(keep, 1).generate(prompts, sampling, seed=3, batch_size=2), drawn)
  for first, count in ((0, 2), (2, 1)):
    some = [look for look in looks if look[0] == first]
    assert len(some) > 1 and [share for _, share, _ in some] == sorted({share for _, share, _ in some})
    assert 0 < some[0][1] < 0.5 and {len(pictures) for *_, pictures in some} == {count}
    last = np.zeros((count, 4, 4), bool)
    for _, share, pictures in some:
      there = ~(pictures == 128).reshape(count, 4, 4, 4, 4, 3).all((2, 4, 5))
      assert (there | ~last).all() and share == pytest.approx(there.mean())
      last = there
  assert not np.array_equal(looks[0][2], drawn[:2])


def test_texts_are_watched(model, images):
  """Also fillings; a look that raises ends the drawing, and the model goes on with the next."""
  looks = []
  keep = lambda so_far: looks.append(so_far.made())
  captions = model.caption(images[:2], WARM, seed=1, limit=9)
  assert model.watching(keep, 3).caption(images[:2], WARM, seed=1, limit=9) == captions
  assert len(looks) > 1 and all(whole.startswith(part.rstrip("\ufffd")) for look in looks for part, whole in zip(look, captions))
  masks = np.zeros((2, 16, 16), bool)
  masks[:, 4:12, 4:12] = True
  filled = model.infill(images[:2], masks, None, WARM, seed=1, keep_original=True)
  looks.clear()
  assert np.array_equal(model.watching(keep, 1).infill(images[:2], masks, None, WARM, seed=1, keep_original=True), filled)
  assert all((look[:, :4] == images[:2, :4]).all() for look in looks) and (looks[0][:, 8:12, 8:12] == 128).all()
  with pytest.raises(ZeroDivisionError):
    model.watching(lambda so_far: 1 / 0).caption(images[:2])
  assert model.caption(images[:2], WARM, seed=1, limit=9) == captions
  with pytest.raises(ValueError, match="every: 0 passes, must be 1 or more"):
    model.watching(keep, 0)


def test_run_settings_are_the_default(model):
  cold = dataclasses.replace(model, config=dataclasses.replace(model.config, sampling=Sampling(temperature=0.0)))
  assert np.array_equal(cold.generate(["red"] * 2, seed=1), model.generate(["red"] * 2, Sampling(temperature=0.0), seed=2))


def test_caption(model, images):
  """Greedy by default: the seed changes nothing. A limit holds."""
  said = model.caption(images, limit=6)
  assert len(said) == 5 and all(isinstance(text, str) and len(model.text.encode(text)) for text in said)
  assert said == model.caption(images, seed=9, limit=6, batch_size=2) != model.caption(images, WARM, limit=6)
  assert model.caption(images[:2], limit=10**6)          # no more than a training row held
  with pytest.raises(ValueError, match="guidance_scale: 2.0 must be 1 for text"):
    model.caption(images, Sampling(guidance_scale=2.0))
  with pytest.raises(ValueError, match="limit: 0 must be at least 1"):
    model.caption(images, limit=0)


def test_complete(model):
  texts = ["a red", "", "a small green ring "]
  done = model.complete(texts, limit=8)
  assert all(out.startswith(text) for text, out in zip(texts, done)) and any(len(d) > len(t) for t, d in zip(texts, done))
  assert done == model.complete(texts, seed=5, limit=8)
  with pytest.raises(ValueError, match="text 1: .* do not fit into the 128 of a training row"):
    model.complete(["a", "?" * 127], limit=8)


@pytest.fixture(scope="module")
def versatile(tmp_path_factory):
  """Another small run, of many objectives."""
  return Model.open(small_run.made(tmp_path_factory, small_run.VERSATILE))


def test_generate_in_passes(versatile, model):
  """As many passes as asked for; the last code's draw is seen by none, so all places are filled."""
  prompts = ["a red ring", "", "blue"]
  drawn = {n: versatile.generate(prompts, dataclasses.replace(WARM, passes=n), seed=3) for n in (0, 1, 4, 16)}
  assert all(one.shape == (3, 16, 16, 3) for one in drawn.values())
  assert len({one.tobytes() for one in drawn.values()}) == 4
  again = versatile.generate(prompts, dataclasses.replace(WARM, passes=4), seed=3, batch_size=1)
  assert np.array_equal(again, drawn[4])
  with pytest.raises(ValueError, match="sampling.passes: 17 are more than the 16 codes of a picture"):
    versatile.generate(prompts, dataclasses.replace(WARM, passes=17))
  with pytest.raises(ValueError, match="sampling.passes: -1 must be >= 0"):
    versatile.generate(prompts, dataclasses.replace(WARM, passes=-1))
  with pytest.raises(ValueError, match="parallel: this model was not trained for it"):
    model.generate(prompts, dataclasses.replace(WARM, passes=4))


def test_other_sizes(versatile):
  """Pictures of any grid, also larger than the training's; the null document has it too."""
  guided = dataclasses.replace(WARM, guidance_scale=2.0)
  for size in ((8, 16), (20, 24)):
    drawn = versatile.generate(["a red ring", ""], guided, seed=1, size=size)
    assert drawn.shape == (2, *size, 3)
  assert np.array_equal(versatile.generate(["a"], WARM, size=(16, 16)), versatile.generate(["a"], WARM))
  for size in ((10, 16), (0, 16), (16,)):
    with pytest.raises(ValueError, match="size: .* multiples of the 4 pixels of a code"):
      versatile.generate(["a"], size=size)
  with pytest.raises(ValueError, match="prompt 0: .* do not fit into the 192 of a training row"):
    versatile.generate(["a"], size=(64, 64))


def test_go_on(versatile, images):
  """Behind texts and pictures of several sizes a picture or a text; greedy texts do not depend on the seed."""
  wide = np.concatenate([images[1], images[2][:, :4]], 1)
  documents = [["a red ring", images[0], "now blue"], [wide, "two"]]
  drawn = versatile.go_on(documents, (8, 12), seed=3)
  assert drawn.shape == (2, 8, 12, 3) and not np.array_equal(drawn, versatile.go_on(documents, (8, 12), seed=4))
  said = versatile.go_on([[images[0]], ["a red ring", wide]], limit=5)
  assert len(said) == 2 and said == versatile.go_on([[images[0]], ["a red ring", wide]], seed=9, limit=5)


def test_compose(versatile, images):
  """Documents in free order are whole texts and pictures, as many as fit into a training row, in an order of the model's;
  they depend on the seed and their place alone."""
  documents, row = [["a red ring", images[0]], [], ["x"]], 84
  short = dataclasses.replace(versatile.config.decoder, row_length=row)
  model = dataclasses.replace(versatile, config=dataclasses.replace(versatile.config, decoder=short))
  likes = lambda more: _liking(model, {versatile.vocabulary.special(name): value for name, value in more.items()})
  either = likes({"[boi]": 6.0, "[eos]": 2.0})
  drawn = either.compose(documents, 3, (8, 8), WARM, seed=3, limit=5)
  kinds = [[type(piece) for piece in one] for one in drawn]
  assert {kind for one in kinds for kind in one} == {str, np.ndarray} and len(set(map(str, kinds))) > 1
  flat = lambda found: [[piece if isinstance(piece, str) else piece.tobytes() for piece in one] for one in found]
  again = either.compose(documents, 3, (8, 8), WARM, seed=3, limit=5, batch_size=2)
  assert flat(again) == flat(drawn) != flat(either.compose(documents, 3, (8, 8), WARM, seed=4, limit=5))
  pictures = likes({"[boi]": 99.0, "[eos]": 50.0}).compose(documents[1:2], 24, (16, 16), WARM)[0]
  assert [piece.shape for piece in pictures] == [(16, 16, 3)] * ((row - 1) // 18)          # then it ends
  assert likes({"[eos]": 99.0}).compose(documents, sampling=WARM) == [[]] * 3
  said = likes({"[boi]": -99.0, "[eos]": -99.0}).compose(documents[2:], 99, sampling=WARM, limit=60)
  assert len(said[0]) > 1 and all(isinstance(piece, str) for piece in said[0])             # until no text fits


def _liking(model, more: dict[int, float]):
  """The model with these ids likelier by so many nats where a piece begins."""
  class Likes:
    def after(self, documents, batch_size):
      found = [np.array(logits) for logits in model.sampler.after(documents, batch_size)]
      for logits in found:
        logits[list(more)] += list(more.values())
      return found

    def draw(self, *given, **named):
      return model.sampler.draw(*given, **named)

  return dataclasses.replace(model, sampler=Likes())


def test_codes_drawn_in_passes_go_to_their_places(versatile):
  """With a vocabulary of one code a place … the order of drawing is undone: a sampler that draws the place's number."""
  class Counts:
    def draw(self, documents, sampling, seed, nulls=None, first_row=0, watch=None):
      ids = versatile.vocabulary.block("image").table
      out = []
      for document in documents:
        rows, columns = (document.positions[:, 1:] - document.positions[:, :1]).astype(int).T
        out.append(ids[(4 * rows + columns)[document.fills >= 0]])
      return out
  class Codes:
    grid = (4, 4)
    def decode(self, codes):
      return codes
  fake = dataclasses.replace(versatile, sampler=Counts(), image=Codes())
  for strategy in ("groups", "maskgit"):
    how = dataclasses.replace(WARM, passes=5, strategy=strategy)
    assert np.array_equal(fake.generate(["a"], how, seed=2), np.arange(16).reshape(1, 4, 4))


def test_holes_drawn_in_groups_go_to_their_places(versatile, images):
  """As above, for a hole of each picture's own; what is kept stays."""
  class Counts:
    def draw(self, documents, sampling, seed, first_row=0, watch=None):
      ids = versatile.vocabulary.block("image").table
      assert all(document.inputs[0] == versatile.vocabulary.special("[parallel]") for document in documents)
      where = [(d.positions[:, 1:] - d.positions[:, :1]).astype(int)[d.fills >= 0] for d in documents]
      return [ids[4 * rows + columns] for rows, columns in (places.T for places in where)]
  class Codes:
    downsampling = 4
    def encode(self, pictures):
      return np.tile(np.arange(16, dtype=np.int32).reshape(4, 4), (len(pictures), 1, 1))
    def decode(self, codes):
      return codes
  fake = dataclasses.replace(versatile, sampler=Counts(), image=Codes())
  masks = np.zeros((2, 16, 16), bool)
  masks[0, 4:12, :9], masks[1, :4] = True, True
  for strategy, order in (("groups", "random"), ("groups", "locality"), ("maskgit", "random")):
    how = dataclasses.replace(WARM, strategy=strategy, passes=3, group_order=order)
    assert np.array_equal(fake.infill(images[:2], masks, sampling=how, seed=2), np.tile(np.arange(16).reshape(4, 4), (2, 1, 1)))


def test_strategies_of_a_model(versatile, images):
  """jacobi draws the same picture, text and filling; rows and maskgit fill as others where they are the same; a picture
  guides a hole by itself, and nothing else."""
  jacobi = lambda sampling: dataclasses.replace(sampling, strategy="jacobi", window=4)
  prompts, masks = ["a red ring", "blue"], np.zeros((2, 16, 16), bool)
  masks[:, 4:12, 4:12] = True
  guided = dataclasses.replace(WARM, guidance_scale=2.0)
  for how in (WARM, guided):
    assert np.array_equal(versatile.generate(prompts, jacobi(how), seed=3), versatile.generate(prompts, how, seed=3))
    assert np.array_equal(versatile.infill(images[:2], masks, sampling=jacobi(how)),
                          versatile.infill(images[:2], masks, sampling=how))
  assert versatile.caption(images[:2], jacobi(WARM)) == versatile.caption(images[:2], WARM)
  filled = lambda **how: versatile.infill(images[:2], masks, sampling=dataclasses.replace(WARM, **how))
  assert np.array_equal(filled(strategy="rows", row_window=2), filled())       # as wide as the hole
  assert np.array_equal(filled(strategy="maskgit", passes=1), filled(strategy="groups", passes=1))
  apart = dataclasses.replace(guided, image_guidance_scale=200.0)
  assert not np.array_equal(versatile.infill(images[:2], masks, prompts, apart), versatile.infill(images[:2], masks, prompts, guided))
  for draw in (lambda: versatile.generate(prompts, apart), lambda: versatile.caption(images[:2], dataclasses.replace(
      WARM, image_guidance_scale=2.0))):
    with pytest.raises(ValueError, match="sampling.image_guidance_scale: .* must be 1 here; a picture guides"):
      draw()
  for name in ("groups", "maskgit"):
    with pytest.raises(ValueError, match=f"sampling.passes: 0 must be 1 or more for the strategy {name}"):
      versatile.generate(prompts, dataclasses.replace(WARM, strategy=name))


def test_answer(versatile, images):
  asked = ["what colour is it?"] * 5
  said = versatile.answer(images, asked, limit=5)
  assert len(said) == 5 and said == versatile.answer(images, asked, seed=4, limit=5, batch_size=2)
  assert said != versatile.answer(images, ["where?"] * 5, limit=5)
  with pytest.raises(ValueError, match="2 for 5 pictures"):
    versatile.answer(images, asked[:2])
  with pytest.raises(ValueError, match="question 0: 201 tokens do not fit into the 192 of a training row .*; shorten the text"):
    versatile.answer(images[:1], ["?" * 180])


def test_locate(versatile, images):
  boxes = versatile.locate(images, ["a red ring"] * 5)
  assert boxes.shape == (5, 4) and boxes.dtype == np.float32 and (0 <= boxes).all() and (boxes <= 1).all()


def test_detect(versatile, images):
  """Boxes with an area and names within the limits, which can be drawn again; a list a picture."""
  found = versatile.detect(images, WARM, seed=2)
  assert len(found) == 5 and 0 < max(map(len, found)) <= 13      # no more than a row held
  for one in sum(found, []):
    x0, y0, x1, y1 = one.box
    assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 and isinstance(one.name, str)
  assert found == versatile.detect(images, WARM, seed=2, batch_size=2) != versatile.detect(images, WARM, seed=3)
  assert versatile.arrange(found[:1]).shape == (1, 16, 16, 3)
  few = versatile.detect(images, WARM, seed=2, limit=1, name_limit=2)
  assert max(map(len, few)) <= 1 and versatile.detect(images) == versatile.detect(images, seed=7)     # greedy
  assert versatile.detect(images[:0]) == []


def test_objects_of_what_is_drawn(versatile):
  """Box, name and [sep], which a name of the full length has not; [eos] ends the list; no area, no object."""
  text, ids = versatile.text, versatile.vocabulary.to_ids
  sep, eos = (np.array([versatile.vocabulary.special(name)]) for name in ("[sep]", "[eos]"))
  thin, box = ids("location", [0, 5, 512, 5]), ids("location", [0, 0, 255, 511])
  a, b = (ids("text", text.encode(letter)[:1]) for letter in "ab")
  drawn = [box, a, b, sep, thin, a, sep, box, a, b, a, box, sep, eos]
  placed = lambda name: Object(name, (0.5 / 1024, 0.5 / 1024, 511.5 / 1024, 255.5 / 1024))
  assert versatile._objects(np.concatenate(drawn), 3) == [placed("ab"), placed("aba"), placed("")]
  assert versatile._objects(np.concatenate(drawn[:-1]), 3) == [placed("ab"), placed("aba"), placed("")]     # at the limit
  assert versatile._objects(eos, 3) == versatile._objects(eos[:0], 3) == []


@pytest.mark.parametrize("setting, says", [
    (dict(limit=0), "limit: 0 must be at least 1"),
    (dict(name_limit=-1), "name_limit: -1 must be at least 1"),
    (dict(name_limit=170), "name_limit: a picture and an object with a name of 170 text codes do not fit into the 192"),
    (dict(sampling=Sampling(guidance_scale=2.0)), "guidance_scale: 2.0 must be 1 for text"),
    (dict(sampling=Sampling(text_attention=1.4)), "text_attention: 1.4 must be 0 for text")])
def test_wrong_settings_of_detect(versatile, images, setting, says):
  with pytest.raises(ValueError, match=says):
    versatile.detect(images, **setting)


def test_arrange(versatile):
  layouts = [[Object("red ring", (0, 0, 0.5, 0.5))], [], [Object("a", (0.1, 0.2, 0.3, 0.4)), Object("b", (0.5, 0.5, 1, 1))]]
  strong = dataclasses.replace(WARM, guidance_scale=50.0)      # these weights hardly heed anything
  drawn = versatile.arrange(layouts, strong, seed=1)
  assert drawn.shape == (3, 16, 16, 3)
  moved = versatile.arrange([[Object("red ring", (0.5, 0.5, 1, 1))], *layouts[1:]], strong, seed=1)
  assert not np.array_equal(drawn[0], moved[0]) and np.array_equal(drawn[1:], moved[1:])
  with pytest.raises(ValueError, match="must be x0 < x1"):
    versatile.arrange([[Object("a", (0.5, 0, 0.5, 1))]])


def test_fill(versatile):
  """A text a gap, in their order; what is known stays out of it."""
  texts = [["a small ", None, " at the ", None], [None, "b"], ["c", None, ""]]
  filled = versatile.fill(texts, WARM, seed=5, limit=4)
  assert [len(one) for one in filled] == [2, 1, 1] and all(len(versatile.text.encode(t)) <= 12 for one in filled for t in one)
  assert filled == versatile.fill(texts, WARM, seed=5, limit=4, batch_size=1) != versatile.fill(texts, WARM, seed=6, limit=4)
  for bad in (["a"], [None, "", None], []):
    with pytest.raises(ValueError, match="text 0: give a list of texts and gaps"):
      versatile.fill([bad])


def only(model, *tasks: str):
  """The model as if it had been trained for these alone."""
  decoder = dataclasses.replace(model.config.decoder, tasks=dict.fromkeys(tasks, 1.0))
  return dataclasses.replace(model, config=dataclasses.replace(model.config, decoder=decoder))


BLANKS = ("glm_spans", "glm_sentences", "glm_document")


@pytest.mark.parametrize("text, tasks, form", [
    (["a small ", None], BLANKS, "glm_document"), (["a small ", None, ""], BLANKS, "glm_document"),
    (["A ring.", None], BLANKS, "glm_document"), (["A ring.", None], BLANKS[:2], "glm_sentences"),
    ([None], BLANKS[:2], "glm_sentences"), (["A ring.", None, " A bar."], BLANKS, "glm_sentences"),
    (["A ring. ", None, "\nblue"], BLANKS, "glm_sentences"), ([None, " A bar. ", None], BLANKS, "glm_sentences"),
    (["A ring.", None, "A bar."], BLANKS, "glm_spans"), (["A ", None, "."], BLANKS, "glm_spans"),
    (["A ring.", None, " and ", None], BLANKS, "glm_spans"), (["a small ", None], BLANKS[:1], "glm_spans")])
def test_the_form_that_fills(versatile, text, tasks, form):
  """The end of a text, whole sentences, or spans, as far as the model was trained for them; a text comes back for each
  gap, and the document is the objective's own."""
  seen = []

  class Spy:
    def draw(self, documents, *some, **options):
      seen.extend(documents)
      return versatile.sampler.draw(documents, *some, **options)
  model = dataclasses.replace(only(versatile, *tasks), sampler=Spy())
  assert len(model.fill([text], limit=3)[0]) == text.count(None)
  parts = [np.full(3, -1, np.int32) if part is None else model.text.encode(part) for part in text]
  asked = OBJECTIVES[form](Codes((np.concatenate(parts),)), np.random.default_rng(0), Objectives())
  wanted = build(asked, model.vocabulary)
  assert np.array_equal(seen[0].inputs, wanted.inputs) and seen[0].inputs[0] == model.vocabulary.special(f"[{form}]")


def test_gaps_that_the_model_cannot_fill(versatile):
  with pytest.raises(ValueError, match="text 1: this model fills one gap at the end of a text or gaps of whole sent"):
    only(versatile, "glm_document", "glm_sentences").fill([["a", None], ["a", None, "b"]])
  with pytest.raises(ValueError, match="glm_spans: this model was not trained for it"):
    only(versatile, "text").fill([["a", None]])


def test_imagine(versatile, model):
  """Pictures of any size from nothing; the seed and the place in the list tell them apart; what does not go is refused."""
  drawn = versatile.imagine(3, WARM, seed=2)
  assert drawn.shape == (3, 16, 16, 3) and len({one.tobytes() for one in drawn}) == 3
  assert np.array_equal(drawn, versatile.imagine(3, WARM, seed=2, batch_size=2))
  for more, says in ((dict(guidance_scale=3.0), "guidance_scale: 3.0 must be 1 here; there is no prompt"),
                     (dict(passes=4), "passes: 4, by groups, must be 0"),
                     (dict(strategy="maskgit", passes=4), "passes: 4, by maskgit, must be 0")):
    with pytest.raises(ValueError, match=says):
      versatile.imagine(1, dataclasses.replace(WARM, **more))
  asked = dataclasses.replace(versatile.config, sampling=dataclasses.replace(WARM, guidance_scale=3.0, passes=4))
  assert np.array_equal(drawn, dataclasses.replace(versatile, config=asked).imagine(3, seed=2))     # a run's own settings
  assert not np.array_equal(drawn, versatile.imagine(3, WARM, seed=3))
  assert versatile.imagine(1, WARM, size=(8, 12)).shape == (1, 8, 12, 3)
  assert versatile.imagine(0).shape == (0, 16, 16, 3)
  with pytest.raises(ValueError, match="image: this model was not trained for it"):
    model.imagine(1)
  with pytest.raises(ValueError, match="count: -1 must be 0 or more"):
    versatile.imagine(-1)


def test_spans_of_a_text(versatile):
  """What was drawn for the blanks, in whatever order they stand, in the text's order; [eop] ends one early."""
  encode, to_ids = versatile.text.encode, versatile.vocabulary.to_ids
  gap = np.full(3, -1, np.int32)
  text = np.concatenate([encode("a"), gap, encode("b"), gap])
  for spans in ([(1, 4), (5, 8)], [(5, 8), (1, 4)]):
    document = build([control("[glm_spans]"), *blanks(text, spans, "[mask]")], versatile.vocabulary)
    end = [versatile.vocabulary.special("[eop]")]
    drawn = {1: [*to_ids("text", encode("x")[:1]), *end], 5: to_ids("text", np.concatenate([encode(c)[:1] for c in "yzy"]))}
    ids = np.concatenate([drawn[start] for start, _ in spans])
    assert versatile.spans(document, ids) == ["x", "yzy"]


def test_infill_knows_nothing_of_the_hole(model, images):
  """Pictures that differ only under the mask come back the same; outside, keep_original keeps every pixel."""
  masks = np.zeros(images.shape[:3], bool)
  for n in range(len(masks)):
    masks[n, 2 + n:9 + n, 3:11 - n] = True
  noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
  other = np.where(masks[..., None], noise, images)
  filled = model.infill(images, masks, ["a red ring"] * 5, WARM, seed=1)
  assert filled.shape == images.shape and filled.dtype == np.uint8
  assert np.array_equal(filled, model.infill(other, masks, ["a red ring"] * 5, WARM, seed=1, batch_size=2))
  pasted = model.infill(images, masks, ["a red ring"] * 5, WARM, seed=1, keep_original=True)
  assert np.array_equal(pasted[~masks], images[~masks]) and np.array_equal(pasted[masks], filled[masks])
  assert not np.array_equal(filled, model.infill(images, masks, ["a red ring"] * 5, WARM, seed=2))
  guided = model.infill(images[:2], masks[:2], ["a red ring", ""], Sampling(guidance_scale=9.0), seed=1)
  assert np.array_equal(guided[1], model.infill(images[:2], masks[:2], ["a red ring", ""], WARM, seed=1)[1])


def test_infill_keeps_the_codes_outside(model, images):
  """What is decoded are the kept codes where they were and the drawn ones in the hole's places."""
  seen = []
  spying = dataclasses.replace(model, image=Spy(model.image, seen))
  masks = np.zeros(images.shape[:3], bool)
  masks[:, 5, 6] = masks[:, 5, 9] = masks[:, 12, :] = True
  spying.infill(images, masks, sampling=WARM)
  hole = hole_of(masks, 4)
  assert hole[0].tolist() == [[0] * 4, [0, 1, 1, 0], [0] * 4, [1] * 4]
  kept = model.image.encode(erase(images, masks))
  assert np.array_equal(seen[0][~hole], kept[~hole]) and not np.array_equal(seen[0][hole], kept[hole])


class Spy:
  """An ImageModality that notes what is decoded."""

  def __init__(self, image, seen: list):
    self.image, self.seen = image, seen

  def __getattr__(self, name):
    return getattr(self.image, name)

  def decode(self, codes):
    self.seen.append(codes.copy())
    return self.image.decode(codes)


@pytest.fixture(scope="module")
def flat(versatile):
  """With a code for the corner of each 4 x 4 pixels: what surrounds them changes nothing."""
  decode = lambda codes: (8 * codes).astype(np.uint8).repeat(4, 1).repeat(4, 2)[..., None].repeat(3, -1)
  image = ImageModality(lambda pixels: pixels[:, ::4, ::4, 0] // 8, decode, (4, 4), 4, 32, "corners")
  return dataclasses.replace(versatile, image=image)


def test_extend(flat, images):
  """What is known keeps its codes, all else is drawn; nothing added is the reconstruction; one window is a filling."""
  images, prompts = images[:2], ["a red ring", ""]
  known = flat.reconstruct(images)
  assert np.array_equal(flat.extend(images), known)
  assert np.array_equal(flat.extend(images[:, :8, :12]), known[:, :8, :12])       # of any size
  sides = dict(top=4, right=4, bottom=0, left=4)
  drawn = flat.extend(images, **sides, prompts=prompts, sampling=WARM, seed=3)
  assert drawn.shape == (2, 20, 24, 3) and np.array_equal(drawn[:, 4:, 4:20], known)
  assert np.array_equal(drawn, flat.extend(images, **sides, prompts=prompts, sampling=WARM, seed=3, batch_size=1))
  assert not np.array_equal(drawn, flat.extend(images, **sides, prompts=prompts, sampling=WARM, seed=4))
  pasted = flat.extend(images, **sides, prompts=prompts, sampling=WARM, seed=3, keep_original=True)
  assert np.array_equal(pasted[:, 4:, 4:20], images) and np.array_equal(pasted[:, :4], drawn[:, :4])
  for way in ({}, {"passes": 3}, {"strategy": "jacobi", "window": 3}, {"strategy": "maskgit", "passes": 3},
              {"strategy": "rows", "row_window": 1}):
    how, half, mask = dataclasses.replace(WARM, **way), np.zeros_like(images), np.zeros((2, 16, 16), bool)
    half[:, :, :8], mask[:, :, 8:] = images[:, :, 8:], True
    assert np.array_equal(flat.extend(images, right=8, prompts=prompts, sampling=how, seed=5)[:, :, 8:],
                          flat.infill(half, mask, prompts, how, seed=5))
  assert flat.extend(images[:0], right=8).shape == (0, 16, 24, 3)
  assert flat.extend(images[:1, :8, :8], right=8, bottom=8, whole=True).shape == (1, 16, 16, 3)
  for bad, says in ((dict(right=-4), "right: -4 pixels must be 0 or more, a multiple of the 4"), (dict(top=6), "top: 6 pixels"),
                    (dict(right=240, whole=True), "prompt 0: .* do not fit into the 192"), (dict(left=4 << 30), "extend it by less"),
                    (dict(seed=-1, right=4), "seed: -1 must be")):
    with pytest.raises(ValueError, match=says):
      flat.extend(images, **bad)
  with pytest.raises(ValueError, match=r"uint8\[2, 15, 16, 3\], must be .* multiples of the 4 pixels of a code"):
    flat.extend(images[:, :15], right=4)


def test_extend_is_watched(flat, images):
  """Window by window there is more; what is known shows from the first look on."""
  looks, images = [], images[:2]
  drawn = flat.extend(images, right=12, sampling=WARM, keep_original=True)
  keep = lambda so_far: looks.append((so_far.first, so_far.share, so_far.made()))
  assert np.array_equal(flat.watching(keep, 3).extend(images, right=12, sampling=WARM, keep_original=True, batch_size=1), drawn)
  for first in (0, 1):
    shares = [share for at, share, _ in looks if at == first]
    assert shares == sorted(set(shares)) and 0 < shares[0] < 0.5 < shares[-1] < 1
    for _, _, pictures in [look for look in looks if look[0] == first]:
      assert np.array_equal(pictures[:, :, :16], images[first:first + 1])
      grey = (pictures == 128).all(-1)
      assert np.array_equal(pictures[~grey], drawn[first:first + 1][~grey]) and grey.any()


def test_what_a_model_extends_by(flat, images):
  """Without infill the end of a picture by text_to_image and the rest by groups of one."""
  parallel, causal, images = only(flat, "parallel"), only(flat, "text_to_image"), images[:2]
  assert np.array_equal(parallel.extend(images, left=4, sampling=WARM)[:, :, 4:], flat.reconstruct(images))
  below = causal.extend(images, bottom=4, sampling=WARM)
  assert np.array_equal(below[:, :16], flat.reconstruct(images))
  assert not np.array_equal(below, parallel.extend(images, bottom=4, sampling=WARM))
  with pytest.raises(ValueError, match="infill: this model was not trained for it"):
    causal.extend(images, right=4)


def test_enlarge(flat):
  """Every window knows the coarse codes it covers and the fine ones drawn there, the rest is drawn, in few passes."""
  seen, prompts = [], ["a red ring", ""]
  images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)      # places that differ

  class Spy:
    def draw(self, documents, sampling, *some, **options):
      seen.append((documents[0], sampling.passes))
      return flat.sampler.draw(documents, sampling, *some, **options)

  drawn = dataclasses.replace(flat, sampler=Spy()).enlarge(images, prompts, WARM, seed=2)
  assert drawn.shape == (2, 32, 32, 3) and np.array_equal(drawn, flat.enlarge(images, prompts, WARM, seed=2))
  assert not np.array_equal(drawn, flat.enlarge(images, prompts, WARM, seed=3))
  coarse, fine = flat.image.encode(images)[0], flat.image.encode(drawn)[0]
  windows, known = windows_over(np.zeros((8, 8), bool), (4, 4), 2), np.zeros((8, 8), bool)
  assert len(seen) == len(windows)
  for (document, passes), (row, column) in zip(seen, windows):
    window = np.s_[row:row + 4, column:column + 4]
    ids = document.inputs[(document.inputs >= 0) & flat.vocabulary.allowed("image")[np.maximum(document.inputs, 0)]]
    given = [coarse[row // 2:row // 2 + 2, column // 2:column // 2 + 2].ravel(), fine[window][known[window]]]
    assert passes == 8 and np.array_equal(flat.vocabulary.to_codes("image", ids), np.concatenate(given))
    assert (document.fills >= 0).sum() == 16 - known[window].sum()
    known[window] = True
  assert flat.enlarge(images[:0]).shape == (0, 32, 32, 3)
  with pytest.raises(ValueError, match="refine: this model was not trained for it"):
    only(flat, "parallel").enlarge(images)


def test_vary(flat, images):
  """Nothing anew is the reconstruction, all of it a new picture; between, as many codes as said may be others."""
  prompts, images = ["a red ring", "", "blue"], images[:3]
  known = flat.reconstruct(images)
  assert np.array_equal(flat.vary(images, 0.0, prompts), known)
  assert np.array_equal(flat.vary(images, 1.0, prompts, WARM, seed=2), flat.generate(prompts, WARM, seed=2))
  others = lambda drawn: (drawn != known)[:, ::4, ::4, 0].reshape(3, 16)
  for anew in ("random", "unlikely"):
    drawn = flat.vary(images, 0.25, prompts, WARM, seed=2, anew=anew)
    assert np.array_equal(drawn, flat.vary(images, 0.25, prompts, WARM, seed=2, anew=anew, batch_size=2))
    assert not np.array_equal(drawn, flat.vary(images, 0.25, prompts, WARM, seed=3, anew=anew))
    assert 6 < others(drawn).sum() and (others(drawn).sum(1) <= 4).all()
  parts = [flat._document("text_to_image", flat.text.encode(text), image) for text, image in zip(prompts, flat.image.encode(images))]
  for n, document in enumerate(parts):      # the likelihood of each place by itself
    alone = lambda at: document._replace(loss_weights=np.where(np.arange(document.length) == at, np.float32(1), np.float32(0)))
    nats = flat.sampler.log_likelihood([alone(at) for at in np.flatnonzero(document.loss_weights)], 16)
    assert set(np.flatnonzero(others(drawn)[n])) <= set(np.argsort(nats)[:4])
  assert flat.vary(images[:0]).shape == (0, 16, 16, 3)
  for bad, says in ((dict(share=1.5), "share: 1.5 of the codes drawn anew, must be in 0 .. 1"), (dict(share=float("nan")), "share: nan"),
                    (dict(anew="all"), "anew: 'all' must be one of random, unlikely"), (dict(seed=-1), "seed: -1 must be")):
    with pytest.raises(ValueError, match=says):
      flat.vary(images, **bad)


def test_bad_input_leaves_the_model_serving(versatile, images):
  """Whatever is asked wrongly, one line each, and the same picture comes before and after; nothing asked for is nothing."""
  draw = lambda: versatile.generate(["a red ring"], WARM, seed=3)
  before, some, half = draw(), images[:2], np.tile(np.arange(16) < 8, (2, 16, 1))
  strategy = lambda **how: dataclasses.replace(WARM, **how)
  for call, says in (
      (lambda: versatile.generate(["?" * 400]), "prompt 0: 417 tokens, of which 400 are text, do not fit into the 192"),
      (lambda: versatile.answer(some, ["?" * 400] * 2), r"question 0: \d+ tokens do not fit"),
      (lambda: versatile.infill(some, half | True), "mask 0 leaves none of the 16 codes"),
      (lambda: versatile.infill(some, half & False), "mask 0 covers nothing"),
      (lambda: versatile.caption(some[:, :12]), r"must be uint8\[n 16 16 3\]"),
      (lambda: only(versatile, "text").generate(["a"]), "text_to_image: this model was not trained for it"),
      (lambda: versatile.generate(["a"], size=(96, 96)), "prompt 0: .* do not fit into the 192"),
      (lambda: versatile.generate(["a"], size=16), "size: 16 must be a height and a width"),
      (lambda: versatile.generate_ranked(["a"], 0), "samples: 0 of each prompt, must be 1 or more"),
      (lambda: versatile.imagine(-1), "count: -1 must be 0 or more"),
      (lambda: versatile.generate(["a"], strategy(strategy="fast")), "'fast' must be one of sequential, "),
      (lambda: versatile.generate(["a"], strategy(temperature=float("nan"))), "temperature: nan must be a number"),
      (lambda: versatile.generate([None]), "texts: number 0 is None, must be a string"),
      (lambda: versatile.generate(["\ud800"]), "half of a surrogate pair is not valid Unicode"),
      (lambda: versatile.generate(["a"], seed=1.5), "seed: 1.5 must be in 0"),
      (lambda: versatile.generate(["a"], batch_size=1.5), "batch_size: 1.5 must be at least 1"),
      (lambda: versatile.caption(some, limit=0), "limit: 0 must be at least 1"),
      (lambda: versatile.fill([["a", None]], limit=0), "limit: 0 must be at least 1"),
      (lambda: versatile.fill([["a", None]], limit=900), "do not fit .*; lower the limit of 900 for each gap, or shorten"),
      (lambda: versatile.detect(some, name_limit=900), "name_limit: a picture and an object with a name of 900 text codes do not"),
      (lambda: versatile.extend(some, right=5), "right: 5 pixels must be 0 or more, a multiple of the 4"),
      (lambda: versatile.enlarge(some, sampling=strategy(strategy="fast")), "'fast' must be one of sequential, "),
      (lambda: versatile.arrange([[]], strategy(passes=4)), "passes: 4, by groups, must be 0"),
      (lambda: versatile.go_on([["a"]], (8, 8), strategy(guidance_scale=2.0)), "guidance_scale: 2.0 must be 1 here; such doc"),
      (lambda: versatile.compose([["a"]], 0), "pieces: 0 must be at least 1"),
      (lambda: versatile.compose(["two rings"]), "documents: 'two rings' is one string, must be a list of texts and pictures"),
      (lambda: versatile.compose([["a"]], sampling=strategy(image_guidance_scale=2.0)), "image_guidance_scale: 2.0 must be 1 here"),
      (lambda: versatile.arrange([[]], strategy(strategy="sequential", passes=5)), "passes: 5 must be 0 for sequential"),
      (lambda: versatile.compose([["a" * 400]]), "document 0: .* do not fit into the 192"),
      (lambda: versatile.compose([[some[0][:15]]]), r"uint8\[1, 15, 16, 3\], must be .* multiples of the 4 pixels"),
      (lambda: versatile.vary(some, 2), "share: 2 of the codes drawn anew, must be in 0 .. 1")):
    with pytest.raises(ValueError, match=says) as raised:
      call()
    assert "\n" not in str(raised.value)
  none = images[:0]
  for nothing in (versatile.generate([]), versatile.caption(none), versatile.answer(none, []), versatile.locate(none, []),
                  versatile.fill([]), versatile.complete([]), versatile.go_on([]), versatile.compose([]), versatile.arrange([]), versatile.imagine(0),
                  versatile.infill(none, half[:0]), versatile.extend(none, top=4), versatile.vary(none), versatile.reconstruct(none),
                  versatile.log_likelihood([], none), *versatile.generate_ranked([], 2)):
    assert len(nothing) == 0
  assert np.array_equal(draw(), before)


def test_erase():
  """The mean colour of the kept pixels around the mask; of a mask at the border, those that there are."""
  image = np.arange(5 * 5 * 3, dtype=np.uint8).reshape(1, 5, 5, 3)
  mask = np.zeros((1, 5, 5), bool)
  mask[0, 0, 0] = True
  out = erase(image, mask)
  assert out[0, 0, 0].tolist() == np.round((image[0, 0, 1].astype(int) + image[0, 1, 0] + image[0, 1, 1]) / 3).tolist()
  assert np.array_equal(out[~mask], image[~mask]) and image[0, 0, 0, 1] == 1
  assert (erase(image, np.ones_like(mask)) == 128).all()


@pytest.mark.parametrize("mask, says", [
    (np.zeros((1, 16, 16), bool), "mask 0 covers nothing"),
    (np.ones((1, 16, 16), bool), "mask 0 leaves none of the 16 codes"),
    (np.tile(np.arange(16) % 4 == 0, (1, 16, 1)), "leaves none of the 16 codes .* mask less, or draw the whole with generate"),
    (np.zeros((1, 16, 8), bool), r"masks are bool\[1, 16, 8\], must be bool\[1, 16, 16\]"),
    (np.zeros((1, 16, 16), np.uint8), "masks are uint8")])
def test_bad_masks(model, images, mask, says):
  with pytest.raises(ValueError, match=says):
    model.infill(images[:1], mask)


def test_reconstruct_and_log_likelihood(model, images):
  assert np.array_equal(model.reconstruct(images), model.image.decode(model.image.encode(images)))
  wide = np.concatenate([images, images[:, :, :8]], 2)      # by tiles, of a size that it did not learn from
  assert np.array_equal(model.reconstruct(wide, 16), model.image.decode(model.image.encode(wide, 16), 16))
  captions = ["a red ring", "", "two things", "blue", "ß"]
  nats = model.log_likelihood(captions, images)
  assert nats.shape == (5,) and (nats < 0).all()
  np.testing.assert_allclose(nats, model.log_likelihood(captions, images, batch_size=2), atol=1e-4)
  assert model.log_likelihood([], images[:0]).shape == (0,)
  with pytest.raises(ValueError, match="2 for 5 pictures"):
    model.log_likelihood(["a", "b"], images)


@pytest.mark.parametrize("images", [np.zeros((1, 16, 16), np.uint8), np.zeros((1, 32, 32, 3), np.uint8),
                                    np.zeros((1, 16, 16, 3), np.float32)])
def test_wrong_pictures(model, images):
  for call in (model.caption, model.reconstruct, model.detect, lambda x: model.infill(x, np.ones((1, 16, 16), bool)),
               lambda x: model.log_likelihood(["a"], x)):
    with pytest.raises(ValueError, match=r"must be uint8\[n 16 16 3\]; unitok.data.pictures.square"):
      call(images)


def test_wrong_prompts_and_settings(model):
  with pytest.raises(ValueError, match=r"prompt 1: \d+ tokens, of which 400 are text, .* at most 111 text tokens do"):
    model.generate(["a", "?" * 400])
  assert model.generate(["?" * 111]).shape == (1, 16, 16, 3)
  with pytest.raises(ValueError, match="is one string, must be a list"):
    model.generate("a red circle")
  with pytest.raises(ValueError, match="seed: -1 must be in 0"):
    model.generate(["a"], seed=-1)
  with pytest.raises(ValueError, match="sampling.top_p: 2.0 must be"):
    model.generate(["a"], Sampling(top_p=2.0))
  with pytest.raises(ValueError, match="batch_size: 0 must be"):
    model.generate(["a"], batch_size=0)
  decoder = dataclasses.replace(model.config.decoder, tasks={"text": 1.0, "image_to_text": 0.0})
  untrained = dataclasses.replace(model, config=dataclasses.replace(model.config, decoder=decoder))
  picture = np.zeros((1, 16, 16, 3), np.uint8)
  for call in (lambda: untrained.generate(["a"]), lambda: untrained.caption(picture), lambda: untrained.detect(picture)):
    with pytest.raises(ValueError, match="was not trained for it"):
      call()


def test_open_says_what_is_missing(folder, tmp_path):
  with pytest.raises(ValueError, match="is no run's folder"):
    Model.open(tmp_path / "nothing")
  for part, says in (("decoder", "decoder: no such folder; train this stage first"),
                     ("text_tokenizer", "no text tokenizer"), ("image_tokenizer", "image_tokenizer: no such folder")):
    shutil.copytree(folder, tmp_path / part)
    shutil.rmtree(tmp_path / part / part)
    with pytest.raises(ValueError, match=says):
      Model.open(tmp_path / part)


def test_other_tokenizers_are_refused(folder, tmp_path):
  """A text tokenizer of other pieces beside the same vocabulary."""
  shutil.copytree(folder, tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "text_tokenizer")
  config = dataclasses.replace(small_run.CONFIG, text=dataclasses.replace(small_run.CONFIG.text, model="unigram"))
  small_run.train.text_tokenizer.run(config, tmp_path / "run")
  with pytest.raises(ValueError, match="its text tokenizer is .*, the decoder was trained on"):
    Model.open(tmp_path / "run")


def test_samples_in_the_report(folder):
  """The decoder's training drew the same eight prompts, with the run's own seed."""
  samples = folder / "report" / "samples"
  said = json.loads((samples / "decoder_000003.json").read_text())
  source = open_source(small_run.CONFIG.data, "val")
  assert said == {"step": 3, "seed": 0, "prompts": [source[n].captions[0] for n in range(8)]}
  with Image.open(samples / "decoder_000003.png") as picture:
    assert picture.size == (8 * 16, 16)
    drawn = np.asarray(picture).reshape(16, 8, 16, 3).swapaxes(0, 1)
  assert np.array_equal(drawn, Model.open(folder).generate(said["prompts"], seed=0))
  assert read_vocabulary(folder).fingerprint
