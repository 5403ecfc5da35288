"""A folder of pictures -> rows: what its metadata, texts and class folders say, checked line by line.

`imagefolder` divides the rows into splits and reads the pictures.
"""
import csv
import io
import json
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from unitok import config
from unitok.data import annotations, captions, pictures
from unitok.data.annotations import MEND, Boxed, Shown
from unitok.data.record import BadRecord

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
          "test": "test", "testing": "test", "eval": "test"}
"""Split names of folders and fields -> ours. `test` becomes val where there is no val, else it is left alone."""

METADATA = ("metadata.jsonl", "metadata.csv")
UTF_8 = "save the file as UTF-8, or leave the line out with data.on_bad=skip"


class Row(NamedTuple):
  """A record before its picture is read."""
  key: str                      # file name relative to the source's folder, posix
  where: str                    # "metadata.jsonl line 3" or the file's name
  captions: tuple[str, ...]     # as written, before the template
  fields: dict[str, Any]
  split: str                    # "" where nothing says
  objects: tuple[Boxed, ...] = ()
  questions: tuple[tuple[str, str], ...] = ()
  pieces: tuple[str | Shown, ...] = ()   # pictures by their key


class Bad(NamedTuple):
  """A row that cannot be used."""
  error: BadRecord
  split: str = ""


def read(data: config.ImageFolder) -> list[Row | Bad]:
  """Every row of the folder. BadRecord where there is no folder or nothing in it."""
  root = Path(data.path)
  if not data.path:
    raise BadRecord("data.path", "is empty", "name the folder of pictures, e.g. --data.path my_pictures")
  if not root.is_dir():
    problem = "is not a folder" if root.exists() else "no such folder"
    raise BadRecord(data.path, problem, "set data.path to the folder of pictures")
  files, links = _walk(root)
  described = sorted(name for name in files if posixpath.basename(name) in METADATA)
  folders = tuple(posixpath.dirname(name) + "/" for name in described)
  covered = "" if "/" in folders else folders   # below these, what counts is what is listed
  rows = [link for link in links if not link.error.where.startswith(covered)]
  for name in described:
    if name.endswith(".csv") and name[:-4] + ".jsonl" in described:
      raise BadRecord(name, "a metadata.jsonl lies beside it", "keep one of the two")
    rows += _read_metadata(data, root, name)
  loose = [name for name in files if pictures.is_picture(name) and not name.startswith(covered)]
  rows += _read_loose(root, loose, set(files))
  if not rows:
    raise BadRecord(data.path, "holds no pictures", "add pictures, or a metadata.jsonl that names them")
  return list(_once(rows))


def _walk(root: Path) -> tuple[list[str], list[Row | Bad]]:
  """(names of all files below, relative, sorted; links that are not followed). Hidden names are passed by."""
  files, bad, inside = [], [], os.path.realpath(root) + os.sep
  folders = [""]
  while folders:
    folder = folders.pop()
    try:
      entries = list(os.scandir(root / folder))
    except OSError as error:
      problem = f"cannot be read ({error.strerror})"
      raise BadRecord(folder or str(root), problem, "make the folder readable") from None
    for entry in entries:
      name = folder + entry.name
      if entry.name.startswith(".") or entry.name == "__MACOSX":
        continue
      split = _folder_split(name)
      if not is_unicode(name):
        bad.append(Bad(BadRecord(ascii(name), "its name is not UTF-8", "rename it"), split))
      elif entry.is_dir(follow_symlinks=False):
        folders.append(name + "/")
      elif entry.is_symlink() and entry.is_dir():
        problem = "is a link to a folder, which is not followed"
        bad.append(Bad(BadRecord(name, problem, "copy the folder here"), split))
      elif (entry.is_symlink() and pictures.is_picture(name)
            and not os.path.realpath(entry.path).startswith(inside)):
        bad.append(Bad(BadRecord(name, "is a link that leads outside the folder", "copy the picture here"), split))
      else:
        files.append(name)
  return sorted(files), sorted(bad, key=lambda row: row.error.where)


def _read_metadata(data: config.ImageFolder, root: Path, name: str) -> list[Row | Bad]:
  """The rows of one metadata file."""
  lines = list(_json_lines(root, name) if name.endswith(".jsonl") else _csv_lines(root, name))
  folder, rows, real = posixpath.dirname(name), [], {}
  inside = os.path.realpath(root / folder)
  objects = [fields for _, fields in lines if isinstance(fields, dict)]
  silent = {"file_name", "split", "objects", "questions", "pieces"}
  alone = not data.text_field and all(set(fields) <= silent for fields in objects)
  for where, fields in lines:
    if isinstance(fields, BadRecord):
      rows.append(Bad(fields))
      continue
    split = ""
    try:
      file_name = _file_name(fields, where)
      split = _split(fields, where) or _folder_split(posixpath.join(folder, file_name))
      _check_inside(root / folder, inside, file_name, where, real)
      texts = () if alone else texts_of(data, fields, where)
      key = posixpath.join(folder, file_name)
      pieces = []
      for piece in annotations.pieces(fields, where):
        if isinstance(piece, Shown):
          other = _file_name({"file_name": piece.file_name}, where)
          _check_inside(root / folder, inside, other, where, real)
          piece = Shown(posixpath.join(folder, other))
        pieces.append(piece)
      rows.append(Row(key, where, texts, {**fields, "file_name": key}, split, annotations.objects(fields, where),
                      annotations.questions(fields, where), tuple(pieces)))
    except BadRecord as error:
      rows.append(Bad(error, split))
  return rows


def _json_lines(root: Path, name: str) -> Iterator[tuple[str, dict | BadRecord]]:
  """(place, fields) of each line that is not blank."""
  for number, line in enumerate(_bytes(root, name).split(b"\n"), 1):
    if not line.strip():
      continue
    where = f"{name} line {number}"
    try:
      fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
      fields = BadRecord(where, f"is not UTF-8 (byte {error.start + 1})", UTF_8)
    except (ValueError, RecursionError) as error:
      problem = str(error).split(":")[0] if isinstance(error, json.JSONDecodeError) else "too large or too deep"
      fields = BadRecord(where, f"is not JSON ({problem})", MEND)
    else:
      if not isinstance(fields, dict):
        problem = f"is a JSON {type(fields).__name__}, not an object"
        fields = BadRecord(where, problem, 'write {"file_name": …, "text": …}')
    yield where, fields


def _csv_lines(root: Path, name: str) -> Iterator[tuple[str, dict | BadRecord]]:
  """(place, fields) of each row; a cell left empty is a field left out, except the text's."""
  text = _bytes(root, name).decode("utf-8", "surrogateescape")
  reader = csv.reader(io.StringIO(text, newline=""), strict=True)
  header = None
  while True:
    where = f"{name} line {reader.line_num + 1}"
    try:
      cells = next(reader, None)
    except csv.Error as error:
      yield where, BadRecord(where, f"is not CSV ({error})", MEND)
      continue
    if cells is None:
      return
    if not cells:
      continue
    if any("\udc80" <= char <= "\udcff" for cell in cells if not cell.isascii() for char in cell):
      yield where, BadRecord(where, "is not UTF-8", UTF_8)
    elif header is None:
      header = [cell.strip() for cell in cells]
      if "file_name" not in header or len(set(header)) < len(header):
        raise BadRecord(where, f"the header {', '.join(header)} lacks file_name or names a column twice",
                        "make the first line file_name,text")
    elif len(cells) != len(header):
      problem = f"has {len(cells)} cells, the header {len(header)}"
      yield where, BadRecord(where, problem, "quote a text that has commas")
    else:
      yield where, {key: cell for key, cell in zip(header, cells) if cell or key in ("text", "captions")}


def _bytes(root: Path, name: str) -> bytes:
  try:
    return (root / name).read_bytes().removeprefix(b"\xef\xbb\xbf")
  except OSError as error:
    raise BadRecord(name, f"cannot be read ({error.strerror})", "make the file readable") from None


def _file_name(fields: dict, where: str) -> str:
  name = fields.get("file_name")
  if not isinstance(name, str) or not name.strip():
    problem = "has no file_name" if name is None else f"its file_name is {name!r}"
    raise BadRecord(where, problem, "name the picture, relative to the metadata file")
  if "\0" in name or not is_unicode(name):
    raise BadRecord(where, f"its file_name {name!r} is no legal name", "mend the name")
  if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name):
    problem = f"file_name {name!r} is an absolute path, outside the folder"
    raise BadRecord(where, problem, "name a file inside the folder")
  path = posixpath.normpath(name)
  if path == ".." or path.startswith("../"):
    raise BadRecord(where, f"file_name {name!r} leads outside the folder", "name a file inside the folder")
  return path


def _check_inside(folder: Path, inside: str, file_name: str, where: str, real: dict[str, str]) -> None:
  """BadRecord where a link leads out of the folder. `real` remembers folders already resolved."""
  path = os.path.join(folder, file_name)
  parent = os.path.dirname(path)
  if parent not in real:
    real[parent] = os.path.realpath(parent)
  resolved = os.path.realpath(path) if os.path.islink(path) else real[parent]
  if resolved != inside and not resolved.startswith(inside.rstrip(os.sep) + os.sep):
    problem = f"file_name {file_name!r} is a link that leads outside the folder"
    raise BadRecord(where, problem, "copy the picture into the folder")


def _split(fields: dict, where: str) -> str:
  name = fields.get("split")
  if name is None:
    return ""
  if not isinstance(name, str) or name.strip().lower() not in SPLITS:
    raise BadRecord(where, f"its split is {name!r}", f"use one of {', '.join(SPLITS)}")
  return SPLITS[name.strip().lower()]


def _folder_split(name: str) -> str:
  return SPLITS.get(name.split("/")[0].lower(), "") if "/" in name else ""


def texts_of(data: config.ImageFolder, fields: dict, where: str) -> tuple[str, ...]:
  """The row's texts, stripped; () where the template asks for none."""
  if "caption" not in captions.parse(data.caption_template).names and not data.text_field:
    names = [name for name in ("captions", "text") if fields.get(name)]
  else:
    names = [data.text_field] if data.text_field else ["captions", "text"]
    if all(fields.get(name) is None for name in names):
      raise BadRecord(where, f"has no {' or '.join(names)}",
                      f"add a caption, or name its field with data.text_field (this line has: {', '.join(fields)})")
  value = next((fields[name] for name in names if fields.get(name) is not None), ())
  texts = [value] if isinstance(value, str) else value
  if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
    raise BadRecord(where, f"its caption is {str(value)[:40]!r}, not text", "write a text or a list of texts")
  if names and (not texts or not all(text.strip() for text in texts)):
    raise BadRecord(where, "has an empty caption", "write a caption, or leave the line out with data.on_bad=skip")
  if not all(map(is_unicode, texts)):
    raise BadRecord(where, "its caption has half of a surrogate pair", "mend the text: it is not valid Unicode")
  return tuple(text.strip() for text in texts)


def is_unicode(text: str) -> bool:
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True


def _read_loose(root: Path, names: list[str], files: set[str]) -> list[Row | Bad]:
  """Rows of pictures without metadata: a .txt beside each, class subfolders, or no text."""
  texts = {name: text for name in names if (text := posixpath.splitext(name)[0] + ".txt") in files}
  parents = {name: _class_of(name) for name in names}
  classes = len(set(parents.values()) - {""}) > 1
  rows = []
  for name in names:
    split, fields, lines = _folder_split(name), {"file_name": name}, ()
    try:
      if texts:
        lines = _text_lines(root, name, texts)
      elif classes:
        lines = (parents[name],)
        if not parents[name]:
          raise BadRecord(name, "lies beside the class folders, in none of them", "move it into one")
        fields["label"] = parents[name]
      rows.append(Row(name, name, lines, fields, split))
    except BadRecord as error:
      rows.append(Bad(error, split))
  return rows


def _class_of(name: str) -> str:
  folders = name.split("/")[:-1]
  if folders and folders[0].lower() in SPLITS:
    folders = folders[1:]
  return re.sub(r"[_-]+", " ", folders[-1]).strip() if folders else ""


def _text_lines(root: Path, name: str, texts: dict[str, str]) -> tuple[str, ...]:
  if name not in texts:
    remedy = f"add {posixpath.splitext(name)[0]}.txt"
    raise BadRecord(name, "has no .txt beside it, as other pictures here do", remedy)
  try:
    lines = _bytes(root, texts[name]).decode("utf-8").split("\n")
  except UnicodeDecodeError as error:
    raise BadRecord(texts[name], f"is not UTF-8 (byte {error.start + 1})", "save it as UTF-8") from None
  if not any(line.strip() for line in lines):
    raise BadRecord(texts[name], "has an empty caption", "write one caption a line")
  return tuple(line.strip() for line in lines if line.strip())


def _once(rows: list[Row | Bad]) -> Iterator[Row | Bad]:
  """The rows, a picture's second listing made bad."""
  first = {}
  for row in rows:
    if isinstance(row, Row) and row.key in first:
      yield Bad(BadRecord(row.where, f"lists {row.key} a second time (first: {first[row.key]})",
                          "remove one of the two; several captions go into `captions`"), row.split)
      continue
    if isinstance(row, Row):
      first[row.key] = row.where
    yield row
