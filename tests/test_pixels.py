"""Pixels as palette colours: exact codes, k-means against plain numpy, the stage, and a whole run."""
import dataclasses
import json
import shutil

import numpy as np
import pytest
import small_run

from train import decoder, image_tokenizer, pipeline
from train.stage import open_workdir
from unitok import config as c
from unitok.commands import describe
from unitok.evaluation.report import read_metrics
from unitok.evaluation.statistics import look_up
from unitok.modalities import pixels
from unitok.modalities.pixels import Palette, check, decode, encode, fit, k_means, nearest, shrink, spread
from unitok.model import Model
from unitok.run import code_vectors, load_image_tokenizer, read_vocabulary

OPTIONS = c.Pixels(colours=32, scale=4, pixels=600, iterations=5)
TRAIN = dataclasses.replace(small_run.TRAIN, steps=30, learning_rate=1e-2, save_every=30, sample_every=30)
CONFIG = dataclasses.replace(
    small_run.CONFIG, name="pixels", image_tokenizer=OPTIONS,
    decoder=dataclasses.replace(small_run.CONFIG.decoder, train=TRAIN),
    evaluation=c.Evaluation(examples=8, batch_size=8, show=2))


def noise(n: int = 5, side: int = 12, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def palette(count: int = 40, scale: int = 1) -> Palette:
  return Palette(np.unique(noise(1, 20, 7).reshape(-1, 3)[:count], axis=0), scale)


def cost(points, weights, centres) -> float:
  """Weighted mean squared distance from the nearest centre."""
  return float((weights * ((points[:, None] - centres) ** 2.0).sum(-1).min(1)).sum() / weights.sum())


# ---- codes

@pytest.mark.parametrize("scale", [1, 2, 3])
def test_there_and_back(scale):
  """encode∘decode∘encode = encode; a picture of palette colours alone comes back exactly, with its own codes."""
  mine = palette(scale=scale)
  codes = encode(mine, noise())
  assert codes.shape == (5, 12 // scale, 12 // scale) and codes.dtype == np.int32 and len(np.unique(codes)) >= 10
  back = decode(mine, codes)
  assert back.shape == (5, 12, 12, 3) and back.dtype == np.uint8
  np.testing.assert_array_equal(encode(mine, back), codes)
  np.testing.assert_array_equal(decode(mine, encode(mine, back)), back)
  every = np.arange(len(mine.colours), dtype=np.int32).reshape(1, 5, -1)
  np.testing.assert_array_equal(encode(mine, decode(mine, every)), every)
  assert encode(mine, noise(0)).shape == (0, 12 // scale, 12 // scale)


@pytest.mark.parametrize("cells", [1, 1000, 1 << 22])
def test_nearest(monkeypatch, cells):
  """The nearest colour by every distance in whole numbers, however many fit into memory; the lowest of equals."""
  monkeypatch.setattr(pixels, "CELLS", cells)
  colours, mine = noise(1, 20, 1).reshape(-1, 3), palette().colours
  distances = ((colours[:, None].astype(int) - mine.astype(int)) ** 2).sum(-1)
  np.testing.assert_array_equal(nearest(colours, mine), distances.argmin(1))
  np.testing.assert_array_equal(nearest(np.array([[255, 255, 254], [0, 0, 1]], np.uint8),
                                        np.array([[255, 255, 255], [255, 255, 253], [0, 0, 0], [0, 0, 2]])), [0, 2])
  np.testing.assert_array_equal(encode(palette(), noise()), nearest(noise().reshape(-1, 3), mine).reshape(5, 12, 12))


def test_shrink():
  """Means over squares of pixels, not over stripes; rounded."""
  one = np.zeros((1, 4, 4, 3), np.uint8)
  one[0, :2, 2:, 1] = [[10, 20], [30, 41]]
  one[0, 3, 0] = 7
  np.testing.assert_array_equal(shrink(one, 2)[0, :, :, 1], [[0, 25], [2, 0]])
  np.testing.assert_array_equal(shrink(one, 2)[0, :, :, 0], [[0, 0], [2, 0]])
  np.testing.assert_array_equal(shrink(one, 1), one)


# ---- the palette

def plain_k_means(points, centres, steps):
  """Lloyd's algorithm in the plainest numpy, on points that may be the same."""
  centres = centres.astype(float).copy()
  for _ in range(steps):
    owner = np.array([min(range(len(centres)), key=lambda k: ((p - centres[k]) ** 2).sum()) for p in points])
    for k in range(len(centres)):
      if (owner == k).any():
        centres[k] = points[owner == k].mean(0)
  return centres


def test_k_means_is_ten_lines_of_numpy():
  """A weight is so many points of that colour."""
  points, weights = noise(1, 7, 2).reshape(-1, 3), np.random.default_rng(3).integers(1, 5, 49)
  start = spread(points, weights, 4, np.random.default_rng(0))
  want = plain_k_means(points.astype(float).repeat(weights, 0), start, 6)
  np.testing.assert_allclose(k_means(points, weights, start, 6), want, rtol=1e-9)
  assert np.abs(want - start).max() > 1


def test_k_means_lowers_the_cost():
  """At no step it rises, at the first ones it falls, and in the end nothing moves."""
  points = np.unique(noise(1, 30, 4).reshape(-1, 3), axis=0)
  weights = np.random.default_rng(5).integers(1, 50, len(points))
  start = spread(points, weights, 20, np.random.default_rng(1))
  costs = [cost(points, weights, k_means(points, weights, start, steps)) for steps in range(12)]
  assert all(after <= before * (1 + 1e-6) for before, after in zip(costs, costs[1:])) and costs[3] < 0.9 * costs[0]
  end = k_means(points, weights, start, 500)
  np.testing.assert_array_equal(k_means(points, weights, end, 1), end)


def test_a_centre_without_points_is_revived():
  points = np.array([[0, 0, 0], [2, 0, 0], [100, 0, 0], [200, 200, 200]], np.uint8)
  lost = np.array([[1.0, 0, 0], [150, 100, 100], [255, 0, 255], [255, 0, 254]])
  got = k_means(points, np.ones(4), lost, 10)
  assert cost(points, np.ones(4), got) == 0


def test_spread():
  """Distinct points, and one of each far cluster, which draws by chance alone would miss."""
  rng = np.random.default_rng(0)
  middles = np.array([[10, 10, 10], [240, 10, 10], [10, 240, 10], [10, 10, 240], [240, 240, 240]])
  crowd, few = middles[0] + rng.integers(-8, 9, (400, 3)), [m + rng.integers(-2, 3, (3, 3)) for m in middles[1:]]
  points = np.unique(np.concatenate([crowd, *few]), axis=0)
  got = spread(points, np.ones(len(points)), 5, np.random.default_rng(1))
  assert sorted(((got[:, None] - middles) ** 2).sum(-1).argmin(1).tolist()) == [0, 1, 2, 3, 4]
  every = spread(points, np.ones(len(points)), len(points), np.random.default_rng(1))
  assert len(np.unique(every, axis=0)) == len(points)


def test_fit():
  """The same seed, the same palette; as many colours as asked; nearer than colours taken by chance."""
  pictures, options = noise(30), c.Pixels(colours=20, scale=2, pixels=500)
  one, again, other = (fit(iter(pictures), options, seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(one.colours, again.colours)
  assert one.fingerprint == again.fingerprint != other.fingerprint and one.scale == 2
  assert one.fingerprint != one._replace(scale=1).fingerprint
  assert len(one.colours) == len(np.unique(one.colours, axis=0)) == 20 and one.colours.dtype == np.uint8
  points = shrink(pictures, 2).reshape(-1, 3)
  chance = np.random.default_rng(0).choice(points, 20, replace=False)
  assert cost(points, np.ones(len(points)), one.colours) < 0.8 * cost(points, np.ones(len(points)), chance)


def test_fit_takes_pixels_of_all_pictures():
  """As many of each, from anywhere: one of each of forty pictures that are black above and of a colour below."""
  pictures = np.zeros((40, 6, 6, 3), np.uint8)
  pictures[:, 3:] = noise(40, 1) | 1
  got = {tuple(one) for one in fit(pictures, c.Pixels(colours=40, pixels=40), 0).colours.tolist()}
  assert (0, 0, 0) in got and got <= {tuple(one) for one in pictures.reshape(-1, 3).tolist()} and 10 < len(got) < 31


def test_few_colours():
  """No more colours than there are, and those exactly."""
  few = np.array([[1, 2, 3], [9, 9, 9], [255, 0, 0]], np.uint8)
  pictures = few[np.random.default_rng(0).integers(0, 3, (4, 6, 6))]
  got = fit(pictures, c.Pixels(colours=512, scale=1), 0)
  np.testing.assert_array_equal(got.colours, few)
  np.testing.assert_array_equal(decode(got, encode(got, pictures)), pictures)
  with pytest.raises(ValueError, match="the training split has no usable picture; check data.path"):
    fit([], c.Pixels(), 0)


@pytest.mark.parametrize("options, message", [
    (c.Pixels(colours=1), "image_tokenizer.colours: 1 must be in 2 .. 100000, .*; image GPT took 512"),
    (c.Pixels(colours=51, pixels=50), r"image_tokenizer.colours: 51 must be in 2 .. 50"),
    (c.Pixels(scale=5), "image_tokenizer.scale: 5 does not divide data.image_size, 36; take one of 1, 2, 3, 4, 6, 9"),
    (c.Pixels(scale=0), "image_tokenizer.scale: 0 does not divide"),
    (c.Pixels(iterations=0), "image_tokenizer.iterations: 0 must be at least 1")])
def test_bad_options(tmp_path, options, message):
  """Told in one line, by the stage too, before anything is read."""
  with pytest.raises(ValueError, match=message) as told:
    check(options, 36)
  assert "\n" not in str(told.value)
  with pytest.raises(ValueError, match=message):
    image_tokenizer.run(c.Config(data=c.ImageFolder(image_size=36, path="nowhere"), image_tokenizer=options), tmp_path)


# ---- config

def test_config():
  """Fields by command line and JSON; a run from before there were kinds; what differs is named by its kind."""
  other = c.override(c.Config(image_tokenizer=c.Pixels(colours=64)), ["--image-tokenizer.scale", "4"])
  assert other.image_tokenizer == c.Pixels(colours=64, scale=4) and other.image_tokenizer.downsampling == 4
  for config in (c.Config(), other):
    value = json.loads(json.dumps(c.to_json(config)))
    assert c.from_json(value) == config
  old = c.to_json(c.Config())
  assert old["image_tokenizer"].pop("kind") == "vq" and c.from_json(old) == c.Config()
  with pytest.raises(ValueError, match="image_tokenizer.kind is 'wavelets', must be one of vq, pixels"):
    c.from_json({**old, "image_tokenizer": {"kind": "wavelets"}})
  assert c.difference(c.Config(), other) == "image_tokenizer.kind: 'vq' -> 'pixels'"
  with pytest.raises(ValueError, match="--image_tokenizer.patch: no such config field"):
    c.override(other, ["--image-tokenizer.patch", "4"])


def test_demo_config():
  """The documents of configs/scenes_pixels.py are the demo's; only the codes are others."""
  one, demo = c.load("configs/scenes_pixels.py"), c.load("configs/scenes_demo.py")
  check(one.image_tokenizer, one.data.image_size)
  assert (one.data, one.text, one.seed) == (demo.data, demo.text, demo.seed)
  assert dataclasses.replace(one.decoder, row_length=104) == demo.decoder


# ---- the stage

def stage(config, workdir):
  image_tokenizer.run(config, open_workdir(workdir, config))
  return load_image_tokenizer(workdir)


def test_stage(tmp_path, capsys):
  """It leaves a palette, a strip and a line, keeps what is there, makes up for what is not, and refuses another's."""
  image = stage(CONFIG, tmp_path / "a")
  assert (image.grid, image.downsampling) == ((4, 4), 4) and 2 < image.size == image.codebook_size <= 32
  said, path = capsys.readouterr().out, tmp_path / "a" / "image_tokenizer" / "palette.json"
  assert f"image_tokenizer: {image.size} colours" in said and "validation PSNR" in said
  assert [p.name for p in path.parent.iterdir()] == ["palette.json"]
  line, = read_metrics(tmp_path / "a")["image_tokenizer"]
  assert line["val/psnr_db"] > 15 and 0.5 < line["val/codebook_usage"] <= 1
  strip = tmp_path / "a" / "report" / "samples" / "image_tokenizer_000000.png"
  np.testing.assert_allclose(code_vectors(tmp_path / "a"), pixels.load(path.parent).colours / 127.5 - 1, atol=1e-6)

  before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
  assert stage(CONFIG, tmp_path / "a").fingerprint == image.fingerprint
  said = capsys.readouterr().out
  assert "kept from before" in said and "PSNR" not in said
  assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
  strip.unlink()
  stage(CONFIG, tmp_path / "a")
  assert strip.exists()
  assert stage(CONFIG, tmp_path / "b").fingerprint == image.fingerprint
  assert stage(dataclasses.replace(CONFIG, seed=1), tmp_path / "c").fingerprint != image.fingerprint

  finer = dataclasses.replace(CONFIG, image_tokenizer=dataclasses.replace(OPTIONS, scale=2))
  with pytest.raises(ValueError, match=r"made with another config \(image_tokenizer.scale: 4 -> 2\)"):
    stage(finer, tmp_path / "a")
  with pytest.raises(ValueError, match="its palette was made with options .*'scale': 4.* remove .*use another workdir"):
    image_tokenizer.run(finer, tmp_path / "a")
  with pytest.raises(ValueError, match=r"made with another config \(image_tokenizer.kind: 'pixels' -> 'vq'\)"):
    stage(small_run.CONFIG, tmp_path / "a")
  whole = json.loads(path.read_text())
  for damaged in (path.read_text()[:-20], json.dumps({**whole, "colours": ["#010203", *whole["colours"][1:]]}), "[]"):
    path.write_text(damaged)
    with pytest.raises(ValueError, match="palette.json: damaged; remove it and run"):
      load_image_tokenizer(tmp_path / "a")
  path.unlink()
  with pytest.raises(ValueError, match="image_tokenizer: no palette; make it with python -m train.image_tokenizer"):
    load_image_tokenizer(tmp_path / "a")
  assert describe(str(tmp_path / "a"))["image_tokenizer"] is None


def test_starts_from_another_run(tmp_path):
  """With that run's palette, whatever this one's pictures are."""
  first, source = stage(CONFIG, tmp_path / "a"), str(tmp_path / "a")
  other = dataclasses.replace(CONFIG, seed=5, data=dataclasses.replace(CONFIG.data, seed=9), init=c.Init(source))
  assert stage(dataclasses.replace(other, init=c.Init()), tmp_path / "b").fingerprint != first.fingerprint
  assert stage(other, tmp_path / "c").fingerprint == first.fingerprint == stage(other, tmp_path / "c").fingerprint
  frozen = dataclasses.replace(other, init=c.Init(source, ("image_tokenizer",)))
  assert stage(frozen, tmp_path / "d").fingerprint == first.fingerprint

  finer = dataclasses.replace(other, image_tokenizer=dataclasses.replace(OPTIONS, scale=2))
  with pytest.raises(ValueError, match="init.from: the palette of .* is of scale 4, not 2; set --image-tok.*scale 4"):
    stage(finer, tmp_path / "e")
  with pytest.raises(ValueError, match="init.from: .*nowhere has no palette"):
    stage(dataclasses.replace(other, init=c.Init("nowhere")), tmp_path / "f")
  with pytest.raises(ValueError, match="there is nothing to start from; set --init.from"):
    stage(dataclasses.replace(CONFIG, init=c.Init("", ("image_tokenizer",))), tmp_path / "g")
  with pytest.raises(ValueError, match="init.from: .*image_tokenizer: holds no checkpoint"):
    stage(dataclasses.replace(small_run.CONFIG, init=c.Init(source)), tmp_path / "h")


# ---- a whole run

@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = open_workdir(tmp_path_factory.mktemp("runs") / "pixels", CONFIG)
  pipeline.run(CONFIG, folder)
  return folder


def test_run(workdir):
  """Every stage has done its part: the losses fell, everything was measured, the report and `unitok info` know it."""
  lines = read_metrics(workdir)["decoder"]
  for name in ("loss", "loss/text_to_image/image", "loss/image_to_text/text", "loss/infill/image"):
    values = [line[name] for line in lines if name in line]
    assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5]), (name, values)
  image = load_image_tokenizer(workdir)
  metrics = json.loads((workdir / "metrics.json").read_text())
  assert metrics["image_tokenizer"]["codebook_size"] == image.size == len(metrics["image_tokenizer"]["codebook_counts"])
  for key in ("image_tokenizer.psnr_db", "image_tokenizer.perplexity", "decoder.nats_per_token.image",
              "text_to_image.accuracy", "caption.exact_match", "infill.accuracy", "parser.accuracy_on_reconstructions",
              "seconds.image_tokenizer"):
    assert look_up(metrics, key) is not None, key
  page = (workdir / "report" / "index.html").read_text()
  assert f"Every picture becomes 4 × 4 codes out of {image.size}" in page and "Image tokenizer: originals" in page
  said = describe(str(workdir))
  assert said["image_tokenizer"] == {"codebook_size": image.size, "codes_a_picture": 16}
  assert said["decoder"]["vocabulary"]["image"] == image.size and said["codes"]["train"] == 48


def test_drawn(workdir):
  """A picture is its whole grid of squares in colours of the palette; a hole is filled with such, the rest kept."""
  model, colours = Model.open(workdir), pixels.load(workdir / "image_tokenizer").colours
  drawn = model.generate(["a small red circle at the top", ""], c.Sampling(temperature=1.5), seed=3)
  assert drawn.shape == (2, 16, 16, 3) and drawn.dtype == np.uint8
  assert {tuple(one) for one in drawn.reshape(-1, 3).tolist()} <= {tuple(one) for one in colours.tolist()}
  np.testing.assert_array_equal(drawn, drawn[:, ::4, ::4].repeat(4, 1).repeat(4, 2))
  assert all(isinstance(text, str) for text in model.caption(drawn, limit=20))
  mask = np.zeros((2, 16, 16), bool)
  mask[:, 5:11, 2:6] = True        # touches two by two squares, of which the model sees nothing
  filled = model.infill(drawn, mask, seed=1)
  outside = np.ones((16, 16), bool)
  outside[4:12, :8] = False
  np.testing.assert_array_equal(filled[:, outside], drawn[:, outside])
  np.testing.assert_array_equal(model.reconstruct(filled), filled)


def test_fine_tuned(workdir, tmp_path, monkeypatch):
  """The decoder of another run goes on with the same codes and ids; no word about freezing is needed."""
  seen = []
  monkeypatch.setattr(decoder, "fit", lambda **given: seen.append(given["state"]))
  monkeypatch.setattr(pipeline.evaluate, "run", lambda *_: {})
  data = dataclasses.replace(CONFIG.data, seed=9, train_examples=20)
  config = dataclasses.replace(CONFIG, seed=4, data=data, init=c.Init(str(workdir)))
  folder = open_workdir(tmp_path / "tuned", config)
  pipeline.run(config, folder)
  assert read_vocabulary(folder).fingerprint == read_vocabulary(workdir).fingerprint
  want = Model.open(workdir).sampler.params["embed"]["embedding"]
  np.testing.assert_array_equal(seen[0].params["embed"]["embedding"], want)


def test_again(workdir, tmp_path, monkeypatch, capsys):
  """The same command keeps what is finished."""
  other = tmp_path / "again"
  shutil.copytree(workdir, other)
  monkeypatch.setattr(pipeline.evaluate, "run", lambda *_: {})
  pipeline.run(CONFIG, other)
  said = capsys.readouterr().out
  assert said.count("kept from before") == 2 and "already trained to step 30" in said
