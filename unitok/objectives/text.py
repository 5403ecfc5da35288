"""Text alone: [text] caption [eos], loss on all of it."""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, one_caption
from unitok.sequence import Part


def text(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  return [control("[text]"), Part("text", one_caption(codes, rng), loss_weight=1.0, end="[eos]")]
