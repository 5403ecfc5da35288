"""Image -> text: [image_to_text] [boi] codes [eoi] caption [eos], loss on the caption and its end."""
import numpy as np

from unitok.objectives.codes import Codes, control
from unitok.sequence import Part


def image_to_text(codes: Codes, rng: np.random.Generator, drop: float = 0.0) -> list[Part]:
  """The picture's tokens see each other (a prompt needs no causal order); the caption is causal.

  Several captions share the picture, a branch each: every one is learned from as if it had a document of its own,
  and the picture is computed once.
  """
  nothing = np.zeros(codes.image.shape, bool)
  parts = [control("[image_to_text]"), control("[boi]"), Part("image", codes.image, hole=nothing)]
  for number, text in enumerate(codes.text):
    branch = number + 1 if len(codes.text) > 1 else 0
    parts += [control("[eoi]", branch), Part("text", text, loss_weight=1.0, end="[eos]", branch=branch)]
  return parts
