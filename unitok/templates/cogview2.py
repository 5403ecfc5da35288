"""CogView2's first stage, CogLM (2204.14217): the text is seen both ways, the picture is written or masked.

    image 0 .. 19999, text 20000 .. 149999 (common pieces, English from 20100, Chinese from 83823, rare from 145653),
    <start_of_image> 150000, <start_of_english> 150001, <start_of_chinese> 150002

At most 512 tokens: 111 of text, one, and 20x20 codes; any grid is taken here. The pads of its rows are left out. Its
own positions count the text from 0 and the picture's part from 512, whatever the text's length. Masks live in the
attention: no input is replaced, a masked code predicts the next of its run and nothing predicts a run's first one.

Where masked patches touch, it predicts the first column of none of them; here that of the first one alone is left out.

Unverified: the three control tokens' ids, which follow from the size of the text (130,000, its documentation) and the
order in which the published code adds them.
"""
import functools

import numpy as np

from unitok.objectives.codes import control, prompt
from unitok.sequence import Part
from unitok.templates.template import (Template, grid_positions, limit, line_positions, passing, picture,
                                       vocabulary)

VOCABULARY = vocabulary({"<start_of_image>": 150000, "<start_of_english>": 150001, "<start_of_chinese>": 150002},
                        image=(range(0, 20000),), text=(range(20000, 150000),))
CHINESE = 83823 - 20000   # the first code of a Chinese piece
LONGEST, PICTURE_AT = 512, 512
_control = functools.partial(control, names=VOCABULARY.controls)


def text_to_image(text: np.ndarray, image: np.ndarray, on_grid: bool = True) -> list[Part]:
  """text <start_of_image> codes: loss on the codes. The text's tokens see each other and not what follows."""
  start, codes = _control("<start_of_image>"), picture(image, 1.0, on_grid)
  if not on_grid:
    at = PICTURE_AT - len(text)
    start = start._replace(positions=line_positions(at, 1))
    codes = [codes[0]._replace(positions=line_positions(at + 1, image.size))]
  return limit("cogview2", [*prompt(Part("text", text)), start, *codes], LONGEST)


def image_to_text(text: np.ndarray, image: np.ndarray, hole: np.ndarray | None = None,
                  on_grid: bool = True) -> list[Part]:
  """codes <start_of_english> text: loss on the text, which sees the picture, and on the masked codes.

  `hole` bool[h w]: the masked 4x4 patches. The other codes see each other alone; a masked one sees them and those
  masked before it. Its own rows have the text in front; the picture comes first here, since row order tells nothing.
  """
  height, width = image.shape
  where = grid_positions(height, width) if on_grid else line_positions(PICTURE_AT + 1, image.size)
  flat, masked = image.ravel(), np.zeros(image.size, bool) if hole is None else np.asarray(hole, bool).ravel()
  parts = prompt(Part("image", flat[~masked], positions=where[~masked]))
  places = np.flatnonzero(masked)
  for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if places.size else ():
    parts += [Part("image", flat[run[:1]], positions=where[run[:1]]),
              Part("image", flat[run[1:]], 1.0, positions=where[run[1:]])]
  start = "<start_of_english>" if (np.asarray(text) < CHINESE).all() else "<start_of_chinese>"
  time = [passing(max(height, width))] if on_grid else []
  return limit("cogview2", [*parts, *time, _control(start), Part("text", text, 1.0)], LONGEST)


TEMPLATE = Template(VOCABULARY, {"text_to_image": text_to_image, "image_to_text": image_to_text})
