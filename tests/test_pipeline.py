"""Shards -> packed batches: packing changes nothing, the mixture is right, a restored iterator goes on exactly."""
import dataclasses
import functools
import json
import time

import grain
import numpy as np
import pytest

from unitok import config
from unitok.data import pipeline
from unitok.data.record import Object, Record
from unitok.data.shards import CodeShards, write_shards
from unitok.modalities.image import ImageModality
from unitok.modalities.text import train
from unitok.objectives import OBJECTIVES
from unitok.sequence import AXES, FOREVER, PADDING, build
from unitok.vocab import make_vocabulary

SIDE, CELL = 16, 4


class Source:
  """Pictures of random noise; `has(n)` says what record n has: "text", "image", both or neither."""

  def __init__(self, count, has, name):
    self.count, self.has, self.name = count, has, name

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    rng, has = np.random.default_rng(index), self.has(index)
    image = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    words = " ".join(["red", "blue", "ring"][n] for n in rng.integers(0, 3, rng.integers(1, 6)))
    captions = (words, words + " too") if "text" in has else ()
    objects = tuple(Object(word, (0.1 * n, 0.0, 0.5, 1.0)) for n, word in enumerate(words.split()[:2]))
    pieces = (words, image, "too") if "text" in has and "image" in has else ()
    return Record(f"{self.name}{index}", image if "image" in has else None, captions, pieces=pieces,
                  objects=objects if "image" in has else (), questions=(("red too", words),) if "text" in has else ())


def cells(pixels):
  return pixels[:, ::CELL, ::CELL, 0].astype(np.int32) // 4


def channels(pixels):
  """Three codes a place."""
  return pixels[:, ::CELL, ::CELL].astype(np.int32) // 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """make(name, count, has, books 1 or 3) -> (CodeShards, vocabulary)."""
  root = tmp_path_factory.mktemp("codes")
  text = train(["red blue ring too"] * 3, root / "text", config.Text(vocab_size=280))
  images = {1: ImageModality(cells, None, (4, 4), CELL, 64, "cells"),
            3: ImageModality(channels, None, (4, 4), CELL, 64, "cells", 3)}
  fingerprints = {"text": text.fingerprint, "image": "cells"}
  further = {1: {}, 3: {"image.1": 64, "image.2": 64}}
  def make(name, count=40, has=lambda n: "text image", books=1):
    image = images[books]
    vocabulary = make_vocabulary({"text": text.size, "image": 64, **further[books], "location": 1024}, fingerprints)
    if not (root / name).exists():
      write_shards(root / name, Source(count, has, name), text, image, fingerprints, batch_size=8, shard_size=16, coarse=True)
    return CodeShards(root / name), vocabulary
  return make


@pytest.fixture(autouse=True)
def small_packings(monkeypatch):
  monkeypatch.setattr(pipeline, "BINS", 16)


DECODER = config.Decoder(row_length=64, train=config.Train(batch_size=4))


def only(decoder=DECODER, **tasks):
  return dataclasses.replace(decoder, tasks=tasks)


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def equal(one, two):
  return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("books", [1, 3])
def test_packed_equals_apart(made, monkeypatch, books):
  """Each document of a row is to the bit what build() makes of it alone; the rest of the row is padding."""
  shards, vocabulary = made("whole" if books == 1 else "in books", books=books)
  alone = []
  def spy(parts, vocabulary):
    alone.append(build(parts, vocabulary))
    return alone[-1]
  monkeypatch.setattr(pipeline, "build", spy)
  decoder = only(**dict.fromkeys(OBJECTIVES, 1.0))
  iterator = pipeline.batches(shards, vocabulary, decoder, seed=3)
  names = pipeline.task_names(decoder, vocabulary)
  seen = set()
  for batch in take(iterator, 12):
    for row in range(4):
      segments = batch.segment_ids[row]
      count = segments.max()
      assert count >= 1 and (np.diff(np.where(segments == 0, 99, segments)) >= 0).all()   # padding stands last
      for segment in range(1, count + 1):
        at = np.flatnonzero(segments == segment)
        assert np.array_equal(at, np.arange(at[0], at[-1] + 1))
        fields = {name: value[row, at] for name, value in batch._asdict().items() if value is not None}
        assert ("extra_codes" in fields) == ("extra_targets" in fields) == (books > 1)
        match = [d for d in alone if d.length == len(at) and
                 all(np.array_equal(getattr(d, name), fields[name]) for name in fields if hasattr(d, name))]
        assert match, "a packed document is none of those built"
        objective = {vocabulary.special(f"[{name}]"): name for name in OBJECTIVES}[int(fields["inputs"][0])]
        told = [names[task] for task in fields["tasks"][fields["loss_weights"] > 0]]
        assert told and all(name.split("/")[0] == objective for name in told)
        ids = fields["targets"][fields["loss_weights"] > 0]
        for name, one in zip(told, ids):
          assert vocabulary.allowed(name.split("/")[1], "special")[one]
        seen.add(objective)
      rest = segments == 0
      for name, value in PADDING.items():
        assert name.startswith("extra") and books == 1 or (getattr(batch, name)[row][rest] == value).all(), name
  assert seen == set(OBJECTIVES)
  iterator.close()


@pytest.mark.parametrize("books", [1, 3])
def test_batch_form(made, books):
  shards, vocabulary = made("whole" if books == 1 else "in books", books=books)
  iterator = pipeline.batches(shards, vocabulary, DECODER, seed=0, batch_size=3)
  batch = next(iterator)
  for name, array in batch._asdict().items():
    if name.startswith("extra") and books == 1:
      assert array is None
      continue
    assert array.shape == (3, 64, *({"positions": (AXES,), "extra_codes": (2,), "extra_targets": (2,)}.get(name, ())))
    assert array.dtype == (np.float32 if name in ("loss_weights", "positions") else np.int32)
    assert array.flags.c_contiguous
  padding = batch.segment_ids == 0
  assert padding.mean() < 0.5 and np.array_equal(padding, batch.visible_from == FOREVER)
  iterator.close()


@pytest.mark.parametrize("before", [0, 1, 7, 70])
def test_restored_goes_on(made, before):
  """The state is small JSON; a new iterator with it gives the same batches, over epochs and packings."""
  shards, vocabulary = made("whole")
  iterator = pipeline.batches(shards, vocabulary, DECODER, seed=1)
  take(iterator, before)
  state = json.loads(json.dumps(iterator.get_state()))
  after = take(iterator, 6)
  assert len(json.dumps(state)) < 1000
  again = pipeline.batches(shards, vocabulary, DECODER, seed=1)
  take(again, 2)
  again.set_state(state)
  assert all(equal(a, b) for a, b in zip(after, take(again, 6)))
  iterator.set_state(state)
  assert all(equal(a, b) for a, b in zip(after, take(iterator, 6)))
  iterator.close(), again.close()


def test_restoring_repeats_no_past(made, monkeypatch):
  """At most the packing at hand is built anew, however far the state is."""
  shards, vocabulary = made("whole")
  iterator = pipeline.batches(shards, vocabulary, DECODER, seed=1)
  take(iterator, 150)
  state = iterator.get_state()
  iterator.close()
  calls = []
  again = pipeline.batches(shards, vocabulary, DECODER, seed=1)
  monkeypatch.setattr(pipeline, "build", lambda *a: (calls.append(1), build(*a))[1])
  again.set_state(state)
  next(again)
  again.close()
  assert len(calls) < 600   # 150 batches are 1,500 documents


@pytest.mark.parametrize("readers, split", [(1, [4, 4]), (2, [4, 4]), (4, [2, 2, 2, 2]), (2, [3, 3, 2]), (4, [8])])
def test_processes_share_the_batches(made, readers, split):
  """Whatever the processes, their rows together are the batches of one, with what they read; so they are where as many
  others go on from a position."""
  shards, vocabulary = made("whole")
  decoder = dataclasses.replace(DECODER, readers=readers, train=config.Train(batch_size=8))
  open_ = lambda rows=None: pipeline.batches(shards, vocabulary, decoder, seed=1, rows=rows)
  together = lambda parts: pipeline.Batch(*(None if some[0] is None else np.concatenate(some) for some in zip(*parts)))
  one, ends = open_(), np.cumsum([0, *split])
  several = [open_(np.arange(start, end)) for start, end in zip(ends, ends[1:])]
  for _ in range(9):
    assert equal(next(one), together([next(part) for part in several]))
  state = {}
  for part in several:
    state |= json.loads(json.dumps(part.get_state()))
  assert state == one.get_state()
  after, odd = take(one, 3), open_(np.array([1, 6]))
  for part in (odd, one, *several):
    part.set_state(state)
  for want in after:
    assert equal(want, next(one)) and equal(want, together([next(part) for part in several]))
    assert equal([x if x is None else x[[1, 6]] for x in want], next(odd))
  for part in (one, odd, *several):
    part.close()


def test_readers(made, monkeypatch):
  """Each record once an epoch, whoever reads it, under the objective that a single reader draws; only what feeds a
  process's own rows is read by it."""
  shards, vocabulary = made("whole")
  decoder = dataclasses.replace(DECODER, readers=2, train=config.Train(batch_size=8))
  seen = []
  class Spy(pipeline._Documents):
    def document(self, name, codes, rng):
      seen.append((codes.key, name))
      return super().document(name, codes, rng)
  monkeypatch.setattr(pipeline, "_Documents", Spy)
  monkeypatch.setattr(Spy, "try_longest", lambda *a: None)
  def read(decoder, rows):
    seen.clear()
    iterator = pipeline.batches(shards, vocabulary, decoder, seed=1, rows=rows)
    take(iterator, 8)
    iterator.close()
    return seen[:40]
  alone = read(dataclasses.replace(decoder, readers=1), None)
  left, right = read(decoder, np.arange(4)), read(decoder, np.arange(4, 8))
  assert left[:20] == alone[::2] and right[:20] == alone[1::2]
  with pytest.raises(ValueError, match="decoder.readers: 3 do not divide the 8 rows of a batch; take one of 1, 2, 4, 8"):
    pipeline.batches(shards, vocabulary, dataclasses.replace(decoder, readers=3), seed=1)


def test_seeds_and_epochs(made):
  """Another seed, and another epoch, is another order with other objectives; the same seed is the same."""
  shards, vocabulary = made("whole")
  def first(seed):
    iterator = pipeline.batches(shards, vocabulary, DECODER, seed)
    batch = next(iterator)
    iterator.close()
    return batch
  assert equal(first(5), first(5)) and not equal(first(5), first(6))
  seen = []
  class Spy(pipeline._Documents):
    def document(self, name, codes, rng):
      seen.append((codes.key, name))
      return super().document(name, codes, rng)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pipeline, "_Documents", Spy)
    patch.setattr(Spy, "try_longest", lambda *a: None)
    iterator = pipeline.batches(shards, vocabulary, DECODER, seed=0)
    take(iterator, 12)
    iterator.close()
  epochs = [seen[n:n + 40] for n in (0, 40, 80)]
  assert all(len({key for key, _ in epoch}) == 40 for epoch in epochs)   # each record once an epoch
  orders = [[key for key, _ in epoch] for epoch in epochs]
  assert orders[0] != orders[1] != orders[2] and orders[0] != [f"whole{n}" for n in range(40)]
  assert dict(epochs[0]) != dict(epochs[1])


def test_mixture(made):
  """Shares as the weights say, whatever their sum; a weight of 0 is never drawn."""
  shards, vocabulary = made("whole")
  decoder = only(text_to_image=3.0, image_to_text=0, text=1)
  iterator = pipeline.batches(shards, vocabulary, decoder, seed=0)
  assert pipeline.task_names(decoder, vocabulary) == ["text_to_image/image", "text/text"]
  inputs = np.concatenate([batch.inputs.ravel() for batch in take(iterator, 128)])
  count = {name: (inputs == vocabulary.special(f"[{name}]")).sum() for name in OBJECTIVES}
  assert count["image_to_text"] == count["infill"] == 0
  assert 0.70 < count["text_to_image"] / sum(count.values()) < 0.80
  iterator.close()


def test_sets_are_mixed_by_a_temperature(made, monkeypatch):
  """Of 40 and 10 records: 0.8 and 0.2 by number, 2/3 and 1/3 at temperature 2; realised over 10,000 draws within 1 %."""
  assert pipeline.shares([40, 10], 1.0) == pytest.approx([0.8, 0.2])
  assert pipeline.shares([40, 10], 2.0) == pytest.approx([2 / 3, 1 / 3])
  large, vocabulary = made("large", 40)
  small, _ = made("small", 10, lambda n: "image")       # told apart: these have no text
  decoder = dataclasses.replace(only(image=1.0), temperature=2.0)
  keys, documents, drawn = [], pipeline._Documents.__call__, []
  def spy(self, codes, rng):
    keys.append(codes.key)
    return documents(self, codes, rng)
  monkeypatch.setattr(pipeline._Documents, "__call__", spy)
  iterator = pipeline.batches([large, small], vocabulary, decoder, seed=0)
  next(iterator), iterator.close()
  # the draws without what is costly and decides on no set: each set's order, its codes, and packing
  monkeypatch.setattr(pipeline._Documents, "__call__", lambda self, codes, rng: drawn.append(codes.key))
  monkeypatch.setattr(pipeline, "_packed", lambda dataset, *args, **options: dataset)
  monkeypatch.setattr(CodeShards, "__getitem__", functools.cache(CodeShards.__getitem__))
  monkeypatch.setattr(grain.MapDataset, "shuffle", lambda self: self)
  draws = pipeline.batches([large, small], vocabulary, decoder, seed=0)
  for n in range(10_000):
    draws[n]
  keys, drawn = ([key.startswith("small") for key in some] for some in (keys, drawn))
  assert len(drawn) == 10_000 and len(keys) > 10 and drawn[:len(keys)] == keys
  assert abs(np.mean(drawn) - 1 / 3) < 0.01
  with pytest.raises(ValueError, match="decoder.temperature: 0.0 must be"):
    pipeline.batches(large, vocabulary, dataclasses.replace(decoder, temperature=0.0), seed=0)


def test_tasks_are_drawn_in_their_shares(made):
  """Over 10,000 draws within 1 %."""
  shards, vocabulary = made("whole")
  weights = dict(text_to_image=0.5, image_to_text=0.2, text=0.3)
  documents, seen = pipeline._Documents(vocabulary, only(**weights)), dict.fromkeys(weights, 0)
  documents.document = lambda name, codes, rng: seen.__setitem__(name, seen[name] + 1)
  for index in range(10_000):
    documents(shards[index % len(shards)], np.random.default_rng(index))
  assert {name: pytest.approx(weight, abs=0.01) for name, weight in weights.items()} == \
      {name: count / 10_000 for name, count in seen.items()}


def test_documents_can_count_alike(made):
  """With weigh_by "document" the targets of each share its objective's weight, however many they are."""
  shards, vocabulary = made("whole")
  decoder = dataclasses.replace(only(text=0.5, text_to_image=0.5), weigh_by="document", loss_weights=dict(text=3.0))
  documents = pipeline._Documents(vocabulary, decoder)
  for index in range(5):
    for name, weight in (("text", 3.0), ("text_to_image", 1.0)):
      document = documents.draw(name, shards[index], np.random.default_rng(0))
      carried = document.loss_weights[document.loss_weights > 0]
      assert carried.sum() == pytest.approx(weight) and np.ptp(carried) == 0 and len(carried) > 1


def test_loss_weights(made):
  """Each objective's targets, and nothing else, carry its weight."""
  shards, vocabulary = made("whole")
  decoder = dataclasses.replace(only(text_to_image=1.0, image_to_text=1.0, text=1.0),
                                loss_weights=dict(image_to_text=2.5, text=0.5))
  names, wanted = pipeline.task_names(decoder, vocabulary), {"image_to_text/text": 2.5, "text/text": 0.5}
  plain, iterator = (pipeline.batches(shards, vocabulary, d, seed=0)
                     for d in (dataclasses.replace(decoder, loss_weights={}), decoder))
  for before, batch in zip(take(plain, 4), take(iterator, 4)):
    factor = np.array([wanted.get(name, 1.0) for name in names], np.float32)[batch.tasks]
    assert np.array_equal(batch.loss_weights, before.loss_weights * factor) and len(np.unique(batch.loss_weights)) == 4
  plain.close(), iterator.close()
  with pytest.raises(ValueError, match="decoder.loss_weights: the weight of text is 0, must be a number from 1e-06 on"):
    pipeline.batches(shards, vocabulary, dataclasses.replace(decoder, loss_weights=dict(text=0)), seed=0)


def test_what_a_record_lacks(made):
  """A picture without captions is never a text task's, a text without picture never a picture's."""
  shards, vocabulary = made("mixed", 48, lambda n: ("text", "image", "text image", "")[n % 4])
  iterator = pipeline.batches(shards, vocabulary, DECODER, seed=0)
  for batch in take(iterator, 20):
    for row in range(4):
      for segment in range(1, batch.segment_ids[row].max() + 1):
        at = batch.segment_ids[row] == segment
        inputs, weights = batch.inputs[row][at], batch.loss_weights[row][at]
        assert weights.sum() >= 1
        if inputs[0] == vocabulary.special("[image_to_text]"):
          assert vocabulary.allowed("text")[inputs].any() and vocabulary.allowed("image")[inputs].any()
  iterator.close()
  pictures, _ = made("pictures", 8, lambda n: "image")
  for tasks in (dict(text=1.0), dict(image_to_text=1.0, text=1.0)):
    with pytest.raises(ValueError, match="pictures: no record can be used by .*text; add captions"):
      pipeline.batches(pictures, vocabulary, only(**tasks), seed=0)
  iterator = pipeline.batches(pictures, vocabulary, DECODER, seed=0)
  assert not vocabulary.allowed("text")[next(iterator).inputs].any()
  iterator.close()


def test_several_folders(made):
  """Two folders of shards are one set of records."""
  one, vocabulary = made("whole")
  two, _ = made("pictures", 8, lambda n: "image")
  examples = pipeline._Examples([one, two], vocabulary, pipeline.mixture(DECODER))
  assert [examples[i].key for i in (0, 39, 40, 47)] == ["whole0", "whole39", "pictures0", "pictures7"] and len(examples) == 48
  iterator = pipeline.batches([one, two], vocabulary, DECODER, seed=0)
  next(iterator)
  iterator.close()


def test_one_epoch(made):
  """Each record once, the last batch filled up with padding."""
  shards, vocabulary = made("whole")
  iterator = pipeline.batches(shards, vocabulary, only(image_to_text=1.0), seed=0, batch_size=16, epochs=1)
  found = list(iterator)
  assert all(batch.inputs.shape == (16, 64) for batch in found)
  assert any((batch.segment_ids == 0).all(1).any() for batch in found)
  for batch in found:
    for name, value in PADDING.items():
      if getattr(batch, name) is None:
        continue
      assert (getattr(batch, name)[batch.segment_ids == 0] == value).all(), name
  assert sum((batch.inputs == vocabulary.special("[image_to_text]")).sum() for batch in found) == 40
  iterator.close()


@pytest.mark.parametrize("tasks, says", [
    (dict(caption=1.0), "no objective 'caption'; legal: text_to_image, image_to_text, infill, text"),
    (dict(text=-0.5, infill=1.0), "weight of text is -0.5"),
    (dict(text=float("nan")), "weight of text is nan"),
    (dict(text=0.0, infill=0), "no weight is above 0"),
    ({}, "no weight is above 0"),
])
def test_illegal_mixture(made, tasks, says):
  shards, vocabulary = made("whole")
  with pytest.raises(ValueError, match=says):
    pipeline.batches(shards, vocabulary, only(**tasks), seed=0)


def test_too_long(made):
  """Told at once, not when the document's turn comes; the length it names is enough."""
  shards, vocabulary = made("whole")
  short = dataclasses.replace(DECODER, row_length=20, tasks=dict(image_to_text=1.0))
  with pytest.raises(ValueError, match=r"has (\d+) tokens, decoder.row_length is 20; raise it to \1 or more") as told:
    pipeline.batches(shards, vocabulary, short, seed=0)
  length = int(str(told.value).split("has ")[1].split()[0])
  iterator = pipeline.batches(shards, vocabulary, dataclasses.replace(short, row_length=length), seed=0)
  next(iterator)
  iterator.close()


def test_many_questions_are_too_long(made):
  """As many as may be asked for are tried at the start."""
  shards, vocabulary = made("whole")
  row = lambda questions: dataclasses.replace(only(question=1.0), row_length=100,
                                              objectives=config.Objectives(questions=questions))
  pipeline.batches(shards, vocabulary, row(1), seed=0).close()
  with pytest.raises(ValueError, match="its question document has .* tokens, decoder.row_length is 100"):
    pipeline.batches(shards, vocabulary, row(16), seed=0)


def infill_lengths(examples, vocabulary, count):
  """Of documents of the record that has the longest caption, under `count` random holes."""
  codes = pipeline.largest(examples.longest, examples.grid)
  return [build(OBJECTIVES["infill"](codes, np.random.default_rng(n), config.Objectives()), vocabulary).length for n in range(count)]


def test_hole_that_makes_a_document_too_long(made, monkeypatch):
  """It is found at the start, though it is rare; where it is not, the document is drawn again, the same one each time."""
  shards, vocabulary = made("whole")
  examples = pipeline._Examples([shards], vocabulary, {"infill": 1.0})
  lengths = infill_lengths(examples, vocabulary, pipeline.TRIES)
  longest, row = max(lengths), max(lengths[:8])
  assert row < longest, "else eight tries would do"
  decoder = dataclasses.replace(only(infill=1.0), row_length=row)
  with pytest.raises(ValueError, match=f"its infill document has {longest} tokens, .* raise it to {longest} or more"):
    pipeline.batches(shards, vocabulary, decoder, seed=0)

  monkeypatch.setattr(pipeline, "TRIES", 8)   # the longest is not met at the start
  codes, documents = pipeline.largest(examples.longest, examples.grid), pipeline._Documents(vocabulary, decoder)
  for seed, length in enumerate(lengths):
    first, again = (documents.document("infill", codes, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(first, again) and len(first) <= row and (length > row or len(first) == length)
  iterator = pipeline.batches(shards, vocabulary, decoder, seed=0)
  take(iterator, 100)
  iterator.close()
  hopeless = pipeline._Documents(vocabulary, dataclasses.replace(decoder, row_length=16))
  with pytest.raises(ValueError, match="whole3: its infill document has .* tokens, decoder.row_length is 16"):
    hopeless.document("infill", shards[3], np.random.default_rng(0))


def test_longest_of_all_captions_together(made):
  """A document of sentences holds every caption of its record: that is tried at the start, too."""
  shards, vocabulary = made("whole")
  short = dataclasses.replace(only(glm_sentences=1.0), row_length=30)
  with pytest.raises(ValueError, match=r"its glm_sentences document has (\d+) tokens, .* raise it to \1 or more") as told:
    pipeline.batches(shards, vocabulary, short, seed=0)
  enough = int(str(told.value).split("has ")[1].split()[0])
  make = lambda codes, seed: OBJECTIVES["glm_sentences"](codes, np.random.default_rng(seed), config.Objectives())
  longest = max(build(make(shards[n], seed), vocabulary).length for n in range(40) for seed in range(8))
  assert longest <= enough <= longest + 2
  codes = pipeline.largest(dict(dict.fromkeys(pipeline.LONGEST, 0), longest_text=9, longest_texts=27, most_sentences=6), (0, 0))
  assert [len(one) for one in codes.text] == [9, 8, 8] and [ends.tolist() for ends in codes.sentences] == [[1, 2, 3, 9], [8], [8]]
  old = pipeline.largest(dict(dict.fromkeys(pipeline.LONGEST, 0), longest_text=9), (0, 0))      # of an older manifest
  assert [len(one) for one in old.text] == [9] and [ends.tolist() for ends in old.sentences] == [[9]]


@pytest.mark.parametrize("setting, says", [
    (dict(caption_drop=1.5), "caption_drop: 1.5 must be in 0 .. 1"),
    (dict(image_first=-0.1), "image_first: -0.1 must be in 0 .. 1"),
    (dict(raster_share=2.0), "raster_share: 2.0 must be in 0 .. 1"),
    (dict(blank_share=0.0), "blank_share: 0.0 must be above 0, up to 1"),
    (dict(blank_length=float("nan")), "blank_length: nan must be above 0"),
    (dict(least_groups=0), "least_groups: 0 must be 1 or more"),
    (dict(questions=0), "questions: 0 must be in 1 .. 16"),
    (dict(questions=17), "questions: 17 must be in 1 .. 16"),
    (dict(hole_share=(0.5, 0.2)), r"hole_share: \(0.5, 0.2\) must be two numbers, 0 <= least <= greatest <= 1"),
    (dict(holes=dict(circles=1.0)), "holes: no kind 'circles'; legal: rectangles, patches, halves"),
    (dict(holes=dict(patches=-1.0)), "holes: the weight of patches is -1.0"),
    (dict(holes=dict(patches=0.0)), "holes: no weight is above 0")])
def test_settings_of_objectives(made, setting, says):
  shards, vocabulary = made("whole")
  decoder = dataclasses.replace(DECODER, objectives=config.Objectives(**setting))
  with pytest.raises(ValueError, match=f"decoder.objectives.{says}"):
    pipeline.batches(shards, vocabulary, decoder, seed=0)


def test_grid_beyond_its_embedding(made):
  """Rows past the last would all be told as the last; 0 tells none."""
  shards, vocabulary = made("whole")
  with pytest.raises(ValueError, match="decoder.grid_embedding is 3, the pictures have up to 4 x 4 codes; raise it to 4"):
    pipeline.batches(shards, vocabulary, dataclasses.replace(DECODER, grid_embedding=3), seed=0)
  for size in (0, 4):
    pipeline.batches(shards, vocabulary, dataclasses.replace(DECODER, grid_embedding=size), seed=0).close()


def test_other_tokenizer(made):
  shards, vocabulary = made("whole")
  other = make_vocabulary({"text": 280, "image": 64}, {**vocabulary.fingerprints, "image": "other"})
  with pytest.raises(ValueError, match="made by the image tokenizer cells, the vocabulary's is other"):
    pipeline.batches(shards, other, DECODER, seed=0)


def test_speed(made):
  """150 documents a second in a quarter of a core are 1.7 ms of processor time each; measured: 0.5 to 0.8."""
  shards, vocabulary = made("whole")
  iterator = pipeline.batches(shards, vocabulary, DECODER, seed=0)
  next(iterator)
  start = time.process_time()
  documents = sum(int(batch.segment_ids.max(1).sum()) for batch in take(iterator, 128))
  assert (time.process_time() - start) / documents < 0.0034   # twice that, for a busy machine
  iterator.close()
