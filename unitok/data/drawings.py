"""Pictures out: PNG files that are there whole or not at all, and sheets of many."""
import io
import math
import os

import numpy as np
from etils import epath
from PIL import Image

GAP = 2
"""Pixels between the pictures of a sheet, before it is enlarged."""


def png(image: np.ndarray) -> bytes:
  """u8[h w 3] -> the bytes of a PNG file."""
  content = io.BytesIO()
  Image.fromarray(image).save(content, "PNG")
  return content.getvalue()


def write(path, content: bytes) -> str:
  """A file, and its folder, written under another name and renamed -> its path."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  new = path.parent / f".{path.name}.{os.getpid()}.new"
  try:
    new.write_bytes(content)
    new.replace(path)
  except BaseException:
    new.unlink(missing_ok=True)
    raise
  return str(path)


def sheet(images: np.ndarray, columns: int = 0, at_least: int = 96) -> np.ndarray:
  """u8[n h w 3] -> u8[H W 3]: rows of `columns` (0: about a square) on white.

  Small pictures are enlarged by a whole number until their side is `at_least` pixels.
  """
  count, height, width = images.shape[:3]
  if not count:
    raise ValueError("sheet: no pictures; give at least one")
  columns = columns or math.ceil(math.sqrt(count))
  rows = -(-count // columns)
  out = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
  for n, image in enumerate(images):
    row, column = divmod(n, columns)
    out[row * (height + GAP):, column * (width + GAP):][:height, :width] = image
  return enlarged(out, -(-at_least // min(height, width)))


def enlarged(image: np.ndarray, times: int) -> np.ndarray:
  """u8[h w 3] -> every pixel as a square of side `times`."""
  return image.repeat(times, 0).repeat(times, 1)
