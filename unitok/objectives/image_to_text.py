"""Image -> text: [image_to_text] [boi] codes [eoi] caption [eos], loss on the caption and its end."""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, one_caption, shown
from unitok.sequence import Part


def image_to_text(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """The picture's tokens see each other (a prompt needs no causal order); the caption is causal."""
  return [control("[image_to_text]"), *shown(codes.image, options),
          Part("text", one_caption(codes, rng), loss_weight=1.0, end="[eos]")]
