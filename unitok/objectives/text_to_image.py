"""Text -> image: [text_to_image] caption [boi] codes, loss on the codes."""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, caption_or_none, control, picture
from unitok.sequence import Part


def text_to_image(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """A dropped caption leaves no tokens: that is the null caption of guidance (Ho & Salimans, 2207.12598)."""
  caption = caption_or_none(codes, rng, options.caption_drop)
  return [control("[text_to_image]"), Part("text", caption), *picture(codes.image, options)]
