"""CogView (2105.13290): pictures first in the vocabulary, last in the document.

    image 0 .. 8191, text 8192 .. 58191 (50,000 SentencePiece pieces), 27 commands from 58192

Causal; every token is learned, text and picture with one weight. The command before a picture tells its size: [TINY]
8x8, [SMALL] 16x16, [BASE] 32x32, [BIG] 64x64; it knows no other. A document has at most 1,089 tokens. Its own positions
are learned ones; those of a larger picture begin again at [ROI2] with 0.

Unverified: that a text behind its picture has no end, and that a larger picture ends with [EOI2].
"""
import functools

import numpy as np

from unitok.objectives.codes import control
from unitok.sequence import Part
from unitok.templates.template import Template, limit, line_positions, picture, vocabulary

COMMANDS = ("[PAD]", "[BOI1]", "[BOI2]", "[BOI3]", "[EOI1]", "[EOI2]", "[EOI3]", "[ROI1]", "[ROI2]", "[ROI3]", "[SEP]",
            "[MASK]", "[CLS]", "[ENC]", "[TINY]", "[SMALL]", "[BASE]", "[BIG]", *(f"[POS{n}]" for n in range(9)))
VOCABULARY = vocabulary({name: 58192 + n for n, name in enumerate(COMMANDS)},
                        image=(range(0, 8192),), text=(range(8192, 58192),))
SIZES = {(8, 8): "[TINY]", (16, 16): "[SMALL]", (32, 32): "[BASE]", (64, 64): "[BIG]"}
LONGEST = 1089
_control = functools.partial(control, names=VOCABULARY.controls)


def text_to_image(text: np.ndarray, image: np.ndarray, on_grid: bool = True) -> list[Part]:
  """[ROI1] text [BASE] [BOI1] codes [EOI1]."""
  return limit("cogview", [_control("[ROI1]"), Part("text", text, 1.0), *_wrapped(image, 1, on_grid)], LONGEST)


def image_to_text(text: np.ndarray, image: np.ndarray, on_grid: bool = True) -> list[Part]:
  """[BASE] [BOI1] codes [EOI1] [ROI1] text. The same scores a picture by how probable its caption is."""
  return limit("cogview", [*_wrapped(image, 1, on_grid), _control("[ROI1]", 1.0), Part("text", text, 1.0)], LONGEST)


def super_resolution(text: np.ndarray, image: np.ndarray, larger: np.ndarray | None = None, place: int = 0,
                     on_grid: bool = True) -> list[Part]:
  """[ROI1] text [BASE] [BOI1] codes [EOI1] [ROI2] [POS0] [BASE] [BOI2] larger [EOI2].

  `larger` are the codes of a window of the larger picture, [POS0] .. [POS8] its place; left out, they are to be drawn.
  """
  if not 0 <= place < 9:
    raise ValueError(f"cogview: place {place}; must be in 0 .. 8, the windows [POS0] .. [POS8]")
  first = text_to_image(text, image, on_grid)
  second = [_control("[ROI2]", 1.0), _control(f"[POS{place}]", 1.0),
            *_wrapped(np.full_like(image, -1) if larger is None else larger, 2, on_grid)]
  if not on_grid:
    count, at = sum(part.codes.size for part in first), 0
    for n, part in enumerate(second):
      second[n] = part._replace(positions=line_positions(at - count, part.codes.size))
      at += part.codes.size
  return [*first, *second]


def _wrapped(image: np.ndarray, number: int, on_grid: bool) -> list[Part]:
  if np.shape(image) not in SIZES:
    raise ValueError(f"cogview: a picture of {np.shape(image)} codes; must be one of {', '.join(map(str, SIZES))}, for "
                     "which it has a command; crop or scale the picture")
  return [_control(SIZES[np.shape(image)], 1.0), _control(f"[BOI{number}]", 1.0), *picture(image, 1.0, on_grid),
          _control(f"[EOI{number}]", 1.0)]


TEMPLATE = Template(VOCABULARY, {"text_to_image": text_to_image, "image_to_text": image_to_text,
                                 "super_resolution": super_resolution}, grid=(8, 8))
