"""Code shards: what was written is read, a stopped encoding goes on, what does not belong is refused."""
import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from unitok import config
from unitok.data import shards
from unitok.data.pictures import resize
from unitok.data.record import BadRecord, Object, Record
from unitok.data.shards import CodeShards, write_shards
from unitok.modalities.image import ImageModality
from unitok.modalities.text import train
from unitok.objectives.codes import Codes

SIDE, CELL = 16, 4


def mean_colour(pixels):
  """u8[b H W 3] -> codes 0 .. 63 of the mean colour of each 4x4 cell: an image tokenizer without a network."""
  b, h, w, _ = pixels.shape
  cells = pixels.reshape(b, h // CELL, CELL, w // CELL, CELL, 3).mean((2, 4)).astype(np.int32) // 64
  return cells @ np.array([16, 4, 1], np.int32)


class Source:
  """Twenty-five pictures; every fifth has no caption, the seventh no picture."""

  def __init__(self, count=25, bad=()):
    self.count, self.bad, self.asked = count, bad, []

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    self.asked.append(index)
    if index in self.bad:
      raise BadRecord(f"{index}.png", "is broken", "mend it")
    image = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    captions = () if index % 5 == 4 else (f"picture {index}", "a picture")
    return Record(f"{index}.png", None if index == 7 else image, captions)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  return train(["picture 0123456789", "a picture"], tmp_path_factory.mktemp("text"), config.Text())


IMAGE = ImageModality(mean_colour, None, (SIDE // CELL, SIDE // CELL), CELL, 64, "mean")


def write(folder, source, text, **options):
  options = {"fingerprints": {"text": text.fingerprint, "image": "mean"}, "batch_size": 4, "shard_size": 8} | options
  return write_shards(folder, source, text, options.pop("image", IMAGE), **options)


def content(folder):
  found = CodeShards(folder)
  return [shards.pack(found[i]) for i in range(len(found))]


def test_sizes_and_pieces(tmp_path, text):
  """Pictures of several sizes keep their grids; interleaved documents come back piece by piece, in their order."""
  class Interleaved(Source):
    def __getitem__(self, index):
      record = super().__getitem__(index)
      wide = np.concatenate([record.image, record.image[:, :CELL]], 1) if record.image is not None else None
      if index % 3 == 0:
        record = record._replace(pieces=("a picture", record.image, "1", wide))
      return record._replace(image=wide) if index % 2 else record
  manifest = write(tmp_path, Interleaved(7), text)
  found = CodeShards(tmp_path)
  assert manifest["grids"] == [[4, 4], [4, 5]] and manifest["grid"] == [4, 5] and manifest["with_pieces"] == 3
  assert manifest["longest_pieces"] == [[len(text.encode("a picture"))], [4, 4], [1], [4, 5]]
  for index in range(7):
    record = Interleaved()[index]
    assert np.array_equal(found[index].image, mean_colour(record.image[None])[0])
    assert len(found[index].pieces) == len(record.pieces)
    for codes, piece in zip(found[index].pieces, record.pieces):
      if isinstance(piece, str):
        assert text.decode(codes) == piece
      else:
        assert np.array_equal(codes, mean_colour(piece[None])[0])


def test_coarse_codes(tmp_path, text):
  """Where they are asked for, those of the picture at half its sides, if these are whole codes."""
  class Odd(Source):
    def __getitem__(self, index):
      record = super().__getitem__(index)
      return record._replace(image=record.image[:, :SIDE - CELL]) if index == 2 else record
  assert write(tmp_path / "without", Odd(9), text)["with_coarse"] == 0
  assert write(tmp_path / "with", Odd(9), text, coarse=True)["with_coarse"] == 7
  found = CodeShards(tmp_path / "with")
  assert found[2].coarse is None and found[7].coarse is None and CodeShards(tmp_path / "without")[0].coarse is None
  for index in (0, 8):
    half = resize(Source()[index].image, (SIDE // 2, SIDE // 2), "fit")
    assert np.array_equal(found[index].coarse, mean_colour(half[None])[0])
    assert np.array_equal(found[index].image, mean_colour(Source()[index].image[None])[0])


def test_objects_and_questions(tmp_path, text):
  """Names, boxes, questions and answers come back; the manifest says how many records have them, and the longest."""
  class Annotated(Source):
    def __getitem__(self, index):
      record = super().__getitem__(index)
      objects = (Object("a ring", (0.0, 0.25, 0.5, 1.0)), Object("a", (0.5, 0.5, 1.0, 1.0)))[:index % 3]
      return record._replace(objects=objects, questions=(("how many?", str(index)),) if index % 2 else ())
  manifest = write(tmp_path, Annotated(9), text)
  found = CodeShards(tmp_path)
  assert manifest["with_objects"] == 6 and manifest["with_questions"] == 4 and manifest["most_objects"] == 2
  assert [found[i].objects == () for i in range(9)] == [i % 3 == 0 for i in range(9)]
  (name, box), (other, _) = found[5].objects
  assert text.decode(name) == "a ring" and box.tolist() == [256, 0, 1023, 512] and text.decode(other) == "a"
  assert [text.decode(part) for part in found[7].questions[0]] == ["how many?", "7"]
  assert manifest["longest_name"] == len(name) and manifest["longest_question"] == len(text.encode("how many?"))
  assert manifest["longest_answer"] == 1


def test_sentences(tmp_path, text):
  """Where they end is kept where a record's captions have several; the manifest says the most."""
  class Paragraphs(Source):
    def __getitem__(self, index):
      return super().__getitem__(index)._replace(captions=("A ring. A bar! And 3.", "", "one alone")[:index])
  manifest = write(tmp_path, Paragraphs(4), text)
  found = CodeShards(tmp_path)
  assert [found[i].sentences == () for i in range(4)] == [True, False, False, False]
  three, alone = found[3].text
  first, second = found[3].sentences
  assert [text.decode(three[a:b]) for a, b in zip([0, *first], first)] == ["A ring.", " A bar!", " And 3."]
  assert second.tolist() == [len(alone)] and first.dtype == np.int32
  assert manifest["most_sentences"] == 4 and manifest["longest_texts"] == len(three) + len(alone) + 1


def test_what_is_written_is_read(tmp_path, text):
  source, done = Source(), []
  manifest = write(tmp_path, source, text, progress=lambda *a: done.append(a))
  found = CodeShards(tmp_path)
  assert len(found) == 25 and found.fingerprints == {"text": text.fingerprint, "image": "mean"}
  for index in (0, 24, 7, 8, 4):
    record, codes = source[index], found[index]
    assert codes.key == record.key
    assert [text.decode(one) for one in codes.text] == list(record.captions)
    if index == 7:
      assert codes.image is None
    else:
      assert np.array_equal(codes.image, mean_colour(record.image[None])[0]) and codes.image.dtype == np.int32
  assert found[-1].key == "24.png"
  with pytest.raises(IndexError):
    found[25]
  assert [shard["records"] for shard in manifest["shards"]] == [8, 8, 8, 1]
  assert (manifest["with_text"], manifest["with_image"], manifest["with_both"]) == (20, 24, 19)
  assert manifest["longest_text"] == max(len(one) for i in range(25) for one in found[i].text)
  assert manifest["grid"] == [4, 4] and done[-1] == (25, 25)
  assert sorted(p.name for p in tmp_path.iterdir()) == [*(f"0000{n}.array_record" for n in range(4)), "manifest.json"]


def test_every_picture_once_and_one_shape(tmp_path, text):
  shapes = []
  image = ImageModality(lambda p: (shapes.append(p.shape), mean_colour(p))[1], None, (4, 4), CELL, 64, "mean")
  source = Source()
  write(tmp_path, source, text, image=image)
  assert source.asked == list(range(25)) and set(shapes) == {(4, SIDE, SIDE, 3)}
  before = (tmp_path / "manifest.json").read_bytes()
  write(tmp_path, source, text)
  assert len(source.asked) == 25 and (tmp_path / "manifest.json").read_bytes() == before


def test_large_codes():
  codes = Codes((np.array([1, 70_000], np.int32), np.array([2], np.int32)), np.array([[65_536]], np.int32), "k")
  again = shards.unpack(shards.pack(codes))
  assert all(np.array_equal(a, b) for a, b in zip(codes.text, again.text)) and np.array_equal(codes.image, again.image)
  assert again.key == "k"


@pytest.mark.parametrize("error", [RuntimeError("encoder"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_goes_on(tmp_path, text, error):
  """An encoding stopped in the fourth batch, with bad records on both sides, equals one that was not."""
  bad = (2, 9, 10, 11, 17)
  write(tmp_path / "whole", Source(bad=bad), text, on_bad="skip")
  calls = []
  def encode(pixels):
    calls.append(1)
    if len(calls) == 4:
      raise error
    return mean_colour(pixels)
  stopping = ImageModality(encode, None, (4, 4), CELL, 64, "mean")
  with pytest.raises(type(error)):
    write(tmp_path / "two", Source(bad=bad), text, on_bad="skip", image=stopping)
  with pytest.raises(ValueError, match="not encoded to the end; run python -m train.encode"):
    CodeShards(tmp_path / "two")
  left = shards.read_manifest(tmp_path / "two")
  assert left["next_index"] == 12 and sum(s["records"] for s in left["shards"]) == left["records"] == 8
  assert not list((tmp_path / "two").glob("*.new"))
  source = Source(bad=bad)
  write(tmp_path / "two", source, text, on_bad="skip")
  assert min(source.asked) == left["next_index"]
  assert content(tmp_path / "two") == content(tmp_path / "whole")
  one, two = (shards.read_manifest(tmp_path / name) for name in ("whole", "two"))
  assert one["skipped"] == two["skipped"] and [s["where"] for s in one["skipped"]] == [f"{n}.png" for n in bad]
  assert {**one, "shards": 0} == {**two, "shards": 0}


def test_bad_record_stops_and_nothing_is_lost(tmp_path, text):
  with pytest.raises(BadRecord, match="10.png: is broken; mend it"):
    write(tmp_path, Source(bad=(10,)), text)
  assert shards.read_manifest(tmp_path)["next_index"] == shards.read_manifest(tmp_path)["records"] == 10
  mended = Source()
  write(tmp_path, mended, text)
  assert mended.asked[0] == 10
  write(tmp_path / "whole", Source(), text)
  assert content(tmp_path) == content(tmp_path / "whole")


def test_all_bad_and_empty(tmp_path, text):
  manifest = write(tmp_path / "bad", Source(5, bad=range(5)), text, on_bad="skip")
  assert manifest["records"] == 0 and manifest["shards"] == [] and len(manifest["skipped"]) == 5
  assert len(CodeShards(tmp_path / "bad")) == 0
  assert write(tmp_path / "empty", Source(0), text)["finished"] and len(CodeShards(tmp_path / "empty")) == 0


def test_others_are_refused(tmp_path, text):
  write(tmp_path, Source(), text)
  with pytest.raises(ValueError, match="made by the image tokenizer mean, not by other; remove .* another workdir"):
    write(tmp_path, Source(), text, fingerprints={"text": text.fingerprint, "image": "other"})
  with pytest.raises(ValueError, match="from a source with records 25, not 26"):
    write(tmp_path, Source(26), text)
  with pytest.raises(ValueError, match="from a source with path None, not 'x'"):
    write(tmp_path, Source(), text, description={"path": "x"})
  assert len(content(tmp_path)) == 25


def test_damage_is_told(tmp_path, text):
  write(tmp_path, Source(), text)
  (tmp_path / "00001.array_record").write_bytes((tmp_path / "00003.array_record").read_bytes())
  with pytest.raises(ValueError, match="00001.array_record: damaged; remove"):
    content(tmp_path)
  (tmp_path / "00001.array_record").write_bytes(b"nothing")
  with pytest.raises(ValueError, match="00001.array_record: damaged"):
    content(tmp_path)
  (tmp_path / "00001.array_record").unlink()
  with pytest.raises(ValueError, match="00001.array_record: missing"):
    CodeShards(tmp_path)
  (tmp_path / "manifest.json").write_text(json.dumps({"shards": []}))
  with pytest.raises(ValueError, match="manifest.json: damaged"):
    CodeShards(tmp_path)


PROGRAM = """
import os, resource, signal, sys
sys.path[:0] = {paths}
import numpy as np
import test_shards
from unitok.modalities.image import ImageModality
from unitok.modalities.text import TextModality
calls = []
def encode(pixels):
  calls.append(1)
  if len(calls) == 5 and {kill}:
    os.kill(os.getpid(), signal.SIGKILL)
  return test_shards.mean_colour(pixels)
image = ImageModality(encode, None, (4, 4), 4, 64, "mean")
if {limit}:
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
  test_shards.write({folder!r}, test_shards.Source(25), TextModality.load({text!r}), image=image)
except OSError as error:
  print(type(error).__name__, error.errno, error.filename)
"""


def test_kill_and_full_disk(tmp_path, text):
  """kill -9 in the fifth batch, then files that may not grow as they must; then it goes on to the same end."""
  folder, tokenizer = os.fspath(tmp_path / "codes"), os.fspath(tmp_path / "text")
  train(["picture 0123456789", "a picture"], tokenizer, config.Text())
  def start(**options):
    paths = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    program = PROGRAM.format(paths=paths, folder=folder, text=tokenizer, **options)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
  killed = start(kill=True, limit=0)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert shards.read_manifest(folder)["records"] == 16   # two shards of 8; the fifth batch is lost
  full = start(kill=False, limit=1000)
  assert full.stdout.split() == ["OSError", str(errno.EFBIG), os.path.join(folder, "00002.array_record.new")], full.stderr
  assert shards.read_manifest(folder)["records"] == 16 and not [f for f in os.listdir(folder) if f.endswith(".new")]
  write(folder, Source(), text)
  write(tmp_path / "whole", Source(), text)
  assert content(folder) == content(tmp_path / "whole")
