"""Documents side by side as the columns that the compiled program goes through."""
from typing import NamedTuple

import numpy as np

from unitok.models.rule import Rule
from unitok.sampling.strategy import Placed, first_drawn
from unitok.sequence import PADDING, Sequence


class Rows(NamedTuple):
  """Documents side by side in passes of some columns; what comes before the first stands before it. [b n] each."""
  ids: np.ndarray
  positions: np.ndarray       # [b n 3]
  rule: Rule
  blocks: np.ndarray          # of what is drawn at a column, -1 nothing
  ends: np.ndarray
  fills: np.ndarray           # column that takes what is drawn here; n: none does
  draws: np.ndarray           # number of the draw in its document
  left: np.ndarray            # where the end is drawn here, the columns from `fills` up to before this one are void
  advances: np.ndarray        # bool: time goes on by one with it
  asked: np.ndarray           # bool: its id is drawn
  back: np.ndarray | None     # how many columns before it the first guess of its id stands; None without windows
  extra: np.ndarray | None    # [b n G-1] ids of a place's further codes, -1 none; None at G = 1
  also: np.ndarray | None = None      # as `fills`, where a second column takes what is drawn; None: nowhere
  known: np.ndarray | None = None     # [b most]: places known behind each pass, of strategies that choose


def rest_of(d: Sequence) -> np.ndarray:
  """i32[l]: the first known token behind each."""
  known = np.append(np.flatnonzero(d.inputs >= 0), d.length)
  return known[np.searchsorted(known, np.arange(d.length), "right")]


def lay_out(placed: list[Placed], prefix: int, width: int, count: int, eos: int, spare: int = 0, neighbour=None) -> Rows:
  """Rows of `prefix + count * width + spare` columns. The first token that is drawn from stands at column `prefix`.

  neighbour: document -> i32[l], a name in NEIGHBOURS with its block; None: no guesses.
  """
  n, b, one = prefix + count * width + spare, len(placed), placed[0].document
  fill = lambda value: np.full((b, n), value, np.int32)
  extra = None if one.extra_codes is None else np.full((b, n, one.extra_codes.shape[1]), -1, np.int32)
  out = Rows(ids=fill(0), positions=np.zeros((b, n, one.positions.shape[1]), np.float32),
             rule=Rule(*(fill(PADDING[name]) for name in Rule._fields)), blocks=fill(-1), ends=fill(-1), fills=fill(n),
             draws=fill(0), left=fill(0), advances=fill(0).astype(bool), asked=fill(0).astype(bool),
             back=fill(1) if neighbour else None, extra=extra,
             also=None if all(p.also is None for p in placed) else fill(n))
  for row, (d, of, also) in enumerate(placed):
    first, sorted_ = first_drawn(d), np.argsort(of, kind="stable")
    within = np.empty_like(of)                                    # place of a token in its pass
    within[sorted_] = np.arange(len(of)) - np.searchsorted(of[sorted_], of[sorted_])
    where = np.concatenate([np.arange(prefix - first, prefix), prefix + of * width + within])
    out.ids[row, where], out.positions[row, where] = np.maximum(d.inputs, 0), d.positions
    out.rule.order[row, where], out.rule.visible_from[row, where] = d.order, d.visible_from
    out.rule.visible_until[row, where], out.rule.segment_ids[row, where] = d.visible_until, 1
    drawn = d.fills >= 0
    out.blocks[row, where] = np.where(drawn, d.blocks, -1)
    out.ends[row, where] = np.where(drawn, d.ends, -1)
    out.fills[row, where] = np.where(drawn & (d.fills < d.length), where[np.minimum(d.fills, d.length - 1)], n)
    out.draws[row, where] = np.cumsum(drawn) - 1
    out.left[row, where] = np.where(d.ends == eos, n, np.append(where, n)[rest_of(d)])
    out.advances[row, where] = d.advances
    out.asked[row, where] = d.inputs < 0
    if also is not None:
      out.also[row, where] = np.where(also >= 0, where[also], n)
    if neighbour:
      out.back[row, where] = neighbour(d)
    if extra is not None:
      extra[row, where] = d.extra_codes
  return out


def places_of(positions: np.ndarray) -> np.ndarray:
  """i64[n 3] of tokens at f32[n 3]: their picture's time, row and column, from 0 on, in whole places also of a scaled one."""
  offsets = positions[:, 1:] - positions[:, :1]
  steps = np.diff(np.unique(offsets[:, 0]))           # of a scaled picture less than 1
  grid = np.rint(np.column_stack([positions[:, 0], offsets / (steps[steps > 1e-4].min() if steps.size else 1)]))
  return grid.astype(np.int64) - [0, *grid[:, 1:].min(0).astype(np.int64)]


def to_the_left(d: Sequence, image: int) -> np.ndarray:
  """i32[l] of ones: the token before."""
  return np.ones(d.length, np.int32)


def above(d: Sequence, image: int) -> np.ndarray:
  """i32[l]: how many tokens before each code of a picture the place above it stands, 1 in a first row and beside
  pictures; image: the number of its block."""
  out, at = np.ones(d.length, np.int32), np.flatnonzero((d.fills >= 0) & (d.fills < d.length) & (d.blocks == image))
  codes = d.fills[at]
  if not codes.size:
    return out
  grid = places_of(d.positions)
  side = int(grid[:, 1:].max()) + 1
  number = (grid[:, 0] * side + grid[:, 1]) * side + grid[:, 2]
  standing = np.flatnonzero(d.visible_until > d.order)          # placeholders stand where codes do
  standing = standing[np.argsort(number[standing], kind="stable")]
  wanted = number[codes] - side
  found = standing[np.minimum(np.searchsorted(number[standing], wanted), len(standing) - 1)]
  fits = (number[found] == wanted) & (grid[codes, 1] > 0) & (found < codes)
  out[codes[fits]] = (codes - found)[fits]
  return out


NEIGHBOURS = {"above": above, "left": to_the_left}
"""sampling.guesses -> where the first guess of a code is copied from."""
