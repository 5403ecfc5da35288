"""What the decoder learns: each objective turns one example's codes into parts.

    Objective = Callable[[Codes, np.random.Generator, float], list[Part]]

`Codes` holds `text`, a tuple of captions (i32[n] each), and `image` (i32[h w]) or None. The third
argument is the share of captions to drop, so that guidance has its null caption. Codes of -1 are to
be drawn: the same function gives the training and the inference form.
"""
from typing import Callable

from unitok.objectives.codes import Codes
from unitok.objectives.image_to_text import image_to_text
from unitok.objectives.infill import infill
from unitok.objectives.text import text
from unitok.objectives.text_to_image import text_to_image
from unitok.sequence import Part

OBJECTIVES: dict[str, Callable[..., list[Part]]] = {
    "text_to_image": text_to_image,
    "image_to_text": image_to_text,
    "infill": infill,
    "text": text,
}

NEEDS: dict[str, tuple[str, ...]] = {
    "text_to_image": ("image",),        # a picture without captions is drawn from the null caption
    "image_to_text": ("image", "text"),
    "infill": ("image",),
    "text": ("text",),
}
"""What an example must have for an objective; the others are not chosen for it."""


def possible(name: str, codes: Codes) -> bool:
  """Has the example what the objective needs?"""
  return all(codes.text if kind == "text" else codes.image is not None for kind in NEEDS[name])
