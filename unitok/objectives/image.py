"""A picture alone: [image] [boi] codes, loss on the codes."""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, picture
from unitok.sequence import Part


def image(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  return [control("[image]"), *picture(codes.image, options)]
