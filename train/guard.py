"""What a training remembers of its losses: how many steps in a row were skipped, and what a spike stands out from."""
import collections
import math

import numpy as np

from unitok.config import Train

BACKS = 3
"""Times that spikes may lead back to one checkpoint: where they still come, not these batches are what is wrong."""


class Guard:
  """kept: what `kept()` gave, from a checkpoint's meta."""

  def __init__(self, train: Train, kept: dict):
    self.train, self.skipped = train, kept.get("skipped_in_a_row", 0)
    self.losses = collections.deque(kept.get("losses", ()), train.spike_window)

  def kept(self) -> dict:
    """As plain JSON, so that a run that goes on counts and judges as if it had never stopped."""
    return {"skipped_in_a_row": self.skipped, "losses": list(self.losses)}

  def skips(self, metrics: dict) -> bool:
    """Did the step change nothing, or had no finite loss? Counted."""
    lost = bool(metrics.get("skipped", 0)) or not math.isfinite(metrics["loss"])
    self.skipped = self.skipped + 1 if lost else 0
    return lost

  def bound(self) -> float:
    """The loss from which on one is a spike: infinite where none ever is, or while fewer steps than the window's are
    known."""
    if not self.train.spike_deviations or len(self.losses) < self.train.spike_window:
      return math.inf
    return float(np.mean(self.losses) + self.train.spike_deviations * np.std(self.losses))

  def add(self, loss: float):
    if self.train.spike_deviations:
      self.losses.append(loss)
