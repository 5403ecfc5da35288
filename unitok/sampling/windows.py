"""A picture larger than those a model learned from, window by window of a size that it knows."""
import numpy as np


def windows_over(known: np.ndarray, shape: tuple[int, int], step: int = 1) -> list[tuple[int, int]]:
  """[(row, column)] of windows of `shape` (cut to the picture's) that hold all places beside bool[h w] `known`, as they are
  drawn: what a window holds is known to those after it.

  Next comes, of the windows half of which is known, the one with the most unknown; where there is none, the one of which
  most is known. Ties: the first in raster order. For example of 8 columns 0 .. 3 are known, windows of 4: 2, 4.
  step: they begin at multiples of it, which the sides of `shape` and of the picture are too.
  """
  height, width = (min(sides) for sides in zip(shape, known.shape))
  size, known, out = height * width, known.copy(), []
  while not known.all():
    to_here = np.pad(known.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    count = to_here[height:, width:] - to_here[:-height, width:] - to_here[height:, :-width] + to_here[:-height, :-width]
    count = count[::step, ::step]
    worth = np.where(2 * count >= size, 2 * size - count, count)
    worth[count == size] = -1
    row, column = (int(at) * step for at in np.unravel_index(worth.argmax(), worth.shape))
    known[row:row + height, column:column + width] = True
    out.append((row, column))
  return out


def seed_of(seed: int, step: int) -> int:
  """The seed of a window: that of the first is `seed` itself."""
  return seed if step == 0 else int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
