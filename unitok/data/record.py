"""What every source yields, and how a bad record is told."""
from typing import Any, NamedTuple, Protocol

import numpy as np


class Object(NamedTuple):
  """Something in a picture."""
  name: str
  box: tuple[float, float, float, float]   # x0, y0, x1, y1, shares of the picture's sides in 0 .. 1


class Record(NamedTuple):
  """One example before encoding."""
  key: str                       # unique in its source and stable between runs
  image: np.ndarray | None       # u8[image_size image_size 3] RGB, or None where there is text alone
  captions: tuple[str, ...]      # with the template applied; empty where there is no text
  fields: dict[str, Any] = {}    # everything else the record carries: truth, split, style
  objects: tuple[Object, ...] = ()
  questions: tuple[tuple[str, str], ...] = ()   # (question, answer) each
  pieces: tuple[str | np.ndarray, ...] = ()     # of an interleaved document: texts and pictures u8[h w 3], in any order


class BadRecord(ValueError):
  """A record that cannot be used: where it is, what is wrong, what to do."""

  def __init__(self, where: str, problem: str, remedy: str):
    super().__init__(f"{where}: {problem}; {remedy}")
    self.where, self.problem, self.remedy = where, problem, remedy

  def __reduce__(self):   # an exception is otherwise rebuilt from its message alone, e.g. on its way from a worker
    return type(self), (self.where, self.problem, self.remedy)


class Source(Protocol):
  """Random access to the records of one split. `source[i]` raises BadRecord for one that cannot be used."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...
