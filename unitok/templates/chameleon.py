"""Chameleon (2405.09818): text and pictures in any order, each token predicted from all before it.

65,536 ids of one BPE vocabulary, in which the picture's codes lie:

    <s> 0, <pad> 1, </s> 2, <unk> 3, code n of a picture 4 + n (8,192 of them), [eoi] 8196 (its <eoss>), [boi] 8197
    (<racm3:break>), [end_of_turn] 8710 (<reserved08706>); text is the rest, reserved pieces among it

Its pictures are 32x32; the ids do not say so, and any grid is taken here. Every token but <s> is learned.

Unverified: the ids of <pad>, </s> and <unk>, and that a text at the end of a document of training is closed by </s>,
which ends a text that is drawn.
"""
import functools

import numpy as np

from unitok.objectives.codes import control
from unitok.sequence import Part
from unitok.templates.template import Template, picture, vocabulary

CONTROLS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "[eoi]": 8196, "[boi]": 8197, "[end_of_turn]": 8710}
VOCABULARY = vocabulary(CONTROLS, image=(range(4, 8196),), text=(range(8198, 8710), range(8711, 65536)))
_control = functools.partial(control, names=VOCABULARY.controls)


def interleaved(pieces: tuple[np.ndarray, ...], on_grid: bool = True) -> list[Part]:
  """<s>, then the pieces: text i32[n], or [boi] codes [eoi] for a picture i32[h w]; </s> behind a text that is last."""
  parts = [_control("<s>")]
  for n, piece in enumerate(pieces):
    if np.ndim(piece) == 1:
      parts.append(Part("text", piece, 1.0, end="</s>" if n == len(pieces) - 1 else ""))
    else:
      parts += [_control("[boi]", 1.0), *picture(piece, 1.0, on_grid), _control("[eoi]", 1.0)]
  return parts


def text_to_image(text: np.ndarray, image: np.ndarray, on_grid: bool = True) -> list[Part]:
  """<s> text [boi] codes [eoi]."""
  return interleaved((text, image), on_grid)


def image_to_text(text: np.ndarray, image: np.ndarray, on_grid: bool = True) -> list[Part]:
  """<s> [boi] codes [eoi] text </s>: half of the pairs."""
  return interleaved((image, text), on_grid)


TEMPLATE = Template(VOCABULARY, {"text_to_image": text_to_image, "image_to_text": image_to_text,
                                 "interleaved": interleaved})
