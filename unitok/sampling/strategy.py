"""What a decoding strategy is."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unitok.config import Sampling
from unitok.sequence import Sequence


class Placed(NamedTuple):
  """A document as a strategy goes through it."""
  document: Sequence
  passes: np.ndarray                # i32[n]: the pass of each token from the first that is drawn from on
  also: np.ndarray | None = None    # i32[l]: the token that takes what is drawn here beside the one of `fills`, -1 none


class Strategy(NamedTuple):
  """How a document's tokens become passes of the sampler's loop.

  Without a window all rows go on together, pass by pass of those laid out. With it a pass computes so many columns, one
  token each, at a place of each row's own; those stay whose guesses were right, and no more than `most`, which is no part
  of what is compiled: strategies with equal windows are one program.
  """
  passes: Callable[[Sequence], np.ndarray]    # i32[n]: the pass of each token from the first that is drawn from on
  window: int = 0                             # where sampling.window is 0; 0: none
  most: int = 2**31 - 1                       # columns of a window that a pass keeps, at most
  grouped: bool = False                       # draws documents that ask for groups of codes at once
  chooses: bool = False                       # the one pass laid out is gone through again until all codes stay
  place: Callable[[Sequence, Sampling, int], Placed] | None = None    # in the stead of `passes`, by the image's block


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
