"""What an objective is given, and the pieces objectives share."""
from typing import NamedTuple

import numpy as np

from unitok.sequence import Part
from unitok.vocab import SPECIAL


class Codes(NamedTuple):
  """One example's local codes; -1 stands for what is to be drawn."""
  text: tuple[np.ndarray, ...] = ()      # captions, i32[n] each
  image: np.ndarray | None = None        # i32[h w]
  key: str = ""                          # of its record, for errors and reports


def control(name: str) -> Part:
  """A control token by itself, never predicted."""
  return Part("special", np.array([SPECIAL.index(name)], np.int32))


def one_caption(codes: Codes, rng: np.random.Generator) -> np.ndarray:
  """One of the captions, evenly; empty where there is none."""
  return codes.text[rng.integers(len(codes.text))] if codes.text else np.zeros(0, np.int32)
