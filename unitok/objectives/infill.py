"""Infill in place: [infill] caption [boi] kept codes, then each masked run behind its placeholder.

The kept codes are seen by all and carry no loss; inside a hole the codes are causal, as in CogLM
(CogView2, 2204.14217), but a placeholder asks for the first code of each run, so that every masked
code is predicted (theirs leaves out the first of a region).
"""
import numpy as np

from unitok.objectives.codes import Codes, control, one_caption
from unitok.sequence import Part


def infill(codes: Codes, rng: np.random.Generator, drop: float = 0.0) -> list[Part]:
  """The hole is where codes are -1; where none is, one or two rectangles are drawn at random.

  At least three in ten training captions are dropped: a hole is often filled without one.
  """
  hole = codes.image < 0
  drawing = hole.any()
  if not drawing:
    hole = random_rectangles(codes.image.shape, rng)
  dropped = not drawing and rng.random() < max(drop, 0.3)
  caption = np.zeros(0, np.int32) if dropped else one_caption(codes, rng)
  return [control("[infill]"), Part("text", caption), control("[boi]"),
          Part("image", codes.image, loss_weight=1.0, hole=hole)]


def random_rectangles(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
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
