"""Errors as one line."""
import errno

import pytest

from unitok.errors import message


@pytest.mark.parametrize("error, says", [
    (ValueError("decoder.layers: 0\n  is too few"), "decoder.layers: 0 is too few"),
    (ValueError(), "ValueError"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"),
     "a.png: no such file or directory; check the path and its rights"),
    (OSError(errno.ENOSPC, "No space left on device", "a.png"),
     "a.png: the disk is full; what is finished stays: make room and give the same command again"),
    (RuntimeError("write: Disk quota exceeded [122]"),
     "the disk is full; what is finished stays: make room and give the same command again"),
])
def test_message(error, says):
  assert message(error) == says
