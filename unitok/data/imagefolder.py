"""A folder of pictures, in the imagefolder convention of Hugging Face datasets.

Captions come from, in this order: a `metadata.jsonl` or `metadata.csv` in any folder (its `file_name`s are relative
to it; pictures below it that it does not list are left out), a `.txt` beside each picture (one caption a line),
class subfolders (at least two; the name with _ and - as blanks), or nowhere (pictures alone). A metadata.jsonl may also
hold `questions`, `objects` and `pieces` (data/annotations.py).
The split is the `split` field, else a first folder train/, val/ (validation, valid, dev) or test/ (val where there is
no val, else read by `unitok validate` alone), else `val_share` by a hash of the name. The metadata is read and checked
at opening, pictures when asked for.
"""
import collections
import hashlib
import os
from collections.abc import Iterator

import numpy as np

from unitok import config
from unitok.data import annotations, captions, listing, pictures
from unitok.data.listing import Bad, Row
from unitok.data.record import BadRecord, Record


class Folder:
  """One split: `folder[i]` reads picture i, `folder.captions(i)` reads none.

  With data.on_bad "skip", a row of bad metadata keeps its index, and asking for it raises its BadRecord, as a bad
  picture does; so one loop over the indices meets every record, good or bad, once.
  """

  def __init__(self, data: config.ImageFolder, rows: list[Row | Bad], copies: int = 1):
    self.data, self.rows, self.copies = data, rows, copies

  def __len__(self) -> int:
    return len(self.rows) * self.copies

  def __getitem__(self, index: int) -> Record:
    row, data, copy = self._row(index), self.data, index // len(self.rows)
    image = self._load(row.key)
    size, key = pictures.size_for(image.shape[:2], data), row.key
    part = pictures.frame(image.shape[:2], size, data.resize)
    if copy:
      key, part = f"{key}#{copy}", pictures.moved(part, np.random.default_rng((index, 7)))
    objects = annotations.placed(row.objects, image.shape[:2], part, row.where)
    pieces = tuple(piece if isinstance(piece, str) else pictures.sized(self._load(piece.file_name), data)
                   for piece in row.pieces)
    image = pictures.resize(image, size, data.resize, data.background, part)
    return Record(key, image, row.captions, row.fields, objects, row.questions, pieces)

  def _load(self, key: str):
    return pictures.load(os.path.join(self.data.path, key), key, self.data.background)

  def captions(self, index: int) -> tuple[str, ...]:
    """The captions of a record, without reading its picture. BadRecord as `[index]`."""
    return self._row(index).captions

  def _row(self, index: int) -> Row:
    if not 0 <= index < len(self):
      raise IndexError(index)
    row = self.rows[index % len(self.rows)]
    if isinstance(row, Bad):
      raise row.error
    return row


def open_imagefolder(data: config.ImageFolder, split: str) -> Folder:
  """The records of "train", "val", "heldout" (what data.holdout keeps out of both) or "test", in the order they are
  listed.

  BadRecord, a ValueError: a folder that is missing or without pictures, a train split without records, and, with
  data.on_bad "stop", the first bad row of any split. ValueError: an unknown field in the template or the holdout.
  """
  if split not in ("train", "val", "heldout", "test"):
    raise ValueError(f"split {split!r}: a folder of pictures has train, val, heldout and test")
  if not 0 <= data.val_share < 1:
    raise ValueError(f"data.val_share is {data.val_share}, must be at least 0 and below 1")
  if data.copies < 1:
    raise ValueError(f"data.copies is {data.copies}, must be at least 1")
  rows = _template(data, _assign_splits(data, listing.read(data)))
  if data.on_bad == "stop":
    for row in rows:
      if isinstance(row, Bad):
        raise row.error
  chosen = [row for row in _hold_out(data, rows) if row.split == split]
  if split == "train" and not chosen:
    raise BadRecord(data.path, "has no record in the train split", "add pictures to train, or lower data.val_share")
  return Folder(data, chosen, data.copies if split == "train" else 1)


def _assign_splits(data: config.ImageFolder, rows: list[Row | Bad]) -> Iterator[Row | Bad]:
  """Every row in train, val or test. A bad row that says nothing counts as train."""
  said = {row.split for row in rows}
  spare = "val" if "val" not in said else "test"
  for row in rows:
    split = spare if row.split == "test" else row.split or "train"
    if isinstance(row, Row) and not said & {"val", "test"} and share(row.key) < data.val_share:
      split = "val"
    yield row._replace(split=split)


def share(key: str) -> float:
  """A stable number in [0, 1) from a name."""
  return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "big") / 2 ** 48


def _template(data: config.ImageFolder, rows: Iterator[Row | Bad]) -> list[Row | Bad]:
  """Captions as the template has them; fields with `caption` (the first, as written), `captions` and `split`."""
  rows = list(rows)
  known = {name for row in rows if isinstance(row, Row) for name in row.fields} | {"caption", "captions", "split"}
  template = captions.check(data.caption_template, known)
  out = []
  for row in rows:
    if isinstance(row, Row):
      fields = {**row.fields, "split": row.split}
      if row.captions:
        fields |= {"caption": row.captions[0], "captions": list(row.captions)}
      try:
        row = row._replace(fields=fields, captions=captions.fill(template, row.captions, fields))
      except KeyError as error:
        problem = f"has no {error.args[0]}, which data.caption_template uses"
        row = Bad(BadRecord(row.where, problem, listing.MEND), row.split)
    out.append(row)
  return out


def _hold_out(data: config.ImageFolder, rows: list[Row | Bad]) -> list[Row | Bad]:
  """The rows with the holdout's split made "heldout".

  Groups are the sorted distinct values of `group_by` (of a list, its first); of every n-th, counted from 0, the
  records with field == value, where the group keeps another record in train.
  """
  rule = data.holdout
  if not rule.group_by:
    return rows
  good = [row for row in rows if isinstance(row, Row)]
  known = {name for row in good for name in row.fields}
  for option, name in (("group_by", rule.group_by), ("field", rule.field)):
    if name not in known:
      raise ValueError(f"data.holdout.{option}: no field {name!r}; fields: {', '.join(sorted(known))}")
  if rule.every < 1:
    raise ValueError(f"data.holdout.every is {rule.every}, must be at least 1")
  values = {_value(row.fields, rule.field) for row in good} - {None}
  if rule.value not in values:
    raise ValueError(f"data.holdout.value: no record has {rule.field} {rule.value!r}; "
                     f"values: {', '.join(sorted(values)[:20])}")
  groups = collections.defaultdict(list)
  for row in good:
    if (group := _value(row.fields, rule.group_by)) is not None:
      groups[group].append(row)
  held = set()
  for group in sorted(groups)[::rule.every]:
    chosen = {row.key for row in groups[group] if _value(row.fields, rule.field) == rule.value}
    if any(row.split == "train" and row.key not in chosen for row in groups[group]):
      held |= chosen
  return [row._replace(split="heldout", fields={**row.fields, "split": "heldout"})
          if isinstance(row, Row) and row.key in held else row for row in rows]


def _value(fields: dict, name: str) -> str | None:
  value = fields.get(name)
  if isinstance(value, (list, tuple)):
    value = value[0] if value else None
  return None if value is None else str(value)
