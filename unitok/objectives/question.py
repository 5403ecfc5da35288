"""Question -> answer: [question] [boi] codes [eoi] question [answer] answer [eos], loss on the answer and its end."""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, prompt, shown
from unitok.sequence import Part


def question(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """One of the example's questions, evenly. Picture and question see each other."""
  asked, answer = codes.questions[rng.integers(len(codes.questions))]
  picture = [] if codes.image is None else shown(codes.image, options)
  return [*prompt(control("[question]"), *picture, Part("text", asked)), control("[answer]"),
          Part("text", answer, loss_weight=1.0, end="[eos]")]
