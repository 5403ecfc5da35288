"""Prefix language model: the first part of a text is seen both ways, the rest is written (Raffel 2019, 1910.10683)."""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, one_caption, prompt
from unitok.sequence import Part


def prefix_lm(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """[prefix_lm] prefix, whose tokens see each other, then the rest and [eos], causal, with the loss.

  The cut is anywhere, the ends included; where codes are unknown (-1), before the first of them.
  """
  text = one_caption(codes, rng)
  unknown = np.flatnonzero(text < 0)
  cut = int(unknown[0]) if unknown.size else int(rng.integers(len(text) + 1))
  prefix = prompt(control("[prefix_lm]"), Part("text", text[:cut]))
  return [*prefix, Part("text", text[cut:], loss_weight=1.0, end="[eos]")]
