"""Lumina-mGPT (2408.02657): Chameleon's vocabulary; a picture says its size and ends its rows.

    [new_line] 8803, [size n] 8804 + n: a side of n times 32 pixels, which are 2n codes; the others as in `chameleon`

Causal; a turn ends with [end_of_turn]. The answer is learned, all of it with one weight (and a z-loss, which is the
trainer's); the question is not. Its questions are sentences ("Generate an image of 768x768 according to the following
prompt: …"), whose codes are the caller's.

Unverified: how large a side may be; here up to 128 codes.
"""
import functools

import numpy as np

from unitok.objectives.codes import control
from unitok.sequence import Part
from unitok.templates import chameleon
from unitok.templates.template import Template, picture, vocabulary

LARGEST = 64
SIZES = {f"[size {n}]": 8804 + n for n in range(1, LARGEST + 1)}
VOCABULARY = vocabulary({**chameleon.CONTROLS, "[new_line]": 8803, **SIZES},
                        image=(range(4, 8196),),
                        text=(range(8198, 8710), range(8711, 8803), range(8804, 8805), range(8805 + LARGEST, 65536)))
_control = functools.partial(control, names=VOCABULARY.controls)


def text_to_image(text: np.ndarray, image: np.ndarray, on_grid: bool = True) -> list[Part]:
  """<s> text [end_of_turn] [boi] [size height] [size width] rows, each with [new_line], [eoi] [end_of_turn]."""
  return [_control("<s>"), Part("text", text), _control("[end_of_turn]"), *_sized(image, 1.0, on_grid),
          _control("[end_of_turn]", 1.0)]


def image_to_text(text: np.ndarray, image: np.ndarray, question: np.ndarray = np.zeros(0, np.int32),
                  on_grid: bool = True) -> list[Part]:
  """<s> [boi] … [eoi] question [end_of_turn] text [end_of_turn]."""
  return [_control("<s>"), *_sized(image, 0.0, on_grid), Part("text", question), _control("[end_of_turn]"),
          Part("text", text, 1.0, end="[end_of_turn]")]


def _sized(image: np.ndarray, weight: float, on_grid: bool) -> list[Part]:
  if any(side % 2 or not 0 < side <= 2 * LARGEST for side in np.shape(image)):
    raise ValueError(f"lumina_mgpt: a picture of {np.shape(image)} codes; its sides must be even, 2 .. {2 * LARGEST}, "
                     "since its size tokens count two codes; crop or scale the picture")
  sizes = [_control(f"[size {side // 2}]", weight) for side in np.shape(image)]
  return [_control("[boi]", weight), *sizes, *picture(image, weight, on_grid, _control("[new_line]", weight)),
          _control("[eoi]", weight)]


TEMPLATE = Template(VOCABULARY, {"text_to_image": text_to_image, "image_to_text": image_to_text}, grid=(2, 4))
