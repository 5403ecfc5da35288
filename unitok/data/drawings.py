"""Pictures out: PNG files, and sheets of many."""
import io
import math

import numpy as np
from PIL import Image

from unitok.files import write

GAP = 2
"""Pixels between the pictures of a sheet, before it is enlarged."""


def png(image: np.ndarray) -> bytes:
  """u8[h w 3] -> the bytes of a PNG file."""
  content = io.BytesIO()
  Image.fromarray(image).save(content, "PNG")
  return content.getvalue()


def save(path, image: np.ndarray) -> str:
  """u8[h w 3] as a PNG file, which is there whole or not at all, and its folder -> its path."""
  return write(path, png(image))


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
