"""Question -> answer: [question] [boi] codes [eoi] question [answer] answer [eos], loss on the answer and its end."""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, prompt, shown
from unitok.sequence import Part

MOST_QUESTIONS = 16
"""More are not to be asked for: documents of so many are tried for their length at the start."""


def question(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """One of the example's questions, evenly; picture and question see each other.

  With `options.questions` above 1 from one to so many, each number as likely, one after another: later ones see the
  earlier answers, and a picture gives more targets. To be drawn, those given in their order, the last answer unknown.
  """
  some = codes.questions
  if not any((answer < 0).any() for _, answer in some):
    count = int(rng.integers(1, min(options.questions, len(some)) + 1))
    some = [some[n] for n in rng.permutation(len(some))[:count]]
  picture = [] if codes.image is None else shown(codes.image, options)
  parts = prompt(control("[question]"), *picture, Part("text", some[0][0]))
  for n, (asked, answer) in enumerate(some):
    later = [Part("text", asked)] if n else []
    parts += [*later, control("[answer]"), Part("text", answer, loss_weight=1.0, end="[eos]")]
  return parts
