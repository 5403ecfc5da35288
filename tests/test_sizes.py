"""Pictures of several sizes through a whole run: encoded, packed into one batch, learned, drawn and described."""
import dataclasses

import numpy as np
import pytest

import small_run
import train.image_tokenizer
from unitok import config as c
from unitok.data.pipeline import batches
from unitok.data.shards import CodeShards
from unitok.data.sources import open_source
from unitok.model import Model
from unitok.run import read_vocabulary

SIZES = {(4, 8): (16, 32), (6, 6): (24, 24)}     # rows and columns of codes: pixels
DATA = dataclasses.replace(small_run.CONFIG.data, image_size=24, sizes=tuple(SIZES.values()))
CONFIG = dataclasses.replace(small_run.CONFIG, data=DATA, decoder=dataclasses.replace(
    small_run.CONFIG.decoder, row_length=192, tasks=dict(text_to_image=0.6, image_to_text=0.4),
    objectives=c.Objectives(size_tokens=True, row_ends=True)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return small_run.made(tmp_path_factory, CONFIG)


@pytest.fixture(scope="module")
def model(folder):
  return Model.open(folder)


def test_each_size_is_encoded_as_it_is(folder, model):
  shards, source = CodeShards(folder / "codes" / "train"), open_source(DATA, "train", sizes=True)
  assert list(map(tuple, shards.manifest["grids"])) == list(SIZES)
  for n in range(12):
    assert source[n].image.shape[:2] == SIZES[shards[n].image.shape]
    assert np.array_equal(shards[n].image, model.image.encode(source[n].image[None])[0])


def test_a_batch_holds_several_grids(folder):
  """Behind each [boi] stand the numbers of rows and columns, then so many codes, those of a record, each row with its
  end."""
  shards, vocabulary = CodeShards(folder / "codes" / "train"), read_vocabulary(folder)
  known = {(*shards[n].image.shape, shards[n].image.tobytes()) for n in range(len(shards))}
  iterator = batches(shards, vocabulary, CONFIG.decoder, seed=0)
  for _ in range(4):
    batch, grids = next(iterator), set()
    for row, segments in enumerate(batch.segment_ids):
      for segment in range(1, segments.max() + 1):
        at = np.flatnonzero(segments == segment)
        ids = np.append(batch.inputs[row, at], batch.targets[row, at[-1]])
        first = int(np.flatnonzero(ids == vocabulary.special("[boi]"))[0]) + 1
        height, width = vocabulary.to_codes("size", ids[first:first + 2]).tolist()
        rows = ids[first + 2:first + 2 + height * (width + 1)].reshape(height, width + 1)
        assert (rows[:, -1] == vocabulary.special("[row]")).all()
        assert (height, width, vocabulary.to_codes("image", rows[:, :-1]).tobytes()) in known
        grids.add((height, width))
    assert grids == set(SIZES)
  iterator.close()


@pytest.mark.parametrize("grid", SIZES)
def test_a_picture_of_a_given_size_is_drawn(model, monkeypatch, grid):
  """Its size is told to the model, and the codes drawn are its rows' in their order; such a picture is described."""
  asked, draw, decoded, decode = [], model.sampler.draw, [], model.image.decode
  monkeypatch.setattr(model.sampler, "draw", lambda some, *a, **k: asked.extend(some) or draw(some, *a, **k))
  monkeypatch.setattr(model.image, "decode", lambda codes: decoded.append(codes) or decode(codes))
  drawn = model.generate(["a red ring", ""], c.Sampling(temperature=1.2), seed=4, size=SIZES[grid])
  assert drawn.shape == (2, *SIZES[grid], 3) and drawn.dtype == np.uint8 and decoded[0].shape == (2, *grid)
  vocabulary, size = model.vocabulary, model.vocabulary.to_ids("size", grid).tolist()
  for document in asked:
    first = document.inputs.tolist().index(vocabulary.special("[boi]")) + 1
    assert document.inputs[first:first + 2].tolist() == size and (document.fills >= 0).sum() == np.prod(grid)
    assert (document.inputs[first:] == vocabulary.special("[row]")).sum() == grid[0] - 1      # nothing follows the last
  said = model.caption(drawn, limit=5)
  assert len(said) == 2 and all(isinstance(one, str) for one in said)


def test_sizes_without_their_tokens(folder):
  """Nothing would tell the model which grid is to be drawn; one grid needs no telling."""
  shards, vocabulary = CodeShards(folder / "codes" / "train"), read_vocabulary(folder)
  untold = dataclasses.replace(CONFIG.decoder, objectives=c.Objectives())
  with pytest.raises(ValueError, match="decoder.objectives.size_tokens is False, but the pictures have grids of 4 x 8, "
                                       "6 x 6 codes; switch it on in a new workdir, .* or give data.sizes one size"):
    batches(shards, vocabulary, untold, seed=0)
  batches(CodeShards(folder / "codes" / "val"), vocabulary, untold, seed=0).close()


@pytest.mark.parametrize("tokenizer, size, says", [
    (small_run.CONFIG.image_tokenizer, (24, 30), "24 x 30 must be .* multiples of the tokenizer's 4 pixels a code"),
    (small_run.CONFIG.image_tokenizer, (24,), "24 must be a height and a width"),
    (c.Pixels(scale=8), (24, 36), "24 x 36 must be a height and a width, multiples of image_tokenizer.scale, 8")])
def test_sizes_that_do_not_divide(tmp_path, tokenizer, size, says):
  data = dataclasses.replace(DATA, sizes=((24, 24), size))
  with pytest.raises(ValueError, match=f"data.sizes: {says}"):
    train.image_tokenizer.run(dataclasses.replace(CONFIG, data=data, image_tokenizer=tokenizer), tmp_path)
