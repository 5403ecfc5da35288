"""Figures and intervals against known values; scenes with a model that knows the truth; captions told apart."""
import dataclasses
import itertools
import json

import numpy as np
import pytest
from evaluation_models import Oracle, small_model
from PIL import Image

from unitok import config as c
from unitok.data.record import Object
from unitok.evaluation import EVALUATIONS, evaluate
from unitok.evaluation.captioned import _names, _told, name_in, name_pattern, named
from unitok.evaluation.examples import Context, load_examples
from unitok.evaluation.likelihood import SPOKEN_FOR, choose_candidates, document, retrieved, score_captions, without_prior
from unitok.evaluation.reconstruction import psnr_db, ssim
from unitok.evaluation.scene_tasks import cover, cover_half
from unitok.evaluation.scenes import read_caption
from unitok.evaluation.passes import nats_of
from unitok.evaluation.statistics import clipped, figure, look_up, mean_interval, merge, plain, wilson
from unitok.evaluation.understanding import answers, blanks, detections, matched, without_looking
from unitok.objectives import OBJECTIVES

DECODER = c.Decoder(layers=2, width=32, heads=2, kv_heads=1, hidden=48, row_length=192)
SCENES = c.Config(name="scenes", data=c.Scenes(image_size=36, train_examples=40, val_examples=30), decoder=DECODER,
                  text=c.Text(vocab_size=300), evaluation=c.Evaluation(examples=30, batch_size=16, show=4))


# ---- statistics

def test_wilson():
  """Against published values (Wilson 1927, as in Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29)."""
  for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)):
    assert wilson(right, n) == pytest.approx((low, high), abs=6e-5)
  assert wilson(0, 0) == (0, 1)
  assert wilson(20, 20)[1] == 1 and wilson(20, 20)[0] > 0.8


def test_mean_interval():
  mean, low, high = mean_interval([1, 2, 3, 4, 5])
  assert mean == 3 and high - mean == pytest.approx(1.959964 * np.sqrt(2.5 / 5)) and mean - low == pytest.approx(high - mean)
  assert mean_interval([7.0]) == (7, 7, 7)
  # cases that hold several things: the mean is over things, and equal weights change nothing
  assert mean_interval([1, 0], [3, 1])[0] == 0.75
  assert mean_interval([1, 2, 3], [2, 2, 2]) == pytest.approx(mean_interval([1, 2, 3]))


def test_interval_covers():
  """The 95 % interval of clustered cases holds the truth about 95 times in 100."""
  rng, hits = np.random.default_rng(0), 0
  for _ in range(400):
    weights = rng.integers(1, 4, 200)
    values = rng.binomial(weights, 0.7) / weights
    _, low, high = mean_interval(values, weights)
    hits += low <= 0.7 <= high
  assert 0.91 < hits / 400 < 0.99


def test_figure():
  got = figure("accuracy", np.array([True] * 9 + [False]))
  assert got == {"accuracy": 0.9, "accuracy_n": 10, "accuracy_low": pytest.approx(0.5958, abs=1e-4),
                 "accuracy_high": pytest.approx(0.9821, abs=1e-4)}
  assert figure("accuracy", []) == {}
  with pytest.raises(ValueError, match="psnr_db: 1 of 2 cases are not finite"):
    figure("psnr_db", [1.0, np.nan])
  assert clipped({"a": 0.9, "a_n": 3, "a_low": 0.7, "a_high": 1.2})["a_high"] == 1


def test_nested():
  assert merge({"a": {"x": 1}}, {"a": {"y": 2}, "b": 3}) == {"a": {"x": 1, "y": 2}, "b": 3}
  assert look_up({"a": {"x": 1.5}}, "a.x") == 1.5 and look_up({"a": 1}, "a.x") is None
  assert json.dumps(plain({"a": np.float32("nan"), "b": (np.int64(3),), "c": np.array([1.0, np.inf])})) == \
      '{"a": null, "b": [3], "c": [1.0, null]}'


def test_ssim():
  """1 of equal pictures, the closed form of flat ones, and a window written out by hand (Wang 2004, eq. 13)."""
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 256, (2, 1, 11, 11, 3), dtype=np.uint8)
  c1, c2 = 2.55**2, 7.65**2
  flat = [np.full((1, 16, 20, 3), value, np.uint8) for value in (100, 130)]
  assert ssim(a, a) == pytest.approx(1) and ssim(*flat) == pytest.approx((2 * 100 * 130 + c1) / (100**2 + 130**2 + c1))
  grid = np.arange(11) - 5
  window = np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * 1.5**2))
  window = (window / window.sum())[..., None]
  x, y = a[0].astype(float), b[0].astype(float)
  mean = lambda v: (window * v).sum((0, 1))
  cover = mean((x - mean(x)) * (y - mean(y)))
  one = (2 * mean(x) * mean(y) + c1) * (2 * cover + c2) / (
      (mean(x)**2 + mean(y)**2 + c1) * (mean((x - mean(x))**2) + mean((y - mean(y))**2) + c2))
  assert ssim(a, b) == pytest.approx(one.mean())
  assert ssim(a[:, :4, :7], a[:, :4, :7]) == pytest.approx(1)


def test_psnr():
  black = np.zeros((3, 4, 4, 3), np.uint8)
  other = black.copy()
  other[1] += 255
  other[2, 0, 0] += 16      # mean squared error 256 / 16
  assert psnr_db(black, other) == pytest.approx([100, 0, 10 * np.log10(255**2 / 16)])


# ---- scenes

@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
  captions = [text for texts in load_examples(SCENES, "train", 40).captions for text in texts]
  model = small_model(SCENES, tmp_path_factory.mktemp("text"), captions)
  return Oracle(**{f.name: getattr(model, f.name) for f in dataclasses.fields(model)})


WANTED = ["image_tokenizer.psnr_db", "image_tokenizer.ssim", "image_tokenizer.bits_per_pixel",
          "image_tokenizer.codebook_usage", "image_tokenizer.perplexity",
          "decoder.nats_per_token.text", "decoder.nats_per_token.image", "objectives.text",
          *[f"text_to_image.{score}{suffix}" for score in ("accuracy", "attribute_accuracy")
            for suffix in ("", "_heldout", "_empty_prompt")],
          "caption.exact_match", "infill.accuracy", "infill.accuracy_uncaptioned", "parser.accuracy_on_originals",
          "parser.accuracy_on_reconstructions"]


def test_scenes_of_one_who_knows(oracle):
  """All that can be right is right, and every key is there with its number of cases and interval."""
  said = []
  result = evaluate(oracle, said.append)
  for key in WANTED:
    assert look_up(result.metrics, key) is not None, key
    if "accuracy" in key or key.endswith("exact_match"):
      assert look_up(result.metrics, f"{key}_n") == 30
      low, high = look_up(result.metrics, f"{key}_low"), look_up(result.metrics, f"{key}_high")
      assert 0 <= low <= look_up(result.metrics, key) <= high <= 1
      if not key.endswith("empty_prompt"):
        assert look_up(result.metrics, key) == 1, key
  assert result.metrics["text_to_image"]["accuracy_empty_prompt"] == 0
  assert result.metrics["text_to_image"]["attribute_accuracy_empty_prompt"] == 0
  assert result.metrics["sampling"]["seed"] == 0 and result.metrics["sampling"]["pictures"]["temperature"] == 1
  assert all(f.key in WANTED or f.key.startswith("text_to_image") for f in result.figures)
  assert {s.title for s in result.sections} >= {"Drawn from words", "Described", "Through the codes and back"}
  assert json.dumps(plain(result.metrics)) and said


def test_scenes_of_one_who_errs(oracle):
  """Three of ten wrong are three of ten wrong, and the marks in the report say which."""
  result = evaluate(dataclasses.replace(oracle, wrong=3))
  for key in ("text_to_image.accuracy", "text_to_image.accuracy_heldout", "text_to_image.attribute_accuracy",
              "caption.exact_match", "infill.accuracy", "infill.accuracy_uncaptioned"):
    assert look_up(result.metrics, key) == pytest.approx(0.7, abs=0.08 if "attribute" in key else 1e-9), key
  drawn = next(s for s in result.sections if s.title == "Drawn from words")
  assert [item.right for item in drawn.items] == [False] * 3 + [True] * 5
  assert drawn.items[0].note == "read: nothing"


def test_only_what_was_trained(oracle):
  decoder = dataclasses.replace(DECODER, tasks={"text_to_image": 1.0})
  model = dataclasses.replace(oracle, config=dataclasses.replace(SCENES, decoder=decoder))
  assert evaluate(model).metrics.keys() == {"image_tokenizer", "decoder", "text_to_image", "parser", "sampling"}


@pytest.fixture(scope="module")
def versatile(tmp_path_factory):
  """One that knows, trained on every objective."""
  decoder = dataclasses.replace(DECODER, tasks=dict.fromkeys(OBJECTIVES, 1.0), row_length=640,
                                objectives=c.Objectives(holes=dict(rectangles=1.0, patches=1.0)))
  config = dataclasses.replace(SCENES, decoder=decoder, data=dataclasses.replace(SCENES.data, changes=True))
  captions = [text for texts in load_examples(config, "train", 40).captions for text in texts]
  model = small_model(config, tmp_path_factory.mktemp("text"), captions)
  return Oracle(**{f.name: getattr(model, f.name) for f in dataclasses.fields(model)})


def test_every_objective_has_a_figure(versatile):
  """With its cases and interval; what the oracle can do is right, and its errors are counted."""
  spoilt = evaluate(dataclasses.replace(versatile, wrong=3)).metrics
  metrics = evaluate(versatile).metrics
  for name in OBJECTIVES:
    key = {"text_to_image": "text_to_image.accuracy", "image_to_text": "caption.exact_match", "infill": "infill.accuracy",
           "parallel": "parallel.accuracy", "question": "answers.accuracy", "locate": "locate.found",
           "layout": "layout.accuracy", "glm_spans": "blanks.accuracy", "interleaved": "interleaved.accuracy",
           "detect": "detect.found", "glm_sentences": "blanks.read_sentences",
           "glm_document": "blanks.read_document"}.get(name, f"objectives.{name}")
    assert look_up(metrics, f"{key}_n") >= 30 and look_up(metrics, f"{key}_low") <= look_up(metrics, key), name
    assert (name in SPOKEN_FOR) == (not key.startswith("objectives."))
  for key in ("layout.accuracy", "parallel.accuracy", "locate.found", "detect.found", "detect.pictures_right",
              "infill.accuracy_patches", "infill.accuracy_rectangles"):
    assert look_up(metrics, key) == 1, key
    assert look_up(spoilt, key) == pytest.approx(0.7, abs=0.05 if key == "detect.found" else 0.02), key
  found = metrics["parallel"]["curve"]       # of 6 x 6 codes
  assert {name: list(points) for name, points in found.items()} == {
      "groups": ["2", "4", "9", "18"], "maskgit": ["2", "4"], "rows": ["21"], "sequential": ["36"]}
  assert all(one["accuracy"] == 1 and one["accuracy_n"] >= 30 for points in found.values() for one in points.values())
  assert spoilt["parallel"]["curve"]["maskgit"]["4"]["accuracy"] == pytest.approx(0.7, abs=0.02)
  assert metrics["interleaved"]["accuracy"] == metrics["interleaved"]["unchanged"] < 0.2
  assert all(metrics["objectives"][name] > 1 for name in ("text", "image", "prefix_lm"))     # nats of random weights


def test_nats_of_what_is_drawn(versatile):
  """Of a sampler that draws each place's number, whatever the order: the nats of that one picture, a code."""
  table = versatile.vocabulary.block("image").table

  class Counts:
    log_likelihood = staticmethod(versatile.sampler.log_likelihood)

    def draw(self, documents, sampling, seed, first_row):
      assert (len(documents), first_row) in ((2, 0), (1, 0), (1, 1))
      asked = lambda d: ((d.positions[:, 1:] - d.positions[:, :1]) @ [6, 1])[d.fills >= 0]      # by placeholders
      places = [asked(d) if sampling.passes else np.arange(36) for d in documents]
      return [table[np.int32(np.round(place)) % len(table)] for place in places]

  texts = [versatile.text.encode(text) for text in ("a small red circle", "blue")]
  picture = (np.arange(36, dtype=np.int32) % len(table)).reshape(6, 6)
  known = [document(versatile, "text_to_image", text, picture) for text in texts]
  wanted = -versatile.sampler.log_likelihood(known) / 36
  assert wanted[0] != wanted[1] and (wanted > 1).all()
  counts = dataclasses.replace(versatile, sampler=Counts())
  for how in (dict(), dict(passes=5), dict(passes=7, group_order="halton"), dict(strategy="maskgit", passes=5)):
    for batch_size in (2, 1):
      np.testing.assert_allclose(nats_of(counts, texts, c.Sampling(**how), batch_size=batch_size), wanted, rtol=1e-5)


def test_answers_and_their_chance(versatile):
  """Seven questions a scene, one of which the oracle can answer, and yes is right in half of two more."""
  result = answers(Context(versatile, load_examples(versatile.config, "val", 30), load_examples(versatile.config, "val", 0)))
  found = result.metrics["answers"]
  cases = [(question, answer) for pairs in load_examples(versatile.config, "val", 30).questions for question, answer in pairs]
  assert found["accuracy_n"] == len(cases[:120]) and found["accuracy_open_n"] == sum(a not in ("yes", "no") for _, a in cases[:120])
  knows = [question.startswith("what colour is the thing") or answer == "yes" for question, answer in cases[:120]]
  assert found["accuracy"] == pytest.approx(np.mean(knows))
  assert found["constant"] == max(np.mean([a == b for _, a in cases[:120]]) for b in {a for _, a in cases})
  assert without_looking(["a", "a", "a", "b"], ["1", "1", "2", "3"]) == 0.75
  assert found["constant"] <= found["without_looking"] < 1


def test_objects_found():
  """Each true object has one of its own name and place; the same one is not found twice."""
  box, other, near = (0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (0, 0, 0.5, 0.4)
  truth = (Object("ring", box), Object("bar", other))
  assert matched(truth, [Object("bar", other), Object("ring", near)]) == 2
  assert matched(truth, [Object("ring", other), Object("bar", box)]) == matched(truth, []) == 0
  assert matched((truth[0], truth[0]), [Object("ring", near)]) == 1
  assert matched((truth[0],), [Object("ring", (0, 0, 0.5, 0.24))]) == 0


def test_detections_that_err(versatile):
  """Three of ten pictures said to hold nothing, and then objects that are not there: the one lowers what is found, the
  other leaves it and makes the whole wrong."""
  val = load_examples(versatile.config, "val", 30)
  measured = lambda model: detections(Context(model, val, val)).metrics["detect"]
  spoilt, counts = measured(dataclasses.replace(versatile, wrong=3)), np.array(list(map(len, val.objects)))
  assert spoilt["pictures_right"] == pytest.approx(0.7) and spoilt["found_n"] == 30
  assert spoilt["found"] == pytest.approx(counts[np.arange(30) % 10 >= 3].sum() / counts.sum())

  class More(Oracle):
    def detect(self, *some, **options):
      return [[*objects, Object("large red ring", (0, 0, 0.01, 0.01))] for objects in super().detect(*some, **options)]
  more = measured(More(**{f.name: getattr(versatile, f.name) for f in dataclasses.fields(versatile)}))
  assert more["found"] == 1 and more["pictures_right"] == 0 and more["found_by_chance"] < 0.2


class Writes:
  """A sampler that writes into the one blank of each document what `text(record, written before, behind)` says."""

  def __init__(self, model, text):
    self.model, self.text, self.count = model, text, itertools.count()

  def draw(self, documents, sampling, seed):
    return [self._one(d, next(self.count)) for d in documents]

  def _one(self, d, number):
    special, text = self.model.vocabulary.special, self.model.vocabulary.block("text").table
    row = d.inputs[:np.flatnonzero(d.inputs == special("[sop]"))[0]]
    cut = np.flatnonzero(np.isin(row, [special(name) for name in ("[mask]", "[smask]", "[gmask]")]))[0]
    joins = [-1, *np.flatnonzero(row == special("[sep]")), len(row)]
    caption = np.searchsorted(joins, cut) - 1
    known = [self.model.text.decode(self.model.vocabulary.to_codes("text", part[np.isin(part, text)]))
             for part in (row[joins[caption] + 1:cut], row[cut:joins[caption + 1]])]
    said = self.model.text.encode(self.text(number, caption, *known))
    return np.append(self.model.vocabulary.to_ids("text", said), special("[eop]"))


@pytest.mark.parametrize("name, suffix", [("glm_spans", ""), ("glm_sentences", "_sentences"),
                                          ("glm_document", "_document")])
def test_blanks_that_err(versatile, name, suffix):
  """One who knows the captions, and leaves three of ten blanks empty."""
  val = load_examples(versatile.config, "val", 30)

  def knows(number, caption, before, behind):
    whole = val.captions[number][caption]
    assert whole.startswith(before) and whole.endswith(behind)
    return whole[len(before):len(whole) - len(behind)] if number % 10 >= 3 else ""
  model = dataclasses.replace(versatile, sampler=Writes(versatile, knows))
  metrics = blanks(Context(model, val, val), name).metrics["blanks"]
  assert metrics[f"accuracy{suffix}_n"] == 30 and metrics[f"accuracy{suffix}"] == pytest.approx(0.7)
  assert metrics[f"constant{suffix}"] < 0.3 and f"read{suffix}" not in metrics


def test_blanks_in_other_words(versatile):
  """A whole caption told in other words is not right to the letter, and says the same; without it nothing is said."""
  val = load_examples(versatile.config, "val", 30)
  other = lambda number, caption, before, behind: val.captions[number][caption - 1]
  model = dataclasses.replace(versatile, sampler=Writes(versatile, other))
  metrics = blanks(Context(model, val, val, read=read_caption), "glm_sentences").metrics["blanks"]
  assert metrics["accuracy_sentences"] < 0.5 and metrics["read_sentences"] == 1
  assert metrics["read_sentences_unwritten"] == 0


def test_nothing_to_measure_on(oracle):
  data, said = dataclasses.replace(SCENES.data, val_examples=0), []
  result = evaluate(dataclasses.replace(oracle, config=dataclasses.replace(SCENES, data=data)), said.append)
  assert result.metrics == {} and "no validation pictures" in said[0]


def test_holes():
  mask = cover((6.4, 6.4, 17, 17), 36, 6)
  assert mask[:18, :18].all() and mask.sum() == 18 * 18      # 5.4 goes down to 0, 18 is 18
  assert cover((-0.1, 20, 3, 36.1), 36, 6).sum() == 6 * 18   # inside the picture
  for which, rows, columns in (("left", slice(0, 18), slice(0, 12)), ("right", slice(0, 18), slice(12, 18)),
                               ("top", slice(0, 12), slice(0, 18)), ("bottom", slice(12, 18), slice(0, 18))):
    half = cover_half((6.4, 6.4, 17, 17), 36, 6, which)      # the middle, 11.7, is nearest to 12
    assert half[rows, columns].all() and half.sum() == half[rows, columns].size, which
  assert not cover_half((1, 1, 5, 5), 36, 36, "left").any()


def test_halves_leave_about_half():
  for record in load_examples(SCENES, "val", 30).fields:
    for box in record["scene"].boxes:
      box = tuple(36 * edge for edge in box)
      for which, axis, low in (("left", 1, True), ("right", 1, False), ("top", 0, True), ("bottom", 0, False)):
        edge = np.flatnonzero(cover_half(box, 36, 6, which).any(1 - axis))
        start, stop = box[1 - axis], box[3 - axis]
        hidden = min(edge[-1] + 1, stop) - start if low else stop - max(edge[0], start)
        assert abs(hidden - (stop - start) / 2) < 1.5      # pixels: the jitter, and 0.7 of a triangle's height


# ---- likelihoods

def test_branches_are_documents(oracle):
  """Captions that share a row with their picture have the probability of a document each."""
  codes = oracle.image.encode(load_examples(SCENES, "val", 3).images)
  captions = [["a small red circle at the top", "white", "a large blue bar at the left and a small pink ring at the right", "x"],
              ["on black, a small cyan cross at the top"],
              [f"{n} large green squares" for n in range(40)]]
  got = score_captions(oracle, list(zip(codes, captions)))
  for picture, texts, scores in zip(codes, captions, got):
    documents = [document(oracle, "image_to_text", oracle.text.encode(text), picture) for text in texts]
    np.testing.assert_allclose(scores, oracle.sampler.log_likelihood(documents, 8), rtol=2e-5)
    assert len(scores) == len(texts) and len(set(scores)) > 0.9 * len(texts)
  np.testing.assert_allclose(oracle.log_likelihood([captions[0][0]], load_examples(SCENES, "val", 1).images), got[0][0],
                             rtol=2e-5)


def test_prior_taken_out(oracle):
  """The shorter caption is likelier by itself; what is taken out is the probability of the text alone."""
  texts = ["white", "a large blue bar at the left and a small pink ring at the right"]
  codes = oracle.image.encode(load_examples(SCENES, "val", 1).images)
  scores = score_captions(oracle, [(codes[0], texts)])
  alone = [oracle.sampler.log_likelihood([document(oracle, "text", oracle.text.encode(text), None)], 1)[0] for text in texts]
  np.testing.assert_allclose(without_prior(oracle, scores, [texts])[0], scores[0] - alone, rtol=1e-4, atol=1e-4)
  assert scores[0][0] > scores[0][1] and alone[0] > alone[1]


def test_candidates():
  pool = [f"name {n % 60}" for n in range(120)]
  got = choose_candidates([("name 3", "name 4"), ("other",)], pool, 50, np.random.default_rng(0))
  assert [some[0] for some in got] == ["name 3", "other"]
  assert all(len(some) == len(set(some)) == 50 for some in got)
  assert not set(got[0][1:]) & {"name 3", "name 4"} and got[0][1:] != got[1][1:]
  assert len(choose_candidates([("a",)], ["a", "b", "c"], 100, np.random.default_rng(0))[0]) == 3
  assert retrieved([np.array([0, -1]), np.array([-1, 0]), np.array([0, 0])]).tolist() == [True, False, False]


def test_names():
  finder = name_pattern("a {style} emoji of {caption}")
  assert name_in(finder, "a fluent3d emoji of keycap: #") == "keycap: #"
  assert name_in(finder, "a noto emoji of a man of war") == "a man of war"
  assert name_in(finder, "an emoji") is None
  assert name_in(name_pattern("{caption}"), "dog. (a)") == "dog. (a)"


def write_folder(folder, count=40):
  """Plain pictures in three styles, each name in two of them; every fifth record is val."""
  (folder / "images").mkdir(parents=True)
  lines, rng = [], np.random.default_rng(0)
  for n in range(count):
    for style in ("plain", "round"):
      name = f"images/{style}_{n}.png"
      Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(folder / name)
      split = "val" if n % 5 == 0 else "train"
      lines.append({"file_name": name, "captions": [f"thing {n}", f"object {n}"], "style": style, "split": split})
  (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  return c.ImageFolder(path=str(folder), image_size=24, caption_template="a {style} drawing of {caption}",
                       holdout=c.Holdout(group_by="captions", every=4, field="style", value="round"))


@pytest.fixture(scope="module")
def folder_model(tmp_path_factory):
  data = write_folder(tmp_path_factory.mktemp("pictures"))
  config = c.Config(name="folder", data=data, decoder=dataclasses.replace(DECODER, layers=1, row_length=96), text=c.Text(vocab_size=300),
                    evaluation=c.Evaluation(examples=100, batch_size=16, show=3, prompts=("a plain drawing of thing 1",)))
  captions = [text for texts in load_examples(config, "train", 100).captions for text in texts]
  return small_model(config, tmp_path_factory.mktemp("text"), captions)


def test_captioned_source(folder_model):
  """A source with captions alone: retrieval, nats, held-out names, at about chance for random weights."""
  result = evaluate(folder_model)
  metrics, held = result.metrics, load_examples(folder_model.config, "heldout", 100)
  val = load_examples(folder_model.config, "val", 100)
  assert len(held) >= 5 and metrics["retrieval"]["accuracy_n"] == len(val)
  assert metrics["retrieval"]["candidates_heldout"] > 20      # names of val and train join those of heldout
  assert {"accuracy_without_prior", "accuracy_heldout_without_prior"} <= metrics["retrieval"].keys()
  assert metrics["retrieval"]["accuracy"] < 0.4 and metrics["caption"]["heldout_name_accuracy"] == 0
  assert metrics["caption"]["nats_true"] == pytest.approx(metrics["caption"]["nats_shuffled"], rel=0.1)
  assert metrics["image_tokenizer"]["psnr_db"] < 20
  titles = [s.title for s in sorted(result.sections, key=lambda s: s.order)]
  assert titles == ["Asked for", "Drawn from words", "Drawn from words training never showed this way",
                    "Holes and what was put there", "Held-out pictures, named", "Described", "Through the codes and back"]


def test_candidates_differ_in_the_name_alone(folder_model):
  held = load_examples(folder_model.config, "heldout", 100)
  told = _told(folder_model.config.data, held, choose_candidates(_names(held), ["thing 1", "thing 2"], 3,
                                                                 np.random.default_rng(0)))
  for texts, written in zip(told, held.captions):
    assert texts[0] == written[0] and {text.rsplit(" ", 2)[0] for text in texts} == {"a round drawing of"}

  class Knows:      # says the second of the captions, which is right too
    def __getattr__(self, name):
      return getattr(folder_model, name)

    def caption(self, images, **options):
      return [captions[1] for captions in held.captions]
  result = named(Context(Knows(), load_examples(folder_model.config, "val", 5), held))
  assert result.metrics["caption"]["heldout_name_accuracy"] == 1


def test_pictures_alone(tmp_path, folder_model):
  """No captions at all: drawings from nothing, holes, reconstructions."""
  rng = np.random.default_rng(0)
  for n in range(10):
    Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(tmp_path / f"{n}.png")
  data = c.ImageFolder(path=str(tmp_path), image_size=24, val_share=0.5)
  config = dataclasses.replace(folder_model.config, data=data, evaluation=c.Evaluation(examples=5, batch_size=4, show=2))
  result = evaluate(dataclasses.replace(folder_model, config=config))
  assert result.metrics.keys() == {"image_tokenizer", "decoder", "sampling"}
  assert [s.title for s in result.sections] == ["Through the codes and back", "Drawn from words", "Holes and what was put there"]


def test_registry():
  assert set(EVALUATIONS) <= set(c.DATA)
