"""Pictures and boxes: what is where, where is what, and drawing to a layout.

A box is four location codes, y0 x0 y1 x1, as PaliGemma has them (2407.07726); an object is its box and its name.
"""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, picture, prompt, shown
from unitok.sequence import Part


def detect(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """[detect] [boi] codes [eoi], then box name [sep] of each object, in any order, and [eos].

  To be drawn: the objects known so far in their order, then as many with unknown codes as there may be more; [eos] in
  place of a box ends the list.
  """
  parts = [control("[detect]"), *shown(codes.image, options)]
  drawing = any((box < 0).any() or (name < 0).any() for name, box in codes.objects)
  order = range(len(codes.objects)) if drawing else rng.permutation(len(codes.objects))
  for n in order:
    name, box = codes.objects[n]
    parts.append(Part("location", box, loss_weight=1.0, optional=True))
    parts.append(Part("text", name, loss_weight=1.0, end="[sep]"))
  return parts if drawing else [*parts, control("[eos]", 1.0)]


def locate(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """[locate] [boi] codes [eoi] name [answer] box: one object whose name no other has, where there is one."""
  names = [name.tobytes() for name, _ in codes.objects]
  alone = [n for n, name in enumerate(names) if names.count(name) == 1] or range(len(names))
  name, box = codes.objects[alone[rng.integers(len(alone))]]
  asked = prompt(control("[locate]"), *shown(codes.image, options), Part("text", name))
  return [*asked, control("[answer]"), Part("location", box, loss_weight=1.0)]


def layout(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """[layout], box name [sep] of each object, in any order, [boi] codes: loss on the codes."""
  dropped = rng.random() < options.caption_drop
  parts = [control("[layout]")]
  for n in () if dropped else rng.permutation(len(codes.objects)):
    name, box = codes.objects[n]
    parts += [Part("location", box), Part("text", name), control("[sep]")]
  return [*parts, *picture(codes.image, options)]
