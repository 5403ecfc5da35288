"""Code shards: every record encoded once, into ArrayRecord files beside a manifest.

    codes/train/  00000.array_record  00001.array_record  …  manifest.json

A shard is written under another name and renamed when it is whole; then the manifest, which alone says what is
there, is replaced. So a stopped encoding goes on behind the last shard, whatever stopped it.
"""
import collections
import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from unitok.data.pictures import resize
from unitok.data.record import BadRecord, Record, Source
from unitok.files import in_bucket, local, write_json
from unitok.modalities import ImageModality, LocationModality, TextModality
from unitok.objectives.codes import Codes

MANIFEST = "manifest.json"
COUNTS = ("records", "with_text", "with_image", "with_both", "with_objects", "with_questions", "with_pieces",
          "with_coarse")
PAIRS = ("objects", "questions")
LONGEST = ("longest_text", "longest_name", "longest_question", "longest_answer", "most_objects", "longest_texts",
           "most_sentences")
EMPTY = {"source": {}, "fingerprints": {}, "finished": False, "next_index": 0, **dict.fromkeys(COUNTS, 0),
         **dict.fromkeys(LONGEST, 0), "grid": [0, 0], "grids": [], "longest_pieces": [], "shards": [], "skipped": []}
"""A manifest's fields. next_index: where in the source encoding goes on; longest_…: codes, the most; grid: the largest
number of rows and of columns, grids: all there are; longest_texts: all captions of a record, and one between two;
most_sentences: of a record's captions together; longest_pieces: the sides of the longest interleaved document's."""

FIRST = EMPTY.keys() - {"with_objects", "with_questions", "with_pieces", "with_coarse", "grids", "longest_pieces",
                        *LONGEST[1:]}
"""Those that every version has written; the others are as in EMPTY where they are missing."""


def read_manifest(folder) -> dict:
  """The manifest of a folder of shards, `EMPTY` where there is none. ValueError where it is damaged."""
  path = epath.Path(folder) / MANIFEST
  if not path.exists():
    return json.loads(json.dumps(EMPTY))
  try:
    manifest = json.loads(path.read_text())
    manifest = {name: manifest[name] if name in FIRST else manifest.get(name, EMPTY[name]) for name in EMPTY}
    return manifest | {"grids": manifest["grids"] or [grid for grid in [manifest["grid"]] if all(grid)]}
  except (ValueError, KeyError, TypeError):
    raise ValueError(f"{path}: damaged; remove {folder} and encode again") from None


def most_tokens(pieces: list[list[int]]) -> int:
  """Of an interleaved document whose pieces have these sides, nearly."""
  return sum(math.prod(sides[:2]) + 4 for sides in pieces)


def pack(codes: Codes) -> bytes:
  """A record: key, the picture's codes (shape, type, bytes), those of captions, objects and questions, sentences' ends.

  `unpack` is its inverse.
  """
  image = None if codes.image is None else [*codes.image.shape, *_small(codes.image)]
  more = {name: [[_small(one), _small(other)] for one, other in getattr(codes, name)] for name in PAIRS}
  more["pieces"] = [[*piece.shape, *_small(piece)] for piece in codes.pieces]
  more["coarse"] = None if codes.coarse is None else [*codes.coarse.shape, *_small(codes.coarse)]
  more["sentences"] = [_small(ends) for ends in codes.sentences]
  return msgpack.packb({"key": codes.key, "image": image, "text": [_small(text) for text in codes.text],
                        **{name: some for name, some in more.items() if some}})


def unpack(record: bytes) -> Codes:
  value = msgpack.unpackb(record)
  picture = lambda one: None if one is None else _large(*one[-2:]).reshape(one[:-2])
  more = {name: tuple((_large(*one), _large(*other)) for one, other in value.get(name, ())) for name in PAIRS}
  more["pieces"] = tuple(_large(*piece[-2:]).reshape(piece[:-2]) for piece in value.get("pieces", ()))
  several = lambda name: tuple(_large(*one) for one in value.get(name, ()))
  return Codes(several("text"), picture(value["image"]), value["key"], sentences=several("sentences"),
               coarse=picture(value.get("coarse")), **more)


def _small(codes: np.ndarray) -> tuple[str, bytes]:
  """Little-endian bytes of two or four a code."""
  kind = "<u2" if not codes.size or codes.max() < 2**16 else "<u4"
  return kind, codes.astype(kind).tobytes()


def _large(kind: str, content: bytes) -> np.ndarray:
  return np.frombuffer(content, {"<u2": "<u2", "<u4": "<u4"}[kind]).astype(np.int32)


def write_shards(folder, source: Source, text: TextModality, image: ImageModality | None, fingerprints: dict[str, str],
                 on_bad: str = "stop", batch_size: int = 64, shard_size: int = 4096,
                 progress: Callable[[int, int], None] | None = None, description: dict | None = None,
                 coarse: bool = False) -> dict:
  """Encodes what of a source is not in `folder` yet -> the manifest.

  coarse: as for `encode_records`; fingerprints: of the tokenizers, kept in the manifest; description: of the source,
  to notice that it is another one; progress(done, of): after each batch. A thread reads pictures while others are
  encoded, and `image.encode` always gets batch_size of them (the last with zeros at the end), so that it compiles
  once.
  ValueError where the folder was made by other tokenizers or from another source; BadRecord with on_bad "stop";
  OSError where the disk is full. A bad record and Ctrl-C close the shard at hand; what is finished always stays.
  """
  folder, manifest, shard = epath.Path(folder), read_manifest(folder), None
  description = json.loads(json.dumps({**(description or {}), "records": len(source)}))
  _check_same(folder, manifest, fingerprints, description)
  manifest.update(fingerprints=dict(fingerprints), source=description)
  folder.mkdir(parents=True, exist_ok=True)
  try:
    for batch in _read_ahead(source, manifest["next_index"], batch_size):
      good, skipped, error, following = _divide(batch, on_bad)
      codes = list(encode_records(good, text, image, batch_size, coarse))
      shard = shard or _Shard(folder, manifest)
      shard.add(codes, skipped, following)
      if error:
        raise error
      if progress:
        progress(following, len(source))
      if shard.counts["records"] >= shard_size:
        manifest, shard = shard.finish(), None
  except (BadRecord, KeyboardInterrupt):
    if shard and shard.writer.is_open():
      shard.finish()
    raise
  except BaseException:
    if shard:
      shard.new.unlink(missing_ok=True)
    raise
  manifest = shard.finish() if shard else manifest
  manifest["finished"] = True
  write_json(folder / MANIFEST, manifest)
  return manifest


def _check_same(folder, manifest: dict, fingerprints: dict[str, str], description: dict) -> None:
  remedy = f"remove {folder} to encode again, or use another workdir"
  if not manifest["fingerprints"]:
    return
  for name in fingerprints.keys() | manifest["fingerprints"].keys():
    old, new = manifest["fingerprints"].get(name), fingerprints.get(name)
    if old != new:
      raise ValueError(f"{folder}: its shards were made by the {name} tokenizer {old}, not by {new}; {remedy}")
  for name in description.keys() | manifest["source"].keys():
    old, new = manifest["source"].get(name), description.get(name)
    if old != new and (old is not None or new):     # a field that older versions did not have, at its default
      raise ValueError(f"{folder}: its shards are from a source with {name} {old!r}, not {new!r}; {remedy}")


def _read_ahead(source: Source, start: int, batch_size: int) -> Iterator[list[tuple[int, Record | BadRecord]]]:
  """(index, record or what is wrong with it) from `start` on, in batches; a thread reads up to three of them ahead."""
  def read(first):
    return [(index, _read(source, index)) for index in range(first, min(first + batch_size, len(source)))]
  pending, thread = collections.deque(), ThreadPoolExecutor(1)
  try:
    for first in range(start, len(source), batch_size):
      pending.append(thread.submit(read, first))
      if len(pending) > 3:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
  finally:
    thread.shutdown(cancel_futures=True)


def _read(source: Source, index: int) -> Record | BadRecord:
  try:
    return source[index]
  except BadRecord as error:
    return error


def _divide(batch, on_bad: str) -> tuple[list[Record], list[BadRecord], BadRecord | None, int]:
  """(good, skipped, the one to stop at, the index to go on at)."""
  good, skipped = [], []
  for index, record in batch:
    if isinstance(record, Record):
      good.append(record)
    elif on_bad == "skip":
      skipped.append(record)
    else:
      return good, skipped, record, index
  return good, skipped, None, batch[-1][0] + 1


def encode_records(records: list[Record], text: TextModality, image: ImageModality | None,
                   batch_size: int, coarse: bool = False) -> Iterator[Codes]:
  """Empty captions are left out; without an image tokenizer, pictures and interleaved documents. coarse: also the codes
  of each picture at half its sides, where those are whole codes."""
  location, is_text = LocationModality(), lambda piece: isinstance(piece, str)
  halved = lambda one: coarse and one is not None and not any(side % (2 * image.downsampling) for side in one.shape[:2])
  half = lambda one: resize(one, (one.shape[0] // 2, one.shape[1] // 2), "fit")
  shown = [[record.image] * (record.image is not None) + ([half(record.image)] if halved(record.image) else [])
           + [piece for piece in record.pieces if not is_text(piece)] for record in records] if image else []
  pictures = iter(_encode_pictures([one for some in shown for one in some], image, batch_size))
  for record in records:
    captions = [(codes, said) for codes, said in zip(map(text.encode, record.captions), record.captions) if codes.size]
    sentences = tuple(text.sentence_ends(said, codes) for codes, said in captions)
    objects = tuple((text.encode(name), location.encode(box)) for name, box in record.objects)
    questions = tuple((text.encode(question), text.encode(answer)) for question, answer in record.questions)
    codes = next(pictures) if image and record.image is not None else None
    less = next(pictures) if image and halved(record.image) else None
    pieces = tuple(text.encode(piece) if is_text(piece) else next(pictures) for piece in record.pieces) if image else ()
    yield Codes(tuple(codes for codes, _ in captions), codes, record.key, objects=objects, questions=questions,
                pieces=pieces, coarse=less, sentences=sentences if any(len(ends) > 1 for ends in sentences) else ())


def _encode_pictures(pixels: list[np.ndarray], image: ImageModality | None, batch_size: int) -> list[np.ndarray]:
  """The codes of pictures of any sizes, each size in calls of batch_size with zeros at the end (of the next power of two
  where there are several sizes), so that few forms are compiled."""
  out: list = [None] * len(pixels)
  shapes = {one.shape for one in pixels}
  for shape in sorted(shapes):
    numbers = [n for n, one in enumerate(pixels) if one.shape == shape]
    for start in range(0, len(numbers), batch_size):
      some = numbers[start:start + batch_size]
      padded = np.zeros((batch_size if len(shapes) == 1 else 1 << (len(some) - 1).bit_length(), *shape), np.uint8)
      padded[:len(some)] = [pixels[n] for n in some]
      for n, codes in zip(some, image.encode(padded)):
        out[n] = codes
  return out


@contextlib.contextmanager
def _disk_errors(path: epath.Path):
  """The C++ writer's RuntimeError for a full or broken disk -> OSError, with the unfinished file removed."""
  try:
    yield
  except RuntimeError as error:
    path.unlink(missing_ok=True)
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    code = next((code for code in codes if os.strerror(code) in str(error)), errno.EIO)
    raise OSError(code, os.strerror(code), os.fspath(path)) from None


class _Shard:
  """The shard being written."""

  def __init__(self, folder: epath.Path, manifest: dict):
    self.folder, self.manifest, self.name = folder, manifest, f"{len(manifest['shards']):05d}.array_record"
    self.counts = dict.fromkeys(COUNTS, 0)
    self.changes = {name: manifest[name] for name in ("next_index", "grid", "grids", "longest_pieces", *LONGEST)}
    # the library writes no bucket: a shard is made here and goes there whole
    self.here = tempfile.TemporaryDirectory(prefix="unitok_") if in_bucket(folder) else None
    self.skipped, self.new = [], epath.Path(self.here.name if self.here else folder) / f"{self.name}.new"
    self.writer = ArrayRecordWriter(os.fspath(self.new), "group_size:1")

  def add(self, codes: list[Codes], skipped: list[BadRecord], next_index: int) -> None:
    with _disk_errors(self.new):
      for one in codes:
        self.writer.write(pack(one))
    has = [(bool(one.text), one.image is not None) for one in codes]
    more = (len(has), sum(text for text, _ in has), sum(image for _, image in has), has.count((True, True)),
            *(sum(bool(getattr(one, name)) for one in codes) for name in (*PAIRS, "pieces")),
            sum(one.coarse is not None for one in codes))
    found = {"longest_text": [len(text) for one in codes for text in one.text],
             "longest_name": [len(name) for one in codes for name, _ in one.objects],
             "longest_question": [len(asked) for one in codes for asked, _ in one.questions],
             "longest_answer": [len(answer) for one in codes for _, answer in one.questions],
             "most_objects": [len(one.objects) for one in codes],
             "longest_texts": [sum(map(len, one.text)) + len(one.text) - 1 for one in codes],
             "most_sentences": [sum(map(len, one.sentences)) or len(one.text) for one in codes]}
    shown = [one.grid for one in codes if one.image is not None]
    self.counts = {name: self.counts[name] + n for name, n in zip(COUNTS, more)}
    self.skipped += [{"where": b.where, "problem": b.problem, "remedy": b.remedy} for b in skipped]
    grids = sorted({*map(tuple, self.changes["grids"]), *shown})
    pieces = [self.changes["longest_pieces"], *([list(piece.shape) for piece in one.pieces] for one in codes)]
    self.changes = {"next_index": next_index, "grid": [max(side) for side in zip(self.changes["grid"], *shown)],
                    "grids": [list(grid) for grid in grids],
                    "longest_pieces": max(pieces, key=most_tokens),
                    **{name: max([self.changes[name], *lengths]) for name, lengths in found.items()}}

  def finish(self) -> dict:
    """The file under its name, then the manifest with it -> the manifest."""
    with _disk_errors(self.new):
      self.writer.close()
    manifest = {**self.manifest, **self.changes, "skipped": self.manifest["skipped"] + self.skipped}
    manifest |= {name: self.manifest[name] + n for name, n in self.counts.items()}
    if self.counts["records"]:
      if self.here:
        self.new.copy(self.folder / self.name, overwrite=True)
        self.here.cleanup()
      else:
        self.new.replace(self.folder / self.name)
      manifest["shards"] = [*self.manifest["shards"], {"name": self.name, "records": self.counts["records"]}]
    else:
      self.new.unlink()
    write_json(self.folder / MANIFEST, manifest)
    return manifest


class CodeShards:
  """Random access to a finished folder of shards: `shards[i]` -> Codes, in the order of the source."""

  def __init__(self, folder):
    """ValueError where the encoding was not finished, or a shard is missing or damaged."""
    self.folder, self.manifest = epath.Path(folder), read_manifest(folder)
    if not self.manifest["finished"]:
      raise ValueError(f"{folder}: not encoded to the end; run python -m train.encode, which goes on where it stopped")
    self.fingerprints: dict[str, str] = self.manifest["fingerprints"]
    self._ends = np.cumsum([shard["records"] for shard in self.manifest["shards"]], dtype=np.int64)
    self._readers: dict[int, ArrayRecordReader] = {}
    for shard in self.manifest["shards"]:
      if not (self.folder / shard["name"]).exists():
        raise ValueError(f"{self.folder / shard['name']}: missing; remove {folder} and encode again")

  def __len__(self) -> int:
    return self.manifest["records"]

  def __getitem__(self, index: int) -> Codes:
    index = range(len(self))[index]   # IndexError, negative indices
    number = int(np.searchsorted(self._ends, index, "right"))
    first = int(self._ends[number - 1]) if number else 0
    return unpack(self._reader(number).read([index - first])[0])

  def _reader(self, number: int) -> ArrayRecordReader:
    if number not in self._readers:
      shard = self.manifest["shards"][number]
      path = self.folder / shard["name"]
      try:   # no read-ahead: records are asked for in any order
        reader = ArrayRecordReader(local(os.fspath(path)), "readahead_buffer_size:0,max_parallelism:0")
        count = reader.num_records()
      except RuntimeError:
        count = -1
      if count < shard["records"]:
        raise ValueError(f"{path}: damaged; remove {self.folder} and encode again")
      self._readers[number] = reader
    return self._readers[number]
