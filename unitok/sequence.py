"""Parts -> one document's arrays: ids, positions, visibility, loss weights.

Token j is visible to token i exactly when

    segment_id[j] == segment_id[i]  and  visible_from[j] <= order[i] <= visible_until[j]

The same document serves training and drawing: an unknown id is -1, and `fills` says which
token's prediction it is. The shift from ids to (inputs, targets) happens here and nowhere else:

    ids      [t2i]  a   b  [boi]  7   3        codes 7 and 3 carry the loss
    inputs   [t2i]  a   b  [boi]  7
    targets    a    b [boi]  7    3
    weights    0    0   0    1    1

A place of a picture with G > 1 codes is one token: its first code is the token's id, the others are beside it, in
`extra_codes` as an input and in `extra_targets` as a target, as ids of the blocks "image.1", "image.2" …
"""
import functools
import math
from typing import NamedTuple

import numpy as np

from unitok.vocab import Vocabulary

FOREVER = np.int32(2**30)
AXES = 3  # positions: time, row, column


class Part(NamedTuple):
  """A run of tokens of one block, as an objective returns it. At most one of `hole` and `groups` is given."""
  block: str
  codes: np.ndarray                     # i32[n] local codes, or i32[h w] for a picture, i32[h w G] where a place has
                                        # several; -1: to be drawn
  loss_weight: float = 0.0              # of each of its tokens as a target
  hole: np.ndarray | None = None        # bool[n] or bool[h w]: the masked places; the others are context seen by all
  end: str = ""                         # control token that closes it, predicted with the same weight
  groups: np.ndarray | None = None      # i32 like hole: which group a place is drawn in, 0 first; -1 is context
  positions: np.ndarray | None = None   # f32[n 3], added to the part's time; left out: one after another, or a grid's
  end_is_input: bool = True             # False: the end is predicted and never an input (GLM's [eop])
  together: bool = False                # its context (and the places of its first group) and the tokens right before
                                        # it see each other
  row_end: str = ""                     # control token behind each row of a picture without hole and groups
  scale: float = 1.0                    # of a picture's rows and columns: as positions they are multiplied by it
  optional: bool = False                # [eos] may be drawn in place of its first code, and ends the document


class Sequence(NamedTuple):
  """One document of l tokens. `fills[i]` is the token whose unknown input the prediction at i becomes, or -1."""
  inputs: np.ndarray          # i32[l], -1 unknown
  targets: np.ndarray         # i32[l], -1 unknown, 0 where nothing is predicted
  loss_weights: np.ndarray    # f32[l]
  order: np.ndarray           # i32[l]
  visible_from: np.ndarray    # i32[l]
  visible_until: np.ndarray   # i32[l]
  positions: np.ndarray       # f32[l 3], whole numbers but in a scaled picture
  blocks: np.ndarray          # i32[l] index in vocabulary.blocks of what is predicted, -1 nothing
  ends: np.ndarray            # i32[l] the id that may close what is predicted, or -1
  fills: np.ndarray           # i32[l]
  advances: np.ndarray        # bool[l]: time goes on by one with it; without it what stands behind moves up
  extra_codes: np.ndarray | None = None     # i32[l G-1], -1 unknown or none; None at G = 1
  extra_targets: np.ndarray | None = None   # i32[l G-1], likewise

  @property
  def length(self) -> int:
    return len(self.inputs)

  @property
  def learned(self) -> int:
    """Codes that carry loss, all those of a place counted."""
    places = self.loss_weights > 0
    return int(places.sum()) + (0 if self.extra_targets is None else int((self.extra_targets[places] >= 0).sum()))


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
  extra_codes: np.ndarray | None = None     # [b l G-1], -1 none; None at G = 1
  extra_targets: np.ndarray | None = None


PADDING = dict(inputs=0, targets=0, loss_weights=0.0, order=-1, visible_from=FOREVER, visible_until=-1,
               segment_ids=0, tasks=0, positions=0, extra_codes=-1, extra_targets=-1)
"""What fills a row's end: sees nothing, is seen by nobody."""


def build(parts: list[Part], vocabulary: Vocabulary) -> Sequence:
  """The document of a list of parts.

  A part is causal: its n-th token has the next order, sees all before it and is predicted by the token before it.
  A picture's codes stand at (time, time + row, time + column), a row_end at (time, time + row, time + width).
  A part with a hole stands as: the kept codes, which share one order and see each other; then, for every run of masked
  places in raster order, a [place] token at the run's first position that predicts its first code and is seen by nobody
  later, and the run's codes, each predicting the next. (A hole that is nowhere leaves context alone: a bidirectional
  prompt; with `together` it goes on over several parts.)
  A part with groups stands as: the kept codes, as above; then, for every group, a [place] token for each of its places,
  which predicts the code there, and then its codes, which predict nothing. Tokens of a group see each other.

  Time goes on by the part's length, or by the longer side of a picture (scaled, and rounded up); not at all where
  positions are given, so that what follows in the row may stand anywhere.
  """
  out = _Tokens(vocabulary)
  for part in parts:
    out.advances = part.positions is None and np.ndim(part.codes) == 1
    codes = np.asarray(part.codes, np.int32)
    _check(part, codes, vocabulary)
    codes, further = (codes[..., 0], codes[..., 1:]) if codes.ndim == 3 else (codes, None)
    ids, where = vocabulary.to_ids(part.block, codes.ravel()), out.time + _positions(part, codes)
    if further is not None:     # [n G]
      ids = np.stack([ids, *(vocabulary.to_ids(f"{part.block}.{n + 1}", further[..., n].ravel())
                             for n in range(further.shape[-1]))], -1)
    hole, ends = None if part.hole is None else np.asarray(part.hole, bool).ravel(), -1
    if part.row_end:
      row_end, rows = vocabulary.special(part.row_end), ids.reshape(*codes.shape, -1)
      rows = np.pad(rows, ((0, 0), (0, 1), (0, 0)), constant_values=-1)
      rows[:, -1, 0] = row_end
      ids = rows.reshape(-1, *ids.shape[1:])
      ends = np.pad(np.full_like(codes, -1), ((0, 0), (0, 1)), constant_values=row_end).ravel()
      hole = None if hole is None else np.zeros(len(ids), bool)
    elif part.end:
      ends = vocabulary.special(part.end)
    add = functools.partial(out.add, block=part.block, weight=part.loss_weight)
    if part.groups is not None:
      _add_groups(out, part, add, ids, where, np.asarray(part.groups, np.int32).ravel())
    elif part.hole is not None:
      _add_runs(out, part, add, ids, where, hole)
    else:
      if part.optional:
        ends = np.full(len(ids), ends)
        ends[:1] = vocabulary.special("[eos]")
      add(ids, where, orders=out.now + np.arange(len(ids)), by=out.length - 1 + np.arange(len(ids)), ends=ends)
    if part.positions is None:
      out.time += math.ceil(max(codes.shape) * (part.scale if codes.ndim == 2 else 1))
    if part.end:
      end, out.advances = vocabulary.special(part.end), part.end_is_input
      add(end, [out.time] * AXES, orders=out.now, by=out.length - 1, ends=end,
          until=FOREVER if part.end_is_input else -1)
      out.time += part.end_is_input
  return out.sequence()


def _check(part: Part, codes: np.ndarray, vocabulary: Vocabulary):
  said = f"part {part.block!r}"
  books = codes.shape[2] if codes.ndim == 3 else 1
  if part.block == "image" and codes.size and books != vocabulary.books or codes.ndim == 3 and part.block != "image":
    raise ValueError(f"{said}: {books} codes a place, the vocabulary has {vocabulary.books} for a picture's; the codes "
                     "are from another tokenizer than the vocabulary's")
  if books > 1 and ((codes < 0).any(-1) != (codes < 0).all(-1)).any():
    raise ValueError(f"{said}: a place has known and unknown (-1) codes; all of a place are drawn together")
  if part.hole is not None and part.groups is not None:
    raise ValueError(f"{said}: has a hole and groups; give the groups alone, with -1 for what is kept")
  if part.row_end and (codes.ndim < 2 or part.groups is not None or part.positions is not None
                       or (part.hole is not None and np.any(part.hole))):
    raise ValueError(f"{said}: rows that end in {part.row_end} are for a picture without hole, groups and positions of "
                     "its own; leave row_end out")
  if not 0 < part.scale < math.inf:
    raise ValueError(f"{said}: scale {part.scale} must be a number above 0")


def _positions(part: Part, codes: np.ndarray) -> np.ndarray:
  """f32[n 3] of a part at time 0, its row ends included."""
  if part.positions is not None:
    return np.asarray(part.positions, np.float32).reshape(codes.size, AXES)
  if codes.ndim == 1:
    return np.arange(codes.size, dtype=np.float32)[:, None].repeat(AXES, 1)
  where = np.zeros((len(codes), codes.shape[1] + bool(part.row_end), AXES), np.float32)
  where[..., 1] = np.arange(where.shape[0], dtype=np.float32)[:, None] * np.float32(part.scale)
  where[..., 2] = np.arange(where.shape[1], dtype=np.float32) * np.float32(part.scale)
  return where.reshape(-1, AXES)


def _add_kept(out, part, add, ids, where, kept):
  if kept.any():
    add(ids[kept], where[kept], orders=max(out.now - part.together, 0), weight=0.0, block=None)


def _add_runs(out, part, add, ids, where, hole):
  _add_kept(out, part, add, ids, where, ~hole)
  masked = np.flatnonzero(hole)
  for run in np.split(masked, np.flatnonzero(np.diff(masked) > 1) + 1) if masked.size else ():
    out.ask(where[run[:1]], out.now)
    add(ids[run], where[run], orders=out.now + np.arange(run.size), by=out.length - 1 + np.arange(run.size))


def _add_groups(out, part, add, ids, where, groups):
  _add_kept(out, part, add, ids, where, groups < 0)
  for n, group in enumerate(np.unique(groups[groups >= 0])):
    places = np.flatnonzero(groups == group)
    first = out.length
    out.ask(where[places], max(out.now - (part.together and n == 0), 0))
    add(ids[places], where[places], orders=out.now, by=first + np.arange(places.size))


class _Tokens:
  """The rows of a document under construction; `now` is the next order, `time` the next position."""

  def __init__(self, vocabulary: Vocabulary):
    self.vocabulary, self.numbers = vocabulary, {b.name: n for n, b in enumerate(vocabulary.blocks)}
    self.now = self.time = self.length = 0
    self.rows = 8 + len(vocabulary.further)
    self.advances = True                   # of the part at hand
    self.tokens, self.positions = [], []   # i32[8+G-1 n], the rows of which `sequence` names, and f32[n 3]

  def add(self, ids, where, *, orders, by=-1, until=FOREVER, weight=0.0, block=None, ends=-1):
    """n tokens, ids [n] or [n G]; `by` are the places of what predicts them, `block` and `ends` (ids) what is legal
    there."""
    ids = np.atleast_1d(ids)
    n = len(ids)
    if not n:
      return
    new = np.empty((self.rows, n), np.int32)
    new[0] = ids if ids.ndim == 1 else ids[:, 0]
    new[8:] = -1 if ids.ndim == 1 else ids[:, 1:].T
    new[1], new[2], new[3], new[6], new[7] = orders, until, by, ends, self.advances
    new[4].view(np.float32)[:] = weight
    new[5] = self.numbers[block] if block else -1
    self.tokens.append(new)
    self.positions.append(np.asarray(where, np.float32).reshape(n, AXES))
    self.length += n
    self.now = int(new[1].max()) + 1

  def ask(self, where, order: int):
    """[place] tokens, which nobody sees later."""
    self.add(np.full(len(where), self.vocabulary.special("[place]")), where, orders=order, until=order)

  def sequence(self) -> Sequence:
    every = np.concatenate(self.tokens, 1)
    ids, order, until, by, weight, block, end, advances = every[:8]
    positions = np.concatenate(self.positions)
    at = np.flatnonzero(by >= 0)
    predicted = np.full((self.rows - 3, self.length), -1, np.int32)   # target, weight, block, end, fills, further ones
    predicted[0], predicted[1] = PADDING["targets"], 0
    predicted[:4, by[at]], predicted[5:, by[at]] = every[[0, 4, 5, 6]][:, at], every[8:, at]
    unknown = at[ids[at] < 0]
    predicted[4, by[unknown]] = unknown
    # what is predicted and never an input leaves the row; its predictor keeps it as the target. So does the end, which
    # predicts nothing and is followed by nothing
    is_input = until >= 0
    is_input[(int(by.max()) + 1 if at.size else self.length):] = False
    new = np.where(is_input, np.cumsum(is_input, dtype=np.int32) - 1, FOREVER)  # drawn, but no input: FOREVER
    predicted[4] = np.where(predicted[4] >= 0, new[predicted[4]], -1)
    kept = slice(None) if is_input.all() else np.flatnonzero(is_input)
    ids, order, until = every[:3, kept]
    targets, weight, block, end, fills = predicted[:5, kept]
    extra = lambda rows: np.ascontiguousarray(rows[:, kept].T) if len(rows) else None
    return Sequence(ids, targets, weight.view(np.float32), order, order, until, positions[kept], block, end, fills,
                    advances[kept] > 0, extra(every[8:]), extra(predicted[5:]))


def without(document: Sequence, gone: np.ndarray) -> Sequence:
  """A document without the tokens bool[l] `gone`, which predict nothing; the others keep their orders and positions."""
  number = np.cumsum(~gone, dtype=np.int32) - 1
  fills = document.fills
  fills = np.where((fills >= 0) & (fills < document.length), number[np.clip(fills, 0, document.length - 1)], fills)
  return Sequence(*(None if field is None else field[~gone] for field in document._replace(fills=fills)))


def visible(order, visible_from, visible_until, segment_ids):
  """bool[... l l]: may token i (second last axis) see token j (last axis)? For tests and pictures."""
  o = order[..., :, None]
  same = segment_ids[..., :, None] == segment_ids[..., None, :]
  return same & (visible_from[..., None, :] <= o) & (o <= visible_until[..., None, :])
