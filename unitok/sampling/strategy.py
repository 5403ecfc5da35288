"""What a decoding strategy is."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unitok.sequence import Sequence


class Strategy(NamedTuple):
  """How a document's tokens become passes of the sampler's loop.

  Without `keep` all rows go on together, pass by pass of those laid out. With it a pass computes a window of columns, one
  token each, at a place of each row's own, and `keep` says how many of them stay.
  """
  passes: Callable[[Sequence], np.ndarray]    # i32[n]: the pass of each token from the first that is drawn from on
  keep: Callable | None = None                # bool[b w], computed from what the sample has -> i32[b], columns kept
  window: int = 1                             # of `keep`, where sampling.window is 0


def first_drawn(d: Sequence) -> int:
  """The first token that something is drawn from."""
  return int(np.flatnonzero(d.fills >= 0)[0])


def one_by_one(d: Sequence) -> np.ndarray:
  """i32[n]: a pass for every token."""
  return np.arange(d.length - first_drawn(d), dtype=np.int32)


def in_groups(d: Sequence) -> bool:
  """Is anything behind the prefix seen by a token before it?"""
  order = d.order[first_drawn(d):]
  return bool((order[1:] == order[:-1]).any())
