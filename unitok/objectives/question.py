"""Question -> answer about a picture: [question] [boi] codes [eoi] question [answer] answer [eos], loss on the answer."""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, seen
from unitok.sequence import Part


def question(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """One of the example's questions, evenly. Picture and question see each other."""
  asked, answer = codes.questions[rng.integers(len(codes.questions))]
  picture = [] if codes.image is None else [control("[boi]"), seen("image", codes.image), control("[eoi]")]
  prompt = [part._replace(hole=np.zeros(part.codes.shape, bool), together=True) for part in (
      control("[question]"), *picture, Part("text", asked))]
  return [*prompt, control("[answer]"), Part("text", answer, loss_weight=1.0, end="[eos]")]
