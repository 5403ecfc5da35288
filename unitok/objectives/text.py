"""Text alone: [text] caption [eos], loss on all of it."""
import numpy as np

from unitok.objectives.codes import Codes, control, one_caption
from unitok.sequence import Part


def text(codes: Codes, rng: np.random.Generator, drop: float = 0.0) -> list[Part]:
  return [control("[text]"), Part("text", one_caption(codes, rng), loss_weight=1.0, end="[eos]")]
