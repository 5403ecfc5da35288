"""A file is there whole or as it was."""
import json
import os

import pytest

from unitok import files
from unitok.errors import message


def test_written_with_its_folder(tmp_path):
  assert files.write(tmp_path / "new" / "a.png", b"\x00\xff") == str(tmp_path / "new" / "a.png")
  assert (tmp_path / "new" / "a.png").read_bytes() == b"\x00\xff"
  files.write_json(tmp_path / "a.json", {"grün": [1, None]})
  assert json.loads((tmp_path / "a.json").read_text()) == {"grün": [1, None]}


def test_a_full_disk_names_the_file(tmp_path):
  """The system's own error at write or close has no name: that of the file, not of the one beside it, is told."""
  path = tmp_path / "a.json"
  (tmp_path / f".a.json.{os.getpid()}.new").symlink_to("/dev/full")
  with pytest.raises(OSError, match="No space left") as told:
    files.write_json(path, "new")
  assert message(told.value).startswith(f"{path}: the disk is full;")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails, error", [("write_bytes", OSError(28, "No space left on device")),
                                          ("replace", KeyboardInterrupt())])
def test_a_write_that_fails(tmp_path, monkeypatch, fails, error):
  """The old file stays, and nothing lies beside it."""
  path = tmp_path / "a.json"
  files.write_json(path, "old")

  def fail(self, *_):
    self.touch()
    raise error
  monkeypatch.setattr(type(files.epath.Path(path)), fails, fail)
  with pytest.raises(type(error)):
    files.write_json(path, "new")
  assert json.loads(path.read_text()) == "old" and list(tmp_path.iterdir()) == [path]
