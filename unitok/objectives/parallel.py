"""A picture in parallel groups: [parallel] caption [boi], then group by group its places in any order.

Each group asks for all of its places at once by placeholders, which see what came before and each other; then come its
codes. So a model can draw many codes a pass (ARPG, 2503.10568; RandAR, 2412.01827). Groups of one in raster order give
the ordinary factorisation.
"""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, caption_or_none, control, picture
from unitok.sequence import Part


def parallel(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """The groups are `codes.groups` where given (-1 is context); else their number, sizes and order are drawn."""
  caption = caption_or_none(codes, rng, options.caption_drop)
  groups = random_groups(codes.grid, rng, options) if codes.groups is None else codes.groups
  return [control("[parallel]"), Part("text", caption), *picture(codes.image, options, groups=groups)]


def random_groups(grid: tuple[int, int], rng: np.random.Generator, options: Objectives) -> np.ndarray:
  """i32[h w]: the group of each place; their number, sizes and order by chance."""
  size = grid[0] * grid[1]
  least = min(options.least_groups, size)
  count = int(np.exp(rng.uniform(np.log(least), np.log(size + 1))))
  order = np.arange(size) if rng.random() < options.raster_share else rng.permutation(size)
  name = tuple(SCHEDULES)[rng.integers(len(SCHEDULES))]
  return in_groups(order, SCHEDULES[name](size, count)).reshape(grid)


def cosine(size: int, count: int) -> np.ndarray:
  """Sizes of `count` groups: the first is one code, which decides what is open of all; after r more of them the share
  cos(pi r / 2 (count - 1)) of the others is still unknown (2202.04200), so groups grow; each has one code at least."""
  if count == 1:
    return np.array([size])
  known = np.round(1 + (size - 1) * (1 - np.cos(np.pi / 2 * np.arange(count) / (count - 1)))).astype(int)
  for n in range(1, count - 1):   # one code at least for each, those to come included
    known[n] = min(max(known[n], known[n - 1] + 1), size - (count - 1 - n))
  return np.diff(known, prepend=0)


def uniform(size: int, count: int) -> np.ndarray:
  """Sizes of `count` groups that differ by one at most."""
  return np.diff(np.arange(count + 1) * size // count)


SCHEDULES = {"cosine": cosine, "uniform": uniform}
"""(codes, groups) -> the size of each group, in their order."""


def in_groups(order: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """i32[n]: the group of each place, where `order` lists the places as they are drawn."""
  groups = np.empty(len(order), np.int32)
  groups[order] = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
  return groups
