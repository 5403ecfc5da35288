"""Large pictures by overlapping tiles: the whole's codes and pixels where a network sees no further than the margin."""
import jax
import numpy as np
import pytest
import small_run
from PIL import Image

import train.image_tokenizer
from train.stage import open_workdir
from unitok.cli import main
from unitok.config import ImageTokenizer, Quantizer
from unitok.modalities.image import ImageModality, windows
from unitok.run import image_modality
from unitok.sharding import path_name
from unitok.steps import Tokenizer

SIDE = 4          # pixels a code
REACH = 2         # codes: a block sees a place beyond its own, once of half a code and once of a whole one, so 1.5


@pytest.fixture(scope="module")
def image():
  """convnext, its blocks made to see their neighbours as much as their own place."""
  quantizer = Quantizer(codebook_size=64, code_dim=4)
  tokenizer = Tokenizer(ImageTokenizer(widths=(8, 12), blocks=(1, 1), quantizer=quantizer))
  params, state = tokenizer.init(jax.random.key(0))

  def grown(path, leaf):
    name = path_name(path)
    return leaf + 1 if "taps" in name else 5 * leaf if "down" in name else leaf

  params = jax.tree_util.tree_map_with_path(grown, params)
  return image_modality(tokenizer, params, state, 32)


@pytest.mark.parametrize("length", [1, 5, 8, 9, 16, 30])
@pytest.mark.parametrize("tile, margin", [(8, 0), (8, 1), (8, 3), (5, 2)])
def test_windows(length, tile, margin):
  """They keep every place once, all inside, and far enough from where they are cut."""
  found = windows(length, tile, margin)
  assert [place for one in found for place in range(one.low, one.high)] == list(range(length))
  for one in found:
    end = one.start + min(tile, length)
    assert 0 <= one.start <= one.low < one.high <= end <= length
    assert one.start == 0 or one.low >= one.start + margin
    assert end == length or one.high <= end - margin


def test_an_example():
  assert [tuple(one) for one in windows(10, 6, 1)] == [(0, 0, 5), (4, 5, 10)]


@pytest.mark.parametrize("size", [(64, 64), (32, 84), (60, 16)])
def test_equal_to_the_whole(image, size):
  pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
  codes = image.encode(pixels)
  assert len(np.unique(codes)) > 10
  np.testing.assert_array_equal(image.encode(pixels, 32, REACH * SIDE), codes)
  back = image.decode(codes)
  near = np.abs(image.decode(codes, 32, REACH * SIDE).astype(int) - back)
  assert near.max() <= 1 and (near > 0).mean() < 1e-3      # the last bit before rounding


def test_seams_without_a_margin(image):
  """Codes differ beside the cuts, and nowhere else."""
  pixels = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), np.uint8)
  apart = (image.encode(pixels, 32, 0) != image.encode(pixels)).any(0)
  beside = np.zeros(16, bool)
  beside[8 - REACH:8 + REACH] = True
  assert apart.any() and not apart[~beside][:, ~beside].any()
  codes = image.encode(pixels)
  differs = (image.decode(codes, 32, 0).astype(int) - image.decode(codes)).any((0, 3))
  assert differs.any() and not differs[~beside.repeat(SIDE)][:, ~beside.repeat(SIDE)].any()


def test_small_pictures_are_whole(image):
  pixels = np.random.default_rng(2).integers(0, 256, (2, 32, 20, 3), np.uint8)
  np.testing.assert_array_equal(image.encode(pixels, 32), image.encode(pixels))


@pytest.mark.parametrize("tile, margin, says", [
    (30, 4, "tiles of 30 pixels and margins of 4 must be multiples of 4"), (32, 6, "margins of 6 must be multiples"),
    (32, 16, "nothing left between margins of 16; take tiles of 36 or more"), (-4, 0, "tiles of -4 pixels")])
def test_bad_tiles(tile, margin, says):
  image = ImageModality(None, None, (8, 8), SIDE, 64, "f")
  for call, x in ((image.encode, np.zeros((1, 64, 64, 3), np.uint8)), (image.decode, np.zeros((1, 16, 16), int))):
    with pytest.raises(ValueError, match=says):
      call(x, tile, margin)


def test_reconstruct(tmp_path, capsys):
  """`--tile` keeps a picture's own size but for what is no whole code."""
  folder = open_workdir(tmp_path / "run", small_run.CONFIG)
  train.image_tokenizer.run(small_run.CONFIG, folder)
  for name, size in (("wide", (50, 23)), ("small", (9, 12)), ("tiny", (3, 40))):
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"{name}.png")
  words = ["reconstruct", "--model", str(folder), "--out", str(tmp_path / "out"), "--tile", "16"]
  assert main([*words, str(tmp_path / "wide.png"), str(tmp_path / "small.png")]) == 0
  assert Image.open(tmp_path / "out" / "wide_reconstructed.png").size == (48, 20)
  assert Image.open(tmp_path / "out" / "small_reconstructed.png").size == (8, 12)
  assert not (tmp_path / "out" / "grid.png").exists()
  assert main([*words, str(tmp_path / "tiny.png")]) == 2
  assert "tiny.png: 3 x 40 pixels are less than the 4 x 4 of a code" in capsys.readouterr().err
