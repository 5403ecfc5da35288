"""Texts and pictures in any order, each picture of its own size, as Chameleon (2405.09818) and Emu3 have them."""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, picture
from unitok.sequence import Part


def interleaved(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """[interleaved], then texts, each with its [sep], and pictures, [boi] codes [eoi], and [eos]: plain next-token
  prediction. To be drawn, the document ends with the piece whose codes are unknown.
  """
  parts = [control("[interleaved]")]
  for piece in codes.pieces:
    unknown = bool((piece < 0).any())
    if piece.ndim == 1:
      parts.append(Part("text", piece, loss_weight=1.0, end="[sep]"))
    else:
      boi, *drawn = picture(piece, options)
      parts += [boi._replace(loss_weight=1.0), *drawn, *([] if unknown else [control("[eoi]")])]
    if unknown:
      return parts
  return [*parts, control("[eos]", 1.0)]
