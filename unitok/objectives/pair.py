"""A picture and its caption in either order, loss on both, as Chameleon has it (2405.09818)."""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, one_caption, picture
from unitok.sequence import Part


def pair(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """[pair] caption [boi] codes, or, in `image_first` of the documents, [pair] [boi] codes [eoi] caption [eos].

  Plain next-token prediction: also the control token after [pair] carries the loss, since it chooses the order.
  To be drawn, the picture comes first where the caption is what is unknown.
  """
  text = one_caption(codes, rng)
  first = rng.random() < options.image_first
  if (codes.image < 0).any() != (text < 0).any():
    first = bool((text < 0).any())
  boi, *codes_of = picture(codes.image, options)
  drawn = [boi._replace(loss_weight=1.0), *codes_of]
  if first:
    return [control("[pair]"), *drawn, control("[eoi]"), Part("text", text, loss_weight=1.0, end="[eos]")]
  return [control("[pair]"), Part("text", text, loss_weight=1.0), *drawn]
