"""Parts -> one document's arrays: ids, positions, visibility, loss weights.

Token j is visible to token i exactly when

    segment_id[j] == segment_id[i]  and  visible_from[j] <= order[i] <= visible_until[j]

The same document serves training and drawing: an unknown id is -1, and `fills` says which
token's prediction it is. The shift from ids to (inputs, targets) happens here and nowhere else:

    ids      [t2i]  a   b  [boi]  7   3        codes 7 and 3 carry the loss
    inputs   [t2i]  a   b  [boi]  7
    targets    a    b [boi]  7    3
    weights    0    0   0    1    1
"""
import functools
from typing import NamedTuple

import numpy as np

from unitok.vocab import Vocabulary

FOREVER = np.int32(2**30)
AXES = 3  # positions: time, row, column


class Part(NamedTuple):
  """A run of tokens of one block, as an objective returns it. At most one of `hole` and `groups` is given."""
  block: str
  codes: np.ndarray                     # i32[n] local codes, or i32[h w] for a picture; -1: to be drawn
  loss_weight: float = 0.0              # of each of its tokens as a target
  hole: np.ndarray | None = None        # bool like codes: the masked places; the others are context seen by all
  end: str = ""                         # control token that closes it, predicted with the same weight
  groups: np.ndarray | None = None      # i32 like codes: which group a place is drawn in, 0 first; -1 is context
  positions: np.ndarray | None = None   # i32[n 3], added to the part's time; left out: one after another, or a grid's
  end_is_input: bool = True             # False: the end is predicted and never an input (GLM's [eop])
  together: bool = False                # its context and the tokens right before it see each other
  optional: bool = False                # [eos] may be drawn in place of its first code, and ends the document


class Sequence(NamedTuple):
  """One document of l tokens. `fills[i]` is the token whose unknown input the prediction at i becomes, or -1."""
  inputs: np.ndarray          # i32[l], -1 unknown
  targets: np.ndarray         # i32[l], -1 unknown, [pad] where nothing is predicted
  loss_weights: np.ndarray    # f32[l]
  order: np.ndarray           # i32[l]
  visible_from: np.ndarray    # i32[l]
  visible_until: np.ndarray   # i32[l]
  positions: np.ndarray       # i32[l 3]
  blocks: np.ndarray          # i32[l] index in vocabulary.blocks of what is predicted, -1 nothing
  ends: np.ndarray            # i32[l] the id that may close what is predicted, or -1
  fills: np.ndarray           # i32[l]
  advances: np.ndarray        # bool[l]: time goes on by one with it; without it what stands behind moves up

  @property
  def length(self) -> int:
    return len(self.inputs)


class Batch(NamedTuple):
  """Packed rows, [b l] each (`positions` [b l 3])."""
  inputs: np.ndarray
  targets: np.ndarray
  loss_weights: np.ndarray
  order: np.ndarray
  visible_from: np.ndarray
  visible_until: np.ndarray
  segment_ids: np.ndarray     # 0 is padding
  tasks: np.ndarray           # index of "objective/block" of the target, for losses apart
  positions: np.ndarray


PADDING = dict(inputs=0, targets=0, loss_weights=0.0, order=-1, visible_from=FOREVER, visible_until=-1,
               segment_ids=0, tasks=0, positions=0)
"""What fills a row's end: sees nothing, is seen by nobody."""


def build(parts: list[Part], vocabulary: Vocabulary) -> Sequence:
  """The document of a list of parts.

  A part is causal: its n-th token has the next order, sees all before it and is predicted by the token before it.
  A part with a hole stands as: the kept codes, which share one order and see each other; then, for every run of masked
  places in raster order, a [place] token at the run's first position that predicts its first code and is seen by nobody
  later, and the run's codes, each predicting the next. (A hole that is nowhere leaves context alone: a bidirectional
  prompt; with `together` it goes on over several parts.)
  A part with groups stands as: the kept codes, as above; then, for every group, a [place] token for each of its places,
  which predicts the code there, and then its codes, which predict nothing. Tokens of a group see each other.

  Time goes on by the part's length, or by the longer side of a picture; not at all where positions are given, so that
  what follows in the row may stand anywhere.
  """
  out = _Tokens(vocabulary)
  for part in parts:
    out.advances = part.positions is None and np.ndim(part.codes) == 1
    if part.hole is not None and part.groups is not None:
      raise ValueError(f"part {part.block!r}: has a hole and groups; give the groups alone, with -1 for what is kept")
    codes = np.asarray(part.codes, np.int32)
    ids, where = vocabulary.to_ids(part.block, codes.ravel()), out.time + _positions(part, codes)
    add = functools.partial(out.add, block=part.block, weight=part.loss_weight)
    if part.groups is not None:
      _add_groups(out, part, add, ids, where, np.asarray(part.groups, np.int32).ravel())
    elif part.hole is not None:
      _add_runs(out, part, add, ids, where, np.asarray(part.hole, bool).ravel())
    else:
      add(ids, where, orders=out.now + np.arange(ids.size), by=out.length - 1 + np.arange(ids.size), end=part.end,
          optional=part.optional)
    if part.positions is None:
      out.time += max(codes.shape)
    if part.end:
      out.advances = part.end_is_input
      add(vocabulary.special(part.end), [out.time] * AXES, orders=[out.now], by=[out.length - 1], end=part.end,
          until=FOREVER if part.end_is_input else -1)
      out.time += part.end_is_input
  return out.sequence()


def _positions(part: Part, codes: np.ndarray) -> np.ndarray:
  """i32[n 3] of a part at time 0."""
  if part.positions is not None:
    return np.asarray(part.positions, np.int32).reshape(codes.size, AXES)
  if codes.ndim == 1:
    return np.repeat(np.arange(codes.size, dtype=np.int32)[:, None], AXES, 1)
  rows, columns = np.divmod(np.arange(codes.size, dtype=np.int32), np.int32(codes.shape[1]))
  return np.stack([np.zeros_like(rows), rows, columns], -1)


def _add_kept(out, part, add, ids, where, kept):
  if kept.any():
    add(ids[kept], where[kept], orders=np.full(kept.sum(), max(out.now - part.together, 0)), weight=0.0, block=None)


def _add_runs(out, part, add, ids, where, hole):
  _add_kept(out, part, add, ids, where, ~hole)
  masked = np.flatnonzero(hole)
  for run in np.split(masked, np.flatnonzero(np.diff(masked) > 1) + 1) if masked.size else ():
    out.ask(where[run[:1]])
    add(ids[run], where[run], orders=out.now + np.arange(run.size), by=out.length - 1 + np.arange(run.size))


def _add_groups(out, part, add, ids, where, groups):
  _add_kept(out, part, add, ids, where, groups < 0)
  for group in np.unique(groups[groups >= 0]):
    places = np.flatnonzero(groups == group)
    first = out.length
    out.ask(where[places])
    add(ids[places], where[places], orders=np.full(places.size, out.now), by=first + np.arange(places.size))


class _Tokens:
  """The columns of a document under construction; `now` is the next order, `time` the next position."""

  def __init__(self, vocabulary: Vocabulary):
    self.vocabulary, self.names = vocabulary, [b.name for b in vocabulary.blocks]
    self.now = self.time = self.length = 0
    self.advances = True   # of the part at hand
    self.columns = []      # (ids, order, until, positions, advances, predicted by, weight, block, end) of each token

  def add(self, ids, where, *, orders, by=None, until=FOREVER, weight=0.0, block=None, end="", optional=False):
    """n tokens; `by` are the places of what predicts them, `block` and `end` what is legal there."""
    ids = np.atleast_1d(np.asarray(ids, np.int32))
    n, full = len(ids), lambda value, kind=np.int32: np.full(len(ids), value, kind)
    orders = np.asarray(orders, np.int32)
    by = full(-1) if by is None else np.asarray(by, np.int32)
    ends = full(self.vocabulary.special(end) if end else -1)
    if optional:
      ends[:1] = self.vocabulary.special("[eos]")
    self.columns.append((ids, orders, full(until), np.asarray(where, np.int32).reshape(n, AXES),
                         full(self.advances, bool), by, full(weight, np.float32),
                         full(self.names.index(block) if block else -1), ends))
    self.length += n
    self.now = int(orders.max()) + 1 if n else self.now

  def ask(self, where):
    """[place] tokens, which nobody sees later."""
    n, place = len(where), self.vocabulary.special("[place]")
    self.add(np.full(n, place), where, orders=np.full(n, self.now), until=self.now)

  def sequence(self) -> Sequence:
    ids, order, until, positions, advances, by, weight, block, end = map(np.concatenate, zip(*self.columns))
    # what is predicted and never an input leaves the row; its predictor keeps it as the target
    is_input = until >= 0
    targets = np.full(self.length, self.vocabulary.special("[pad]"), np.int32)
    weights = np.zeros(self.length, np.float32)
    blocks, ends, fills = (np.full(self.length, -1, np.int32) for _ in range(3))
    at = np.flatnonzero(by >= 0)
    targets[by[at]], weights[by[at]], blocks[by[at]], ends[by[at]] = ids[at], weight[at], block[at], end[at]
    unknown = at[ids[at] < 0]
    fills[by[unknown]] = unknown
    is_input[(int(by.max()) + 1 if at.size else self.length):] = False   # predicts nothing, followed by nothing
    new = np.where(is_input, np.cumsum(is_input, dtype=np.int32) - 1, FOREVER)  # drawn, but no input: FOREVER
    fills = np.where(fills >= 0, new[fills], -1).astype(np.int32)
    return Sequence(*(column[is_input] for column in (
        ids, targets, weights, order, order, until, positions, blocks, ends, fills, advances)))


def visible(order, visible_from, visible_until, segment_ids):
  """bool[... l l]: may token i (second last axis) see token j (last axis)? For tests and pictures."""
  o = order[..., :, None]
  same = segment_ids[..., :, None] == segment_ids[..., None, :]
  return same & (visible_from[..., None, :] <= o) & (o <= visible_until[..., None, :])
