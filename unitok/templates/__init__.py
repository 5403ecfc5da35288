"""Published systems: their vocabularies, and their documents for `sequence.build`.

A form is a function of local codes, `text` i32[n] and `image` i32[h w] (-1: to be drawn), that lists a document's
parts; built over the template's vocabulary they give the system's ids, visibility and loss weights. A caption's codes
are `vocabulary.to_codes("text", ids)` of what the system's own tokenizer gives; none is shipped.

Positions are ours unless `on_grid=False`: a picture's codes share the time, its row-end tokens stand at its width. With
it they are the system's own, which count along the row; the three axes are equal, so that rotary weights agree.

What a file does not call unverified was read in the system's paper, published code or configuration, or in public code
that uses its weights.
"""
import inspect

import numpy as np

from unitok.sequence import Sequence, build
from unitok.templates import chameleon, cogview, cogview2, emu3, glm, lumina_mgpt, lwm, show_o
from unitok.templates.template import Template

TEMPLATES: dict[str, Template] = {
    "cogview": cogview.TEMPLATE,
    "cogview2": cogview2.TEMPLATE,
    "glm": glm.TEMPLATE,
    "chameleon": chameleon.TEMPLATE,
    "lumina_mgpt": lumina_mgpt.TEMPLATE,
    "lwm": lwm.TEMPLATE,
    "emu3": emu3.TEMPLATE,
    "show_o": show_o.TEMPLATE,
}


def template(name: str) -> Template:
  """ValueError for a name that there is not."""
  if name not in TEMPLATES:
    raise ValueError(f"template {name!r}: there is none of that name; legal: {', '.join(TEMPLATES)}")
  return TEMPLATES[name]


def document(name: str, form: str = "", **codes) -> Sequence:
  """A template's document; of its first form, if none is named. `codes` are the form's arguments."""
  t = template(name)
  form = form or next(iter(t.forms))
  if form not in t.forms:
    raise ValueError(f"template {name!r}: it has no form {form!r}; legal: {', '.join(t.forms)}")
  return build(t.forms[form](**codes), t.vocabulary)


def example(name: str, form: str = "", seed: int = 0) -> Sequence:
  """The document of a caption of three codes and a small picture; `seed` for a form that leaves something to chance."""
  t = template(name)
  height, width = t.grid
  text, image = np.array([5, 6, 7], np.int32), np.arange(height * width, dtype=np.int32).reshape(height, width)
  given = {"text": text, "image": image, "pieces": (text, image, text), "seed": seed}
  wanted = inspect.signature(t.forms.get(form, next(iter(t.forms.values())))).parameters
  return document(name, form, **{key: value for key, value in given.items() if key in wanted})
