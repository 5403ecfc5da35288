"""Pictures <-> codes of a grid. The functions that do it are passed in, so that nothing here needs jax."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SIDES = 256
"""Numbers of rows or columns that have a token, 0 .. 255."""


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

  def encode(self, pixels: np.ndarray, tile: int = 0, margin: int | None = None) -> np.ndarray:
    """u8[b H W 3] -> i32[b h w] or i32[b h w G].

    ValueError where the pixels have another form or the sides do not divide.

    tile: with a number of pixels, larger pictures are encoded by overlapping squares of that side, of which only what
    is `margin` pixels (a quarter of the tile unless given) away from a cut counts. The codes are those of the whole
    picture where the network sees no further than that; attention and group norms see all, so they differ there.
    """
    pixels = np.asarray(pixels)
    side = self.downsampling
    legal = pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[3] == 3
    if not legal or pixels.shape[1] % side or pixels.shape[2] % side:
      raise ValueError(f"image: pixels are {pixels.dtype}{list(pixels.shape)}, must be uint8[b H W 3] with H and W "
                       f"multiples of {side}; set data.image_size to one")
    codes = _by_tiles(self._encode, pixels, side, 1, *self._tiles(tile, margin))
    want = (len(pixels), pixels.shape[1] // side, pixels.shape[2] // side, *self._of_place)
    if codes.shape != want:
      raise ValueError(f"image: the tokenizer made codes of shape {codes.shape}, not {want}; "
                       "its downsampling is not what its config says")
    return codes.astype(np.int32)

  def decode(self, codes: np.ndarray, tile: int = 0, margin: int | None = None) -> np.ndarray:
    """i32[b h w] or i32[b h w G] -> u8[b H W 3]; tile and margin as for `encode`. ValueError for a code outside 0 .. size-1."""
    codes = np.asarray(codes, np.int32)
    if codes.ndim < 3 or codes.shape[3:] != self._of_place:
      raise ValueError(f"image: codes are of shape {codes.shape}, must be "
                       f"[{' '.join(['b h w', *map(str, self._of_place)])}]")
    bad = codes[(codes < 0) | (codes >= self.size)]
    if bad.size:
      raise ValueError(f"image: code {bad[0]} is not in 0 .. {self.size - 1}; the codes are from another tokenizer")
    return _by_tiles(self._decode, codes, 1, self.downsampling, *self._tiles(tile, margin))

  def _tiles(self, tile: int, margin: int | None) -> tuple[int, int]:
    """Both in codes; tile 0: whole pictures. ValueError where they do not divide, or leave nothing."""
    side = self.downsampling
    margin = tile // 4 // side * side if margin is None else margin
    if tile < 0 or tile % side or margin < 0 or margin % side:
      raise ValueError(f"image: tiles of {tile} pixels and margins of {margin} must be multiples of {side}, the pixels "
                       "a code")
    if tile and tile <= 2 * margin:
      raise ValueError(f"image: tiles of {tile} pixels have nothing left between margins of {margin}; take tiles of "
                       f"{2 * margin + side} or more")
    return tile // side, margin // side


def _by_tiles(function: Callable, x: np.ndarray, into: int, out: int, tile: int, margin: int) -> np.ndarray:
  """function(x [b h·into w·into …]) -> [b h·out w·out …] of the whole, from what it gives for windows of places."""
  h, w = x.shape[1] // into, x.shape[2] // into
  if not tile or max(h, w) <= tile:
    return np.asarray(function(x))
  places = [(row, column) for row in windows(h, tile, margin) for column in windows(w, tile, margin)]
  cut = lambda at, extent: slice(at * into, (at + extent) * into)
  parts = np.concatenate([x[:, cut(row.start, min(tile, h)), cut(column.start, min(tile, w))]
                          for row, column in places])
  found = np.asarray(function(parts))
  whole = np.empty((len(x), h * out, w * out, *found.shape[3:]), found.dtype)
  for (row, column), one in zip(places, np.split(found, len(places))):
    kept = [slice((axis.low - axis.start) * out, (axis.high - axis.start) * out) for axis in (row, column)]
    whole[:, row.low * out:row.high * out, column.low * out:column.high * out] = one[:, *kept]
  return whole


class Window(NamedTuple):
  """Places start .. start + tile are looked at, low .. high of them kept."""
  start: int
  low: int
  high: int


def windows(length: int, tile: int, margin: int) -> list[Window]:
  """Windows whose kept places are all of 0 .. length, each `margin` or more from its window's ends inside.

  windows(10, 6, 1): 0 .. 6 keeps 0 .. 5, 4 .. 10 keeps 5 .. 10.
  """
  starts = [*range(0, max(length - tile, 0), tile - 2 * margin), max(length - tile, 0)]
  cuts = [0, *(start + margin for start in starts[1:]), length]
  return [Window(*one) for one in zip(starts, cuts, cuts[1:])]
