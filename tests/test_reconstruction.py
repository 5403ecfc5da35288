"""The image tokenizer measured by itself: a run's that has nothing else, an imported one; the same twice."""
import hashlib
import json

import numpy as np
import pytest
import small_run
from PIL import Image
from safetensors.numpy import save_file
from test_inception import published as inception
from test_interop import network
from test_lpips import published

import train.image_tokenizer
from train import evaluate, stage
from unitok import config as c
from unitok.evaluation.frechet import Moments, distance
from unitok.evaluation.networks import Networks, differences
from unitok.evaluation.reconstruction import measure, preprocessing, psnr_db
from unitok.interop import vqgan
from unitok.interop.measures import read_lpips


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  """A run's folder with an image tokenizer alone."""
  folder = stage.open_workdir(tmp_path_factory.mktemp("tokenizer"), small_run.CONFIG)
  train.image_tokenizer.run(small_run.CONFIG, folder)
  return folder


def measured(folder, *more) -> bytes:
  evaluate.main(["--what", "image_tokenizer", "--workdir", str(folder), *more])
  return (folder / "metrics_image_tokenizer.json").read_bytes()


def test_a_run_that_is_a_tokenizer_alone(tokenizer, capsys):
  before = (tokenizer / "config.json").read_bytes()
  first = measured(tokenizer, "--evaluation.batch_size", "4")
  assert "16 x 16 pixels, RGB of 8 bits, drawn at that size" in capsys.readouterr().out
  assert measured(tokenizer, "--evaluation.batch_size=4") == first
  metrics = json.loads(first)
  assert metrics["image_tokenizer"]["psnr_db_n"] == 9 and metrics["preprocessing"]["split"] == "val"
  assert metrics["image_tokenizer"]["bits_per_pixel"] == 5 / 16          # 32 codes, each of 4 x 4 pixels
  assert sum(metrics["image_tokenizer"]["codebook_counts"]) == 9 * 16
  assert json.loads(measured(tokenizer, "--evaluation.split", "train", "--evaluation.examples", "5")) != metrics
  assert (tokenizer / "config.json").read_bytes() == before


def test_an_imported_one(tmp_path):
  """On a folder of pictures without splits, at the size that is asked for."""
  save_file(network("taming"), tmp_path / "vq.safetensors")
  vqgan.write(str(tmp_path / "vq.safetensors"), "taming", tmp_path / "run")
  (tmp_path / "pictures").mkdir()
  pixels = np.random.default_rng(0).integers(0, 256, (3, 12, 20, 3), np.uint8)
  for n, one in enumerate(pixels):
    Image.fromarray(one).save(tmp_path / "pictures" / f"{n}.png")
  words = ["--data.path", str(tmp_path / "pictures"), "--data.image_size", "8", "--evaluation.split", "train"]
  metrics = json.loads(measured(tmp_path / "run", *words))
  assert metrics["image_tokenizer"]["psnr_db_n"] == 3
  assert metrics["preprocessing"]["pictures"].startswith("8 x 8 pixels")


def test_measure_is_of_all_pictures():
  """However they are cut into batches; the figures as numpy has them."""
  rng = np.random.default_rng(0)
  images, back = rng.integers(0, 256, (2, 6, 16, 16, 3), np.uint8)
  codes = rng.integers(0, 3, (6, 2, 4), np.int32)
  one, many = (measure([(images[a:b], codes[a:b], back[a:b]) for a, b in cuts], 4)
               for cuts in ([(0, 6)], [(0, 1), (1, 4), (4, 6)]))
  assert one == many and one["psnr_db"] == psnr_db(images, back).mean() and one["bits_per_pixel"] == 8 * 2 / 256
  p = np.bincount(codes.ravel()) / codes.size
  assert one["codebook_usage"] == 0.75 and one["perplexity"] == pytest.approx(np.exp(-(p * np.log(p)).sum()))
  with pytest.raises(ValueError, match="there is no picture to measure the image tokenizer on"):
    measure([], 4)


def test_preprocessing_says_what_is_done():
  said = {resize: preprocessing(c.ImageFolder(image_size=64, resize=resize))["pictures"]
          for resize in ("fit", "crop", "pad")}
  assert len(set(said.values())) == 3 and all(text.startswith("64 x 64 pixels") for text in said.values())


def test_lpips_where_its_weights_are_named(tokenizer, tmp_path):
  """The same figure whatever the batches, of the very file that is told; weights that are none are told at once."""
  file = tmp_path / "w.safetensors"
  save_file(published(), file)
  found = [json.loads(measured(tokenizer, "--evaluation.lpips", str(file), "--evaluation.batch_size", size))
           for size in "94"]
  one, other = (metrics["image_tokenizer"] for metrics in found)
  assert one["lpips"] == pytest.approx(other["lpips"], rel=1e-6) and one["lpips"] > 0 and one["lpips_n"] == 9
  assert hashlib.sha256(file.read_bytes()).hexdigest() in found[0]["preprocessing"]["lpips"]
  black = np.zeros((3, 16, 16, 3), np.uint8)
  assert differences(read_lpips(str(file)))(black, black).max() < 1e-12
  with pytest.raises(ValueError, match="pictures of 8 x 8 pixels are too small for LPIPS; take 16"):
    differences(None)(black[:, :8, :8], black[:, :8, :8])


def test_rfid_is_of_all_pictures():
  """The distance between the features of all pictures and of all that comes back, however they are cut into batches."""
  rng = np.random.default_rng(0)
  images, back = rng.integers(0, 256, (2, 7, 16, 16, 3), np.uint8)
  features = lambda x: x.reshape(len(x), 4, -1).mean(-1)
  want = distance(Moments.of(features(images)), Moments.of(features(back)))
  for size in (1, 3, 7):
    passes = [(images[n:n + size], np.zeros((1, 1, 1), int), back[n:n + size]) for n in range(0, 7, size)]
    found = measure(passes, 4, Networks(features=features))
    assert found["rfid"] == pytest.approx(want, rel=1e-10) and found["rfid_n"] == 7 and want > 1
  same = measure([(images, np.zeros((1, 1, 1), int), images)], 4, Networks(features=features))
  assert same["rfid"] == pytest.approx(0, abs=1e-9)


@pytest.mark.slow      # eigenvalues of 2,048 dimensions
def test_every_figure_again(tokenizer, tmp_path):
  """With both networks the same bytes twice."""
  save_file(published(), tmp_path / "lpips"), save_file(inception(), tmp_path / "inception")
  words = ["--evaluation.lpips", str(tmp_path / "lpips"), "--evaluation.inception", str(tmp_path / "inception")]
  first = measured(tokenizer, *words)
  assert measured(tokenizer, *words) == first
  metrics = json.loads(first)
  assert metrics["image_tokenizer"]["rfid"] > 0 and "pytorch-fid" in metrics["preprocessing"]["rfid"]


@pytest.mark.parametrize("words, says", [
    (["--what", "image_tokenizer", "--evaluation.inception", "none"], "none: no such file; make one of pytorch"),
    (["--what", "image_tokenizer", "--evaluation.lpips", "none"], "none: no such file; make one of the lpips"),
    (["--what", "decoder"], "--what decoder: must be one of run, image_tokenizer"),
    (["--what", "image_tokenizer", "--evaluation.examples", "0"], "examples 0 must be 1 or more"),
    (["--what", "image_tokenizer", "--data.image_size", "18"], "data.image_size: 18 is no multiple"),
    (["--what", "image_tokenizer", "--data.val_examples", "0"], "there is no picture to measure"),
    (["--what", "image_tokenizer", "--workdir", "nowhere"], "--config is missing")])
def test_bad_input(tokenizer, capsys, words, says):
  with pytest.raises(SystemExit) as stop:
    evaluate.main([*words, *(["--workdir", str(tokenizer)] if "--workdir" not in words else [])])
  line = capsys.readouterr().err
  assert stop.value.code == 2 and line.startswith("unitok: ") and line.count("\n") == 1 and says in line
