"""Files that are there whole or not at all: written under another name, then renamed."""
import contextlib
import json
import os
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


def write(path, content: bytes) -> str:
  """A file, and its folder -> its path. Where writing fails, what was there before stays."""
  path = epath.Path(path)
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
