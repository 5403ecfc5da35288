"""Pictures <-> codes of a grid. The functions that do it are passed in, so that nothing here needs jax."""
from collections.abc import Callable

import numpy as np


class ImageModality:
  """A trained image tokenizer as two functions of arrays.

  encode: u8[b H W 3] -> i32[b h w]; decode: i32[b h w] -> u8[b H W 3], either of numpy or jax arrays. Codes are
  i32[b h w G] where a place has one of each of G > 1 books.
  grid: (rows, columns) of codes of the pictures it was trained on; downsampling: pixels a code in each direction;
  fingerprint: changes with its weights.
  """

  def __init__(self, encode: Callable, decode: Callable, grid: tuple[int, int], downsampling: int,
               codebook_size: int, fingerprint: str, books: int = 1):
    self._encode, self._decode = encode, decode
    self.grid, self.downsampling = tuple(grid), downsampling
    self.codebook_size, self.fingerprint, self.books = codebook_size, fingerprint, books

  @property
  def size(self) -> int:
    return self.codebook_size

  @property
  def _of_place(self) -> tuple[int, ...]:
    return () if self.books == 1 else (self.books,)

  def encode(self, pixels: np.ndarray) -> np.ndarray:
    """u8[b H W 3] -> i32[b h w] or i32[b h w G]. ValueError where the pixels have another form or sides that do
    not divide."""
    pixels = np.asarray(pixels)
    side = self.downsampling
    legal = pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[3] == 3
    if not legal or pixels.shape[1] % side or pixels.shape[2] % side:
      raise ValueError(f"image: pixels are {pixels.dtype}{list(pixels.shape)}, must be uint8[b H W 3] with H and W "
                       f"multiples of {side}; set data.image_size to one")
    codes = np.asarray(self._encode(pixels))
    want = (len(pixels), pixels.shape[1] // side, pixels.shape[2] // side, *self._of_place)
    if codes.shape != want:
      raise ValueError(f"image: the tokenizer made codes of shape {codes.shape}, not {want}; "
                       "its downsampling is not what its config says")
    return codes.astype(np.int32)

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """i32[b h w] or i32[b h w G] -> u8[b H W 3]. ValueError for a code outside 0 .. size-1."""
    codes = np.asarray(codes, np.int32)
    if codes.ndim < 3 or codes.shape[3:] != self._of_place:
      raise ValueError(f"image: codes are of shape {codes.shape}, must be "
                       f"[{' '.join(['b h w', *map(str, self._of_place)])}]")
    bad = codes[(codes < 0) | (codes >= self.size)]
    if bad.size:
      raise ValueError(f"image: code {bad[0]} is not in 0 .. {self.size - 1}; the codes are from another tokenizer")
    return np.asarray(self._decode(codes))
