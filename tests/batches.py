"""Packed rows of random ids, for tests of the training step, and one batch for ever, for those of the loop."""
import numpy as np

from unitok.sequence import Batch


def documents(rows: int, length: int, ids: int, seed: int = 0) -> Batch:
  """A causal document a row, of two tasks. Each row has another number of targets, with other weights: a mean over
  rows' means, or over parts' means, is not the mean over targets."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, ids, (rows, length + 1)).astype(np.int32)
  order = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
  weights = (order < 1 + rng.permutation(rows)[:, None] * (length - 1) // max(rows - 1, 1)) * rng.uniform(0.5, 2, order.shape)
  return Batch(inputs=tokens[:, :-1], targets=tokens[:, 1:], order=order, visible_from=order,
               visible_until=np.full_like(order, 2**30), tasks=order % 2, loss_weights=weights.astype(np.float32),
               segment_ids=np.ones_like(order), positions=np.repeat(order[..., None], 3, -1))


def with_books(batch: Batch, ids: int, books: int, size: int, seed: int = 0) -> tuple[Batch, tuple[range, ...]]:
  """(the batch with further codes of so many books behind the other ids, `size` each, some not there; their ids)."""
  rng = np.random.default_rng(seed)
  further = tuple(range(ids + size * n, ids + size * (n + 1)) for n in range(books - 1))
  some = lambda: np.stack([np.where(rng.random(batch.inputs.shape) < 0.7,
                                    rng.integers(one.start, one.stop, batch.inputs.shape), -1)
                           for one in further], -1).astype(np.int32)
  return batch._replace(extra_codes=some(), extra_targets=some()), further


class Same:
  """One batch for ever."""

  def __init__(self, batch):
    self.batch = batch

  def __next__(self):
    return self.batch

  def get_state(self):
    return {}

  def set_state(self, state):
    pass

  def close(self):
    pass
