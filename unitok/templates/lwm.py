"""LWM (2402.08268): text, and pictures or films of several frames, in either order.

It has two tables of ids; here those of vision follow those of text:

    <unk> 0, <s> 1, </s> 2, text 3 .. 31999 (LLaMA's pieces), vision 32000 + its own id: codes 0 .. 8191, <eof> 8192,
    <eov> 8193, 254 unused

<vision> and </vision> are three text pieces each. A frame is 16x16 codes; any grid is taken here. Causal. A field
whose name it writes as [field] is not learned. Half of the loss is vision's and half text's, each a mean; here in each
document (the weights' mean is 1), there in each batch.

Unverified: whether its own rows hold more than one <s>, since its published tokenizer also puts one before every field.
"""
import functools

import numpy as np

from unitok.objectives.codes import control
from unitok.sequence import Part
from unitok.templates.template import Template, picture, vocabulary

VISION = 32000
VOCABULARY = vocabulary({"<unk>": 0, "<s>": 1, "</s>": 2, "<eof>": VISION + 8192, "<eov>": VISION + 8193},
                        text=(range(3, VISION),), image=(range(VISION, VISION + 8192),),
                        unused=(range(VISION + 8194, VISION + 8448),))
OPEN, CLOSE = (VOCABULARY.to_codes("text", ids) for ids in ((529, 4924, 29958), (1533, 4924, 29958)))
"""The pieces of <vision> and </vision>."""
_control = functools.partial(control, names=VOCABULARY.controls)


def text_to_image(text: np.ndarray, image: np.ndarray, unscored: tuple[str, ...] = (),
                  on_grid: bool = True) -> list[Part]:
  """<s> text <vision> codes <eov> </vision> </s>.

  `image` i32[h w], or i32[frames h w]: each frame but the last ends with <eof>. `unscored` names the fields without
  loss, "text" or "vision".
  """
  return _document(("text", "vision"), text, image, unscored, on_grid)


def image_to_text(text: np.ndarray, image: np.ndarray, unscored: tuple[str, ...] = (),
                  on_grid: bool = True) -> list[Part]:
  """<s> <vision> codes <eov> </vision> text </s>."""
  return _document(("vision", "text"), text, image, unscored, on_grid)


def _document(order, text, image, unscored, on_grid) -> list[Part]:
  if not set(unscored) <= {"text", "vision"}:
    raise ValueError(f"lwm: unscored {tuple(unscored)}; the fields are text and vision")
  frames = image[None] if np.ndim(image) == 2 else image
  learned = {field: field not in unscored for field in order}
  vision = learned["vision"] * (frames.size + len(frames))
  words = learned["text"] * len(text) + learned["vision"] * (len(OPEN) + len(CLOSE)) + 1
  of_vision = (vision + words) / (2 * vision) if vision else 0.0
  of_text = (vision + words) / (2 * words) if vision else 1.0
  around = of_text * learned["vision"]
  film = [Part("text", OPEN, around)]
  for n, frame in enumerate(frames):
    film += [*picture(frame, of_vision, on_grid), _control("<eov>" if n == len(frames) - 1 else "<eof>", of_vision)]
  fields = {"vision": [*film, Part("text", CLOSE, around)], "text": [Part("text", text, of_text * learned["text"])]}
  return [_control("<s>"), *fields[order[0]], *fields[order[1]], _control("</s>", of_text)]


TEMPLATE = Template(VOCABULARY, {"text_to_image": text_to_image, "image_to_text": image_to_text})
