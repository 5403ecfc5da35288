"""What a training remembers of its losses: how many steps in a row were skipped."""
import math

from unitok.config import Train


class Guard:
  """kept: what `kept()` gave, from a checkpoint's meta."""

  def __init__(self, train: Train, kept: dict):
    self.train, self.skipped = train, kept.get("skipped_in_a_row", 0)

  def kept(self) -> dict:
    """As plain JSON, so that a run that goes on counts on."""
    return {"skipped_in_a_row": self.skipped}

  def skips(self, metrics: dict) -> bool:
    """Did the step change nothing, or had no finite loss? Counted."""
    lost = bool(metrics.get("skipped", 0)) or not math.isfinite(metrics["loss"])
    self.skipped = self.skipped + 1 if lost else 0
    return lost
