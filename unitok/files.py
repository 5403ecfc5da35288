"""Files that are there whole or not at all: written under another name, then renamed; in a bucket, as one object."""
import contextlib
import functools
import json
import os
import posixpath
import tempfile
from typing import Any

from etils import epath


@contextlib.contextmanager
def named(path):
  """An OSError inside names this file where it names none: a full disk is met by write() and close(), which do not."""
  try:
    yield
  except OSError as error:
    error.filename = error.filename or str(path)
    raise


def in_bucket(path) -> bool:
  """gs://…, s3://…: what is there is read and written whole, and is renamed by copying."""
  return "://" in str(path)


@functools.cache
def local(path: str) -> str:
  """A file for what reads no bucket: the path itself, or that of a copy, which lasts as long as the program."""
  if not in_bucket(path):
    return path
  folder = _copies()
  copy = epath.Path(tempfile.mkdtemp(dir=folder.name)) / posixpath.basename(path)
  with named(copy):
    epath.Path(path).copy(copy)
  return str(copy)


@functools.cache
def _copies() -> tempfile.TemporaryDirectory:
  """Removed when the program ends."""
  return tempfile.TemporaryDirectory(prefix="unitok_")


def write(path, content: bytes) -> str:
  """A file, and its folder -> its path. Where writing fails, what was there before stays."""
  path = epath.Path(path)
  if in_bucket(path):
    with named(path):
      path.write_bytes(content)
    return str(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  new = path.parent / f".{path.name}.{os.getpid()}.new"
  try:
    with named(path):
      new.write_bytes(content)
      new.replace(path)
  except BaseException:
    new.unlink(missing_ok=True)
    raise
  return str(path)


def write_json(path, value: Any) -> str:
  return write(path, (json.dumps(value, indent=1) + "\n").encode())
