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
  groups: np.ndarray | None = None       # i32[h w]: the group each place is drawn in, -1 context; None: chance says
  objects: tuple[tuple[np.ndarray, np.ndarray], ...] = ()     # (name i32[n], box i32[4]: location codes) each
  questions: tuple[tuple[np.ndarray, np.ndarray], ...] = ()   # (question i32[n], answer i32[m]) each
  sentences: tuple[np.ndarray, ...] = ()   # where each caption's sentences end, its length last; (): each is one


def control(name: str, loss_weight: float = 0.0) -> Part:
  """A control token by itself."""
  return Part("special", np.array([SPECIAL.index(name)], np.int32), loss_weight)


def shown(image: np.ndarray) -> list[Part]:
  """[boi] codes [eoi]: a picture as context, whose codes see each other."""
  return [control("[boi]"), Part("image", image, hole=np.zeros(image.shape, bool)), control("[eoi]")]


def prompt(*parts: Part) -> list[Part]:
  """The parts as one context: all its tokens see each other."""
  return [part._replace(hole=np.zeros(part.codes.shape, bool), together=True) for part in parts]


def one_caption(codes: Codes, rng: np.random.Generator) -> np.ndarray:
  """One of the captions, evenly; empty where there is none."""
  return codes.text[rng.integers(len(codes.text))] if codes.text else np.zeros(0, np.int32)


def caption_or_none(codes: Codes, rng: np.random.Generator, drop: float) -> np.ndarray:
  """`one_caption`; with probability `drop` an empty one, which is the null caption of guidance."""
  dropped = rng.random() < drop
  return np.zeros(0, np.int32) if dropped else one_caption(codes, rng)
