"""Tar shards as img2dataset writes them: NNNNN.tar with KEY.jpg (png, webp …), KEY.txt and KEY.json of each record.

The key is a member's name up to the first dot of its last part, as in the webdataset library; it is a key and nothing
else: nothing is unpacked, and no member is looked for anywhere but at its place in the shard. The headers are read
once, to know those places; after that any record is read by itself. The caption is KEY.txt, or `caption` of KEY.json,
whose other fields the caption template may use. The split is by the shards' names, or `val_share` by a hash of the key.
"""
import fnmatch
import functools
import json
import os
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from unitok import config
from unitok.data import captions, listing, pictures
from unitok.data.imagefolder import share
from unitok.data.record import BadRecord, Record
from unitok.files import in_bucket

PARTS = ("image", "text", "json")
"""What a record has in its shard."""
SKIP = "pack the shard again, or leave it out with data.on_bad=skip"


class Shard(NamedTuple):
  """Where the records of one shard lie."""
  name: str              # relative to the source's folder
  path: epath.Path
  keys: list[str]
  places: np.ndarray     # i64[n 3 2]: first byte and bytes of each of PARTS; bytes -1 where there is none


class Records:
  """One split: `records[i]` reads record i, `records.captions(i)` no picture.

  Bad records that the headers tell of come last, so that one loop over the indices meets every record once.
  """

  def __init__(self, data: config.WebDataset, split: str, shards: list[Shard], chosen: np.ndarray,
               bad: list[BadRecord]):
    """chosen: i64[n 2], shard and record of each index."""
    self.data, self.split, self.shards, self.chosen, self.bad = data, split, shards, chosen, bad
    self.template = captions.parse(data.caption_template)
    self.spoken = any((shard.places[:, 1, 1] >= 0).any() for shard in shards)

  def __len__(self) -> int:
    return len(self.chosen) + len(self.bad)

  def __getitem__(self, index: int) -> Record:
    where, shard, row = self._at(index)
    texts, fields = self._told(where, shard, row)
    image = pictures.load(_read(shard, row, "image", where), where, self.data.background)
    return Record(where, pictures.sized(image, self.data), texts, fields)

  def captions(self, index: int) -> tuple[str, ...]:
    """The captions of a record. BadRecord as `[index]`, its picture's faults apart."""
    return self._told(*self._at(index))[0]

  def _at(self, index: int) -> tuple[str, Shard, int]:
    if not 0 <= index < len(self):
      raise IndexError(index)
    if index >= len(self.chosen):
      raise self.bad[index - len(self.chosen)]
    number, row = self.chosen[index]
    shard = self.shards[number]
    return f"{shard.name}/{shard.keys[row]}", shard, row

  def _told(self, where: str, shard: Shard, row: int) -> tuple[tuple[str, ...], dict[str, Any]]:
    """(captions with the template applied, fields)."""
    fields = _fields(_read(shard, row, "json", where), where)
    text = _read(shard, row, "text", where)
    try:
      said = fields.get("caption") if text is None else text.decode()
    except UnicodeDecodeError as error:
      raise BadRecord(where, f"its text is not UTF-8 (byte {error.start + 1})", SKIP) from None
    texts = ()
    if said is not None or self.spoken or self.data.text_field:
      texts = listing.texts_of(self.data, fields | {"captions": None, "text": said}, where)
    fields = {**fields, "split": self.split}
    if texts:
      fields |= {"caption": texts[0], "captions": list(texts)}
    try:
      return captions.fill(self.template, texts, fields), fields
    except KeyError as error:
      raise BadRecord(where, f"has no {error.args[0]}, which data.caption_template uses (it has "
                      f"{', '.join(sorted(fields))})", "leave it out with data.on_bad=skip") from None


def open_webdataset(data: config.WebDataset, split: str) -> Records | list:
  """The records of "train" or "val", shard by shard in the order of their names; "heldout" is empty.

  BadRecord, a ValueError: no such folder, no shard of a pattern's, a train split without records, and, with data.on_bad
  "stop", the first fault in any shard's headers.
  """
  if split not in ("train", "val", "heldout"):
    raise ValueError(f"split {split!r}: tar shards have train, val and heldout")
  if not 0 <= data.val_share < 1:
    raise ValueError(f"data.val_share is {data.val_share}, must be at least 0 and below 1")
  if data.val_shards and data.val_share:
    raise ValueError(f"data.val_shards is {data.val_shards!r}, data.val_share {data.val_share:g}; set one of the two")
  val = _matching(data, "val_shards") if data.val_shards else {}
  train = {name: path for name, path in _matching(data, "shards").items() if name not in val}
  found = {name: _index(str(path), name, _stamp(path)) for name, path in sorted((train | val).items())}
  if data.on_bad == "stop":
    for _, bad in found.values():
      for error in bad:
        raise error
  if split == "heldout":
    return []
  names = [name for name in found if (name in val) == (split == "val") or data.val_share]
  shards = [found[name][0] for name in names]
  rows = [(number, row) for number, shard in enumerate(shards) for row, key in enumerate(shard.keys)
          if not data.val_share or (share(key) < data.val_share) == (split == "val")]
  bad = [error for name in names for error in found[name][1]]
  if split == "train" and not rows:
    raise BadRecord(data.path, "has no record in the train split", "add shards to train, or lower data.val_share")
  # with val_share, what is bad says no key that counts, so it stands in train alone
  bad = [] if data.val_share and split == "val" else bad
  return Records(data, split, shards, np.array(rows, np.int64).reshape(-1, 2), bad)


def _matching(data: config.WebDataset, option: str) -> dict[str, epath.Path]:
  """Shards by their names, which a pattern's are. BadRecord where there is none."""
  if not data.path:
    raise BadRecord("data.path", "is empty", "name the folder of shards, e.g. --data.path my_shards")
  root, (folder, pattern) = epath.Path(data.path), posixpath.split(getattr(data, option))
  try:
    files = {posixpath.join(folder, file.name): file for file in (root / folder).iterdir()}
  except OSError:
    raise BadRecord(str(root / folder), "no such folder", "set data.path to the folder of tar shards") from None
  found = {name: files[name] for name in sorted(files) if fnmatch.fnmatchcase(posixpath.basename(name), pattern)}
  if not found:
    raise BadRecord(data.path, f"has no shard of data.{option} {getattr(data, option)!r}", "mend the pattern; it has "
                    f"{', '.join(sorted(files)[:5]) or 'nothing'}")
  return found


def _stamp(path: epath.Path) -> tuple:
  """Changes when the file does. (epath's own stat of a local file fails where its owner has no name.)"""
  try:
    status = path.stat() if in_bucket(path) else os.stat(path)
  except OSError as error:
    raise BadRecord(str(path), f"cannot be read ({error.strerror})", "make the shard readable") from None
  return (status.length, status.mtime) if in_bucket(path) else (status.st_size, status.st_mtime_ns)


@functools.cache
def _index(path: str, name: str, stamp: tuple) -> tuple[Shard, list[BadRecord]]:
  """A shard's places, and what is wrong in it. What is whole in a damaged shard counts."""
  found: dict[str, dict[str, tuple[int, int]]] = {}
  bad: list[BadRecord] = []
  broken: set[str] = set()
  try:
    for member in _members(path, name):
      folder, last = posixpath.split(member.name)
      stem, _, suffix = last.partition(".")
      suffix = suffix.lower()
      part = {"txt": "text", "json": "json"}.get(suffix, "image" if f".{suffix}" in pictures.SUFFIXES else "")
      if member.isdir() or not stem:
        continue
      key, problem = posixpath.join(folder, stem), ""
      if not member.isreg() or member.issparse():
        problem = "is a link or a device, not a file" if not member.isreg() else "is a sparse file"
      elif not listing.is_unicode(member.name):
        problem = "its name is not UTF-8"
      elif part in found.get(key, {}):
        problem = f"is the second {part} of its key"
      elif part:
        found.setdefault(key, {})[part] = member.offset_data, member.size
      if problem:
        broken.add(key)
        bad.append(BadRecord(f"{name}/{ascii(member.name)[1:-1]}", problem, SKIP))
  except BadRecord as error:
    bad.append(error)
  for key, parts in found.items():
    if "image" not in parts and key not in broken:
      bad.append(BadRecord(f"{name}/{key}", f"has no picture, only {' and '.join(parts)}", SKIP))
  keys = [key for key, parts in found.items() if "image" in parts and key not in broken]
  places = [[found[key].get(part, (0, -1)) for part in PARTS] for key in keys]
  return Shard(name, epath.Path(path), keys, np.array(places, np.int64).reshape(-1, len(PARTS), 2)), bad


def _members(path: str, name: str) -> Iterator[tarfile.TarInfo]:
  """The headers of a tar, in their order. BadRecord, at the end, where it is none, is cut or damaged."""
  remedy = "fetch or pack the shard again; what comes before is used with data.on_bad=skip"
  try:
    with epath.Path(path).open("rb") as file:
      file.seek(0, os.SEEK_END)
      length = file.tell()
      file.seek(0)
      with tarfile.open(fileobj=file, mode="r:") as tar:
        while member := tar.next():
          if member.size < 0 or member.offset_data + member.size > length:
            raise BadRecord(name, f"is cut inside {ascii(member.name)} (byte {length})", remedy)
          tar.members = []   # it would keep them all
          yield member
        file.seek(tar.offset)
        rest = file.read(tarfile.BLOCKSIZE)
  except BadRecord:
    raise
  except OSError as error:
    raise BadRecord(name, f"cannot be read ({error.strerror or error})", "make the shard readable") from None
  except Exception as error:   # of a broken header, whatever comes; ReadError of what is no tar
    problem = f"is not an uncompressed tar, or is damaged ({' '.join(str(error).split())})"
    raise BadRecord(name, problem, remedy) from None
  if rest.strip(b"\0"):
    raise BadRecord(name, f"is damaged at byte {tar.offset}", remedy)
  if not rest:
    raise BadRecord(name, "ends without the empty blocks that close a tar, so it was cut", remedy)


def _read(shard: Shard, row: int, part: str, where: str) -> bytes | None:
  """The bytes of one part of a record, None where it has none."""
  start, count = map(int, shard.places[row, PARTS.index(part)])
  if count < 0:
    return None
  try:
    with shard.path.open("rb") as file:
      file.seek(start)
      return file.read(count)
  except OSError as error:
    raise BadRecord(where, f"cannot be read ({error.strerror or error})", "make the shard readable") from None


def _fields(content: bytes | None, where: str) -> dict[str, Any]:
  if content is None:
    return {}
  try:
    fields = json.loads(content.decode())
  except (ValueError, RecursionError) as error:
    raise BadRecord(where, f"its .json is not JSON ({str(error).split(':')[0]})", SKIP) from None
  if not isinstance(fields, dict):
    raise BadRecord(where, f"its .json is a JSON {type(fields).__name__}, not an object", SKIP)
  return fields
