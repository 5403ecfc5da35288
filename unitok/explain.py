"""What a document looks like: a line a token, and the mask as a picture."""
from collections.abc import Callable

import numpy as np

from unitok.config import Objectives
from unitok.objectives import NEEDS, OBJECTIVES, possible
from unitok.objectives.codes import Codes
from unitok.sequence import FOREVER, Sequence, build, visible
from unitok.templates import TEMPLATES
from unitok.vocab import Vocabulary, make_vocabulary

WORDS = ("a", "red", "ring", "and", "blue", "bar", "what", "colour", "is", "the", "large")
"""The text pieces of `example`."""
SETTINGS = Objectives(caption_drop=0.0, holes=dict(halves=1.0), hole_share=(0.3, 0.7), least_groups=2, raster_share=0.0)
"""Of the example's documents: small ones that show what an objective is about."""
COLUMNS = ("token", "id", "predicts", "weight", "time", "row", "col", "order", "until", "sees")


def example() -> tuple[Codes, Vocabulary, Callable[[int], str]]:
  """A record small enough to read, its vocabulary, and the names of its ids: two captions, a picture of 2x3 codes,
  an object, a question, and an interleaved document of two texts and two pictures."""
  vocabulary = make_vocabulary({"text": len(WORDS), "image": 8, "location": 1024}, {})
  say = lambda text: np.array([WORDS.index(word) for word in text.split()], np.int32)
  codes = Codes((say("a red ring"), say("the ring is red")), np.array([[5, 6, 7], [0, 3, 1]], np.int32), "the example",
                coarse=np.array([[4, 2]], np.int32), objects=((say("red ring"), np.array([0, 0, 512, 512], np.int32)),),
                questions=((say("what colour is the ring"), say("red")),),
                pieces=(say("a red ring"), np.array([[5, 6]], np.int32), say("blue"), np.array([[7], [3]], np.int32)))
  return codes, vocabulary, named(vocabulary, lambda code: WORDS[code])


def named(vocabulary: Vocabulary, piece: Callable[[int], str]) -> Callable[[int], str]:
  """id -> "[boi]", "image 5", or the text piece itself."""
  text = vocabulary.block("text").table
  first = dict(zip(text.tolist(), range(len(text))))
  return lambda one: piece(first[one]) if one in first else vocabulary.name(one)


def document(objective: str, codes: Codes, vocabulary: Vocabulary, seed: int = 0,
             options: Objectives = SETTINGS) -> Sequence:
  """A document of training. ValueError for an unknown objective, or a record that lacks what it needs."""
  if objective not in OBJECTIVES:
    raise ValueError(f"objective {objective!r}: there is none of that name; legal: {', '.join(OBJECTIVES)}")
  if not possible(objective, codes):
    raise ValueError(f"objective {objective!r}: {codes.key} lacks {' or '.join(NEEDS[objective])}; take another record")
  return build(OBJECTIVES[objective](codes, np.random.default_rng(seed), options), vocabulary)


def check(objective: str, template: str):
  """ValueError unless one of the two is named."""
  if bool(objective) == bool(template):
    raise ValueError(f"explain: give --objective or --template, one of the two; objectives: {', '.join(OBJECTIVES)}; "
                     f"templates: {', '.join(TEMPLATES)}")


def rows(d: Sequence, name: Callable[[int], str]) -> list[tuple[str, ...]]:
  """A row of COLUMNS for each token; the last is the mask: x where the token sees the one of that column."""
  seen = mask(d)
  out = []
  for i in range(d.length):
    predicts = _all(name, d.targets[i], d.extra_targets, i) if d.loss_weights[i] > 0 else ""
    until = "" if d.visible_until[i] >= FOREVER else str(d.visible_until[i])
    token, weight = _all(name, d.inputs[i], d.extra_codes, i), f"{d.loss_weights[i]:g}" if predicts else ""
    out.append((token, str(d.inputs[i]), predicts, weight,
                *(f"{x:g}" for x in d.positions[i]), str(d.order[i]), until, "".join(".x"[int(see)] for see in seen[i])))
  return out


def _all(name: Callable[[int], str], first: int, extra: np.ndarray | None, at: int) -> str:
  """"image 5", or "image 5 + image.1 3" of a place with several codes."""
  further = [one for one in (() if extra is None else extra[at]) if one >= 0]
  return " + ".join(name(int(one)) for one in (first, *further))


def mask(d: Sequence) -> np.ndarray:
  """bool[l l]: token i sees token j."""
  return visible(d.order, d.visible_from, d.visible_until, np.ones(d.length, int))


def table(lines: list[tuple[str, ...]]) -> list[str]:
  """The rows under COLUMNS, as text in columns."""
  every = [COLUMNS, *lines]
  widths = [max(len(row[n]) for row in every) for n in range(len(COLUMNS))]
  left = {0, 2, len(COLUMNS) - 1}
  return ["  ".join(cell.ljust(width) if n in left else cell.rjust(width)
                    for n, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in every]


CELL = 14
SEEN, LEARNED, HIDDEN = (74, 111, 165), (214, 117, 62), (238, 238, 234)


def picture(d: Sequence) -> np.ndarray:
  """u8[14 l  14 l  3]: the mask, a square a pair; rows whose token carries the loss are orange, others blue."""
  seen = mask(d)
  colour = np.where(d.loss_weights[:, None, None] > 0, np.uint8(LEARNED), np.uint8(SEEN))
  cells = np.where(seen[..., None], colour, np.uint8(HIDDEN)).astype(np.uint8)
  out = cells.repeat(CELL, 0).repeat(CELL, 1)
  out[::CELL] = out[:, ::CELL] = 255
  return out
