"""What the decoder learns: each objective turns one example's codes into parts.

    Objective = Callable[[Codes, np.random.Generator, Objectives], list[Part]]

`Codes` holds `text`, a tuple of captions (i32[n] each), `image` (i32[h w]) or None, and more; `Objectives` are the
config's settings (what share of captions is dropped …). Codes of -1 are to be drawn: the same function gives the training and
the inference form.
"""
import dataclasses
import math
from typing import Callable

import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes
from unitok.objectives.glm import glm_document, glm_sentences, glm_spans
from unitok.objectives.grounding import detect, layout, locate
from unitok.objectives.image import image
from unitok.objectives.image_to_text import image_to_text
from unitok.objectives.infill import HOLES, infill
from unitok.objectives.interleaved import interleaved
from unitok.objectives.pair import pair
from unitok.objectives.parallel import parallel
from unitok.objectives.prefix_lm import prefix_lm
from unitok.objectives.question import MOST_QUESTIONS, question
from unitok.objectives.refine import refine
from unitok.objectives.text import text
from unitok.objectives.text_to_image import text_to_image
from unitok.sequence import Part

OBJECTIVES: dict[str, Callable[..., list[Part]]] = {
    "text_to_image": text_to_image,
    "image_to_text": image_to_text,
    "infill": infill,
    "text": text,
    "image": image,
    "pair": pair,
    "parallel": parallel,
    "refine": refine,
    "prefix_lm": prefix_lm,
    "glm_spans": glm_spans,
    "glm_document": glm_document,
    "glm_sentences": glm_sentences,
    "question": question,
    "detect": detect,
    "locate": locate,
    "layout": layout,
    "interleaved": interleaved,
}

NEEDS: dict[str, tuple[str, ...]] = {
    "text_to_image": ("image",),        # a picture without captions is drawn from the null caption
    "image_to_text": ("image", "text"),
    "infill": ("image",),
    "text": ("text",),
    "image": ("image",),
    "pair": ("image", "text"),
    "parallel": ("image",),
    "refine": ("image", "coarse"),      # records whose codes were made for it
    "prefix_lm": ("text",),
    "glm_spans": ("text",),
    "glm_document": ("text",),
    "glm_sentences": ("text",),
    "question": ("questions",),
    "detect": ("image", "objects"),
    "locate": ("image", "objects"),
    "layout": ("image", "objects"),
    "interleaved": ("pieces",),
}
"""What an example must have for an objective; the others are not chosen for it."""


def drawing(options: Objectives) -> Objectives:
  """The same settings with nothing left out that was asked for."""
  return dataclasses.replace(options, caption_drop=0.0)


DRAWING = drawing(Objectives())


def possible(name: str, codes: Codes) -> bool:
  """Has the example what the objective needs?"""
  there = lambda some: some is not None if some is None or isinstance(some, np.ndarray) else len(some) > 0
  return all(there(getattr(codes, kind)) for kind in NEEDS[name])


def needed(tasks: dict[str, float]) -> set[str]:
  """What the objectives of a mixture need among them: "image", "coarse", "text", "objects", "questions", "pieces"."""
  return {kind for name, weight in tasks.items() if weight for kind in NEEDS.get(name, ())}


def check(options: Objectives):
  """ValueError naming a setting out of its range."""
  share = lambda x: 0 <= x <= 1
  least, most = options.hole_share
  for name, legal, fits in (
      *((name, "in 0 .. 1", share(getattr(options, name))) for name in ("caption_drop", "image_first", "raster_share")),
      ("blank_share", "above 0, up to 1", 0 < options.blank_share <= 1),
      ("blank_length", "above 0", 0 < options.blank_length < math.inf),
      ("least_groups", "1 or more", options.least_groups >= 1),
      ("questions", f"in 1 .. {MOST_QUESTIONS}", 1 <= options.questions <= MOST_QUESTIONS),
      ("refine_window", "an even number, 0 or more", options.refine_window >= 0 and options.refine_window % 2 == 0),
      ("training_grid", "0 or more", options.training_grid >= 0),
      ("hole_share", "two numbers, 0 <= least <= greatest <= 1", 0 <= least <= most <= 1)):
    if not fits:
      raise ValueError(f"decoder.objectives.{name}: {getattr(options, name)} must be {legal}")
  for name, weight in options.holes.items():
    if name not in HOLES:
      raise ValueError(f"decoder.objectives.holes: no kind {name!r}; legal: {', '.join(HOLES)}")
    if not 0 <= weight < math.inf:
      raise ValueError(f"decoder.objectives.holes: the weight of {name} is {weight}, must be a number from 0 on")
  if not any(options.holes.values()):
    raise ValueError(f"decoder.objectives.holes: no weight is above 0; give one of {', '.join(HOLES)} a weight")
