"""Documents side by side as the columns that the compiled program goes through."""
import functools
import itertools
from typing import NamedTuple

import numpy as np

from unitok.models.rule import Rule
from unitok.sampling.strategy import Placed, first_drawn
from unitok.sequence import FOREVER, PADDING, Sequence


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
  slots: np.ndarray | None = None     # i32[n]: of the cache, where the pass that begins at a column has its keys; None: n
  holds: np.ndarray | None = None     # i32[slots]: the column whose keys a slot has for good


def rest_of(d: Sequence) -> np.ndarray:
  """i32[l]: the first known token behind each."""
  known = np.append(np.flatnonzero(d.inputs >= 0), d.length)
  return known[np.searchsorted(known, np.arange(d.length), "right")]


class Run(NamedTuple):
  """Passes of one width that follow each other; something is drawn from their last columns alone."""
  width: int
  drawn: int
  passes: int


LOOPS = 4
"""Runs behind the first pass, at most: each is compiled by itself."""


def runs_of(placed: list[Placed], step: int = 1) -> list[Run]:
  """Of all passes of the documents, and more, up to a multiple of `step`.

  Columns are rounded up to 1 .. 8, 10, 12, 14, 16, 20, ... and runs joined, so that documents much alike are one program of
  few loops. The first pass is by itself unless those behind it are like it: it is one with the prefix.
  """
  count = max(int(one.passes.max()) + 1 for one in placed)
  draws = [one.document.fills[first_drawn(one.document):] >= 0 for one in placed]
  columns = np.max([np.bincount(one.passes, minlength=count) for one in placed], axis=0)
  drawn = np.max([np.bincount(one.passes, some, count) for one, some in zip(placed, draws)], axis=0)
  pad = lambda sides: [_rounded(int(side)) for side in sides] + [1] * (-count % step)
  first, *others = (Run(*sides, 1) for sides in zip(pad(columns), pad(drawn)))
  join = lambda one, two: Run(max(one.width, two.width), max(one.drawn, two.drawn), one.passes + two.passes)
  runs = [functools.reduce(join, some) for _, some in itertools.groupby(others, lambda run: run[:2])]
  while len(runs) > LOOPS:
    added = [sum(join(one, two).width * run.passes - run.width * run.passes for run in (one, two))
             for one, two in itertools.pairwise(runs)]
    at = int(np.argmin(added))
    runs[at:at + 2] = [join(*runs[at:at + 2])]
  return [join(first, runs[0]), *runs[1:]] if runs and runs[0][:2] == first[:2] else [first, *runs]


def _rounded(n: int) -> int:
  """Up to a number of three binary digits and zeros; at least 1."""
  step = 1 << max(n.bit_length() - 3, 0)
  return max(-(-n // step) * step, 1)


def lay_out(placed: list[Placed], prefix: int, runs: list[Run], eos: int, spare: int = 0, neighbour=None) -> Rows:
  """Rows of `prefix` columns, then those of the passes, then `spare` ones. What comes before the first pass stands right
  before it; a pass stands at the end of its columns, tokens that are drawn from last.

  neighbour: document -> i32[l], a name in NEIGHBOURS with its block; None: no guesses.
  """
  ends, b, one = prefix + np.cumsum([run.width for run in runs for _ in range(run.passes)]), len(placed), placed[0].document
  n = int(ends[-1]) + spare
  fill = lambda value: np.full((b, n), value, np.int32)
  extra = None if one.extra_codes is None else np.full((b, n, one.extra_codes.shape[1]), -1, np.int32)
  out = Rows(ids=fill(0), positions=np.zeros((b, n, one.positions.shape[1]), np.float32),
             rule=Rule(*(fill(PADDING[name]) for name in Rule._fields)), blocks=fill(-1), ends=fill(-1), fills=fill(n),
             draws=fill(0), left=fill(0), advances=fill(0).astype(bool), asked=fill(0).astype(bool),
             back=fill(1) if neighbour else None, extra=extra,
             also=None if all(p.also is None for p in placed) else fill(n))
  for row, (d, of, also) in enumerate(placed):
    first = first_drawn(d)
    sorted_ = np.lexsort((d.fills[first:] >= 0, of))
    behind = np.empty_like(of)                                    # tokens of its pass from it on
    behind[sorted_] = np.searchsorted(of[sorted_], of[sorted_], "right") - np.arange(len(of))
    where = np.concatenate([np.arange(prefix - first, prefix), ends[of] - behind])
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


def in_slots(rows: Rows, prefix: int, runs: list[Run]) -> Rows:
  """With the slots of a cache that keeps what can still be seen alone: the columns at the end of a pass that no later one
  sees in any row, its placeholders, lie where the next pass's keys come to lie."""
  sides = [run.width for run in runs for _ in range(run.passes)]
  begins, n = prefix + np.cumsum([0, *sides]), rows.ids.shape[1]
  stands, (order, since, until, _) = rows.rule.segment_ids > 0, rows.rule
  slots, holds, at = np.arange(n, dtype=np.int32), list(range(prefix)), prefix
  most = at
  for begin, end in zip(begins, begins[1:]):
    here, later = slice(begin, end), stands[:, end:]
    least = np.where(later, order[:, end:], FOREVER).min(1, initial=FOREVER)[:, None]
    last = np.where(later, order[:, end:], -1).max(1, initial=-1)[:, None]
    seen = (stands[:, here] & (until[:, here] >= least) & (since[:, here] <= last)).any(0)
    kept = int(np.flatnonzero(np.append(True, seen))[-1])      # up to the last that is seen
    slots[begin:end] = at + np.arange(end - begin)
    most = max(most, at + end - begin)
    holds, at = holds + list(range(begin, begin + kept)), at + kept
  holds += [0] * (-(-most // 16) * 16 - len(holds))
  return rows._replace(slots=slots, holds=np.array(holds, np.int32))


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
