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
from typing import NamedTuple

import numpy as np

from unitok.vocab import Vocabulary

FOREVER = np.int32(2**30)
AXES = 3  # positions: time, row, column


class Part(NamedTuple):
  """A run of tokens of one block, as an objective returns it."""
  block: str
  codes: np.ndarray                     # i32[n] local codes, or i32[h w] for a picture; -1: to be drawn
  loss_weight: float = 0.0              # of each of its tokens as a target
  hole: np.ndarray | None = None        # bool like codes: the masked places; the others are context seen by all
  end: str = ""                         # control token that closes it, predicted with the same weight


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

  A part without a hole is causal: its n-th token has the next order, sees all before it and is
  predicted by the token before it. A part with a hole stands as: the kept codes, which share one
  order and see each other; then, for every run of masked places in raster order, a [place] token at
  the run's first position that predicts its first code and is seen by nobody later, and the run's
  codes, each predicting the next.
  """
  names = [b.name for b in vocabulary.blocks]
  pad, place = vocabulary.special("[pad]"), vocabulary.special("[place]")
  ids, order, seen_from, seen_until, positions = [], [], [], [], []
  predictor, weight, kind, end_id = [], [], [], []  # of each token as a target; -1: predicted by nobody
  now, time, length = 0, 0, 0

  def add(token_ids, orders, until, where, predicted_by, loss_weight, block, end):
    nonlocal length
    n = len(token_ids)
    ids.append(token_ids), order.append(orders), seen_until.append(np.broadcast_to(np.int32(until), n))
    seen_from.append(orders), positions.append(where), predictor.append(predicted_by)
    weight.append(np.full(n, loss_weight, np.float32)), kind.append(np.full(n, block, np.int32))
    end_id.append(np.full(n, end, np.int32))
    length += n

  for part in parts:
    codes = np.asarray(part.codes, np.int32)
    flat_ids, block = vocabulary.to_ids(part.block, codes.ravel()), names.index(part.block)
    end = vocabulary.special(part.end) if part.end else -1
    n = codes.size
    if codes.ndim == 2:
      rows, columns = np.divmod(np.arange(n, dtype=np.int32), np.int32(codes.shape[1]))
      where = np.stack([np.full(n, time, np.int32), time + rows, time + columns], -1)
      time += max(codes.shape)
    else:
      where = np.repeat(np.arange(time, time + n, dtype=np.int32)[:, None], AXES, 1)
      time += n
    if part.hole is None:
      add(flat_ids, now + np.arange(n, dtype=np.int32), FOREVER, where,
          np.arange(length - 1, length + n - 1), part.loss_weight, block, end)
      now += n
    else:
      hole = np.asarray(part.hole, bool).ravel()
      kept = np.flatnonzero(~hole)
      if kept.size:
        add(flat_ids[kept], np.full(kept.size, now, np.int32), FOREVER, where[kept],
            np.full(kept.size, -1), 0.0, block, -1)
        now += 1
      masked = np.flatnonzero(hole)
      for run in np.split(masked, np.flatnonzero(np.diff(masked) > 1) + 1) if masked.size else ():
        add(np.array([place], np.int32), np.array([now], np.int32), now, where[run[:1]],
            np.array([-1]), 0.0, block, -1)
        add(flat_ids[run], now + 1 + np.arange(run.size, dtype=np.int32), FOREVER, where[run],
            np.arange(length - 1, length + run.size - 1), part.loss_weight, block, -1)
        now += 1 + run.size
    if part.end:
      where = np.full((1, AXES), time, np.int32)
      add(np.array([end], np.int32), np.array([now], np.int32), FOREVER, where,
          np.array([length - 1]), part.loss_weight, block, end)
      now, time = now + 1, time + 1

  ids, predictor, weight = np.concatenate(ids), np.concatenate(predictor), np.concatenate(weight)
  targets = np.full(length, pad, np.int32)
  weights = np.zeros(length, np.float32)
  blocks, ends, fills = (np.full(length, -1, np.int32) for _ in range(3))
  at = np.flatnonzero(predictor >= 0)
  by = predictor[at]
  targets[by], weights[by] = ids[at], weight[at]
  blocks[by], ends[by] = np.concatenate(kind)[at], np.concatenate(end_id)[at]
  unknown = ids[at] < 0
  fills[by[unknown]] = at[unknown]
  stop = int(by.max()) + 1 if at.size else length  # what predicts nothing and is followed by nothing is no input
  fills = np.where(fills < stop, fills, FOREVER)    # the last drawn token is no input, but still drawn
  return Sequence(ids[:stop], targets[:stop], weights[:stop], np.concatenate(order)[:stop],
                  np.concatenate(seen_from)[:stop], np.concatenate(seen_until)[:stop],
                  np.concatenate(positions)[:stop], blocks[:stop], ends[:stop], fills[:stop])


def visible(order, visible_from, visible_until, segment_ids):
  """bool[... l l]: may token i (second last axis) see token j (last axis)? For tests and pictures."""
  o = order[..., :, None]
  same = segment_ids[..., :, None] == segment_ids[..., None, :]
  return same & (visible_from[..., None, :] <= o) & (o <= visible_until[..., None, :])
