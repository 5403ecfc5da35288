"""Codes in parallel groups, those of one in one pass (the objective `parallel`): how large they are, in which order."""
import numpy as np

from unitok.config import Sampling
from unitok.objectives.parallel import SCHEDULES, in_groups
from unitok.sampling.strategy import Strategy, first_drawn
from unitok.sequence import Sequence


def as_known(d: Sequence) -> np.ndarray:
  """i32[n]: each token as early as its id is known; tokens of one order, which see each other, share a pass."""
  first = first_drawn(d)
  out = np.zeros(d.length - first, np.int32)
  needed = np.zeros(d.length, np.int32)
  for at in range(first, d.length):
    out[at - first] = max(needed[at], out[at - first - 1] if at > first else 0)
    if 0 <= d.fills[at] < d.length:
      needed[d.fills[at]] = out[at - first] + 1
  return out


GROUPS = Strategy(as_known, grouped=True)


def groups_of(places: np.ndarray, sampling: Sampling, seed: int) -> np.ndarray:
  """i32[h w]: the group in which each place is drawn, -1 beside bool[h w] `places`; sampling.passes of them, no more
  than there are places. For maskgit, which groups them by itself, all are in group 0.

  ValueError where a whole picture has fewer places than passes.
  """
  if sampling.passes < 1:
    raise ValueError(f"sampling.passes: {sampling.passes} must be 1 or more for the strategy {sampling.strategy or 'groups'}; "
                     "give --passes")
  count = int(places.sum())
  if places.all() and sampling.passes > count:
    raise ValueError(f"sampling.passes: {sampling.passes} are more than the {count} codes of a picture")
  if sampling.strategy == "maskgit":
    return np.where(places, 0, -1).astype(np.int32)
  sizes = SCHEDULES[sampling.group_sizes](count, min(sampling.passes, count))
  numbers = ORDERS[sampling.group_order](places, sizes, np.random.default_rng(seed))
  groups = np.full(places.size, -1, np.int32)
  groups[numbers] = in_groups(np.arange(count), sizes)
  return groups.reshape(places.shape)


def raster(places, sizes, rng):
  return np.flatnonzero(places)


def random(places, sizes, rng):
  return rng.permutation(np.flatnonzero(places))


def halton(places, sizes, rng):
  """By the Halton sequence in bases 2 and 3, which covers a picture evenly at any length (Besnier 2025, 2503.17076)."""
  height, width = places.shape
  found, n = {}, 1
  while len(found) < places.size:
    at = int(_inverse(n, 2) * height) * width + int(_inverse(n, 3) * width)
    found.setdefault(at)
    n += 1
  numbers = np.array(list(found))
  return numbers[places.ravel()[numbers]]


def _inverse(n: int, base: int) -> float:
  """The digits of n behind the point, in reverse: 6 = 110 in base 2 gives 0.011, 3/8."""
  out, step = 0.0, 1.0
  while n:
    n, digit = divmod(n, base)
    step /= base
    out += digit * step
  return out


def locality(places, sizes, rng):
  """Near what is drawn already, and those of one group apart, so that each knows much and the group agrees (LPD, Zhang
  2025, 2507.01957).

  Of the places at least `apart` from all of the group so far the one nearest to a known place comes next; where there is
  none, the one farthest from the group. Ties fall by chance.
  """
  where, numbers, chance = np.argwhere(places), np.flatnonzero(places), rng.random(int(places.sum()))
  near, left, order = np.full(len(where), np.inf), np.ones(len(where), bool), []
  for known in np.argwhere(~places):
    near = np.minimum(near, np.linalg.norm(where - known, axis=1))
  for size in sizes:
    far, apart = np.full(len(where), np.inf), 0.75 * np.sqrt(left.sum() / size)
    for _ in range(size):
      fits = np.flatnonzero(left & (far >= apart))
      if fits.size:
        one = fits[np.lexsort((chance[fits], near[fits]))[0]]
      else:
        fits = np.flatnonzero(left)
        one = fits[np.lexsort((chance[fits], -far[fits]))[0]]
      left[one] = False
      order.append(one)
      far = np.minimum(far, np.linalg.norm(where - where[one], axis=1))
    near = np.minimum(near, far)
  return numbers[order]


ORDERS = {"random": random, "raster": raster, "halton": halton, "locality": locality}
"""(places bool[h w], sizes of the groups, generator) -> the numbers of the places, group by group."""
