"""Infill in place: [infill] caption [boi] kept codes, then each masked run behind its placeholder.

The kept codes are seen by all and carry no loss; inside a hole the codes are causal, as in CogLM
(CogView2, 2204.14217), but a placeholder asks for the first code of each run, so that every masked
code is predicted (theirs leaves out the first of a region).
"""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, one_caption, picture
from unitok.sequence import Part


def infill(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """The hole is where codes are -1; where none is, a kind of `options.holes` is drawn.

  At least three in ten training captions are dropped: a hole is often filled without one.
  """
  hole = codes.unknown
  drawing = hole.any()
  if not drawing:
    kinds = [name for name in HOLES if options.holes.get(name)]
    weights = np.array([options.holes[name] for name in kinds])
    name = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    hole = HOLES[name](codes.grid, rng, *options.hole_share)
  dropped = not drawing and rng.random() < max(options.caption_drop, 0.3)
  caption = np.zeros(0, np.int32) if dropped else one_caption(codes, rng)
  return [control("[infill]"), Part("text", caption), *picture(codes.image, options, hole=hole)]


def rectangles(shape: tuple[int, int], rng: np.random.Generator, least: float, most: float) -> np.ndarray:
  """bool[h w]: one or two rectangles with sides of a quarter to three quarters of the grid.

  Never all of it, but of a grid of a single code.
  """
  hole = np.zeros(shape, bool)
  for _ in range(rng.integers(1, 3)):
    height, width = (int(rng.integers(max(1, side // 4), max(2, side * 3 // 4 + 1))) for side in shape)
    row, column = rng.integers(shape[0] - height + 1), rng.integers(shape[1] - width + 1)
    hole[row:row + height, column:column + width] = True
  if hole.all():      # only on grids of one row or column, or of two
    hole.flat[rng.integers(hole.size)] = hole.size == 1
  return hole


def patches(shape: tuple[int, int], rng: np.random.Generator, least: float, most: float) -> np.ndarray:
  """bool[h w]: random squares of a quarter of the shorter side (4x4 of 16x16, as in CogView2), no more than 4x4."""
  side = max(1, min(4, min(shape) // 4))
  rows, columns = (-(-n // side) for n in shape)
  count = int(np.clip(round(rng.uniform(least, most) * rows * columns), 1, max(rows * columns - 1, 1)))
  hole = np.zeros(rows * columns, bool)
  hole[rng.permutation(hole.size)[:count]] = True
  return np.kron(hole.reshape(rows, columns), np.ones((side, side), bool))[:shape[0], :shape[1]]


def halves(shape: tuple[int, int], rng: np.random.Generator, least: float, most: float) -> np.ndarray:
  """bool[h w]: all beyond a line, on one of the four sides (outpainting)."""
  hole, axis = np.zeros(shape, bool), int(rng.integers(2))
  if shape[axis] == 1:
    axis = 1 - axis
  depth = int(np.clip(round(rng.uniform(least, most) * shape[axis]), 1, max(shape[axis] - 1, 1)))
  lines = np.s_[:depth] if rng.integers(2) else np.s_[shape[axis] - depth:]
  hole[(lines, slice(None)) if axis == 0 else (slice(None), lines)] = True
  return hole


HOLES = {"rectangles": rectangles, "patches": patches, "halves": halves}
"""(grid, rng, least share, greatest share) -> bool[h w], True where masked. The shares are not for rectangles."""
