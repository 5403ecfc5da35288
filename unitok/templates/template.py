"""What the templates share."""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unitok.sequence import AXES, Part
from unitok.vocab import Block, Vocabulary


@dataclass(frozen=True)
class Template:
  """A system: its vocabulary and its forms, the usual one first. `grid` is the picture's of the example."""
  vocabulary: Vocabulary
  forms: dict[str, Callable[..., list[Part]]]
  grid: tuple[int, int] = (2, 3)


def vocabulary(controls: dict[str, int], **blocks: tuple[range, ...]) -> Vocabulary:
  """The blocks, and "special" with the control tokens at their ids."""
  special = Block("special", tuple(range(id, id + 1) for id in controls.values()))
  return Vocabulary((*(Block(name, ranges) for name, ranges in blocks.items()), special), controls=tuple(controls))


def picture(image: np.ndarray, loss_weight: float, on_grid: bool, row_end: Part | None = None) -> list[Part]:
  """A picture's codes in raster order, i32[h w], with `row_end` behind every row.

  On the grid, at time t: code (row, column) at (t, t+row, t+column), a row's end at (t, t+row, t+width), and what comes
  next at t + max(h, w). Otherwise one after another.
  """
  if np.ndim(image) != 2:
    raise ValueError(f"picture: codes of shape {np.shape(image)}; must be a grid [h w], with its rows first")
  height, width = image.shape
  if row_end is None:
    return [Part("image", image if on_grid else image.ravel(), loss_weight)]
  if not on_grid:
    return [part for row in image for part in (Part("image", row, loss_weight), row_end)]
  parts, where = [], grid_positions(height, width + 1).reshape(height, width + 1, AXES)
  for row, at in zip(image, where):
    parts += [Part("image", row, loss_weight, positions=at[:width]), row_end._replace(positions=at[width:])]
  return [*parts, passing(max(height, width))]


def grid_positions(height: int, width: int) -> np.ndarray:
  """i32[h*w 3]: (0, row, column), in raster order."""
  rows, columns = np.divmod(np.arange(height * width, dtype=np.int32), np.int32(width))
  return np.stack([np.zeros_like(rows), rows, columns], -1)


def line_positions(first: int, count: int) -> np.ndarray:
  """i32[count 3]: first, first + 1 … on every axis."""
  return np.repeat(np.arange(first, first + count, dtype=np.int32)[:, None], AXES, 1)


def passing(time: int) -> Part:
  """No token; the time goes on."""
  return Part("image", np.zeros((0, time), np.int32))


def limit(name: str, parts: list[Part], most: int) -> list[Part]:
  """The parts, if they are at most so many tokens."""
  count = sum(part.codes.size for part in parts)
  if count > most:
    raise ValueError(f"{name}: {count} tokens; its documents have at most {most}; shorten the caption or take a "
                     "smaller picture")
  return parts
