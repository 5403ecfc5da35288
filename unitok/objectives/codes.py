"""What an objective is given, and the pieces objectives share."""
from typing import NamedTuple

import numpy as np

from unitok.config import Objectives
from unitok.sequence import Part
from unitok.vocab import SPECIAL


class Codes(NamedTuple):
  """One example's local codes; -1 stands for what is to be drawn."""
  text: tuple[np.ndarray, ...] = ()      # captions, i32[n] each
  image: np.ndarray | None = None        # i32[h w], or i32[h w G] of G > 1 books
  key: str = ""                          # of its record, for errors and reports
  groups: np.ndarray | None = None       # i32[h w]: the group each place is drawn in, -1 context; None: chance says
  objects: tuple[tuple[np.ndarray, np.ndarray], ...] = ()     # (name i32[n], box i32[4]: location codes) each
  questions: tuple[tuple[np.ndarray, np.ndarray], ...] = ()   # (question i32[n], answer i32[m]) each
  pieces: tuple[np.ndarray, ...] = ()    # of an interleaved document: texts i32[n] and pictures as above, in any order
  sentences: tuple[np.ndarray, ...] = ()   # where each caption's sentences end, its length last; (): each is one
  coarse: np.ndarray | None = None       # the picture at half its sides: i32[h/2 w/2], or i32[h/2 w/2 G]

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of places of the picture."""
    return self.image.shape[:2]

  @property
  def unknown(self) -> np.ndarray:
    """bool[h w]: the places of the picture whose codes are to be drawn, all those of a place together."""
    return (self.image < 0).reshape(*self.grid, -1).any(-1)


def control(name: str, loss_weight: float = 0.0, names: tuple[str, ...] = SPECIAL) -> Part:
  """A control token by itself; `names` are those of its vocabulary."""
  return Part("special", np.array([names.index(name)], np.int32), loss_weight)


def picture(image: np.ndarray, options: Objectives, loss_weight: float = 1.0, **how) -> list[Part]:
  """[boi], its size where the options say so, and the codes; `how` are Part's fields hole and groups."""
  grid = image.shape[:2]
  size = [Part("size", np.array(grid, np.int32))] if options.size_tokens else []
  in_rows = options.row_ends and not how
  scale = min(1.0, options.training_grid / max(grid)) if options.training_grid else 1.0
  return [control("[boi]"), *size,
          Part("image", image, loss_weight, row_end="[row]" if in_rows else "", scale=scale, **how)]


def shown(image: np.ndarray, options: Objectives) -> list[Part]:
  """A picture as context, whose codes see each other, and [eoi]."""
  boi, *size, codes = picture(image, options, 0.0)
  return [boi, *size, codes._replace(hole=np.zeros(image.shape[:2], bool)), control("[eoi]")]


def prompt(*parts: Part) -> list[Part]:
  """The parts as one context: all its tokens see each other."""
  return [part._replace(hole=np.zeros(part.codes.shape[:2], bool), together=True) for part in parts]


def one_caption(codes: Codes, rng: np.random.Generator) -> np.ndarray:
  """One of the captions, evenly; empty where there is none."""
  return codes.text[rng.integers(len(codes.text))] if codes.text else np.zeros(0, np.int32)


def caption_or_none(codes: Codes, rng: np.random.Generator, drop: float) -> np.ndarray:
  """`one_caption`; with probability `drop` an empty one, which is the null caption of guidance."""
  dropped = rng.random() < drop
  return np.zeros(0, np.int32) if dropped else one_caption(codes, rng)
