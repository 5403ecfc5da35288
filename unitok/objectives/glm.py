"""GLM's blanks (Du 2021, 2103.10360): what is taken out of a text is written behind it.

The corrupted text, in which each blank is one control token, is seen both ways. Every blank follows behind [sop], sees
the corrupted text and what was written before it, and ends with [eop], which is predicted and never an input. Position
1 (our time) of all of a blank's tokens is where its control token stands; position 2 is 0 in the corrupted text, 1 at
[sop], 2 at the blank's first token and so on, and is added to the time for our row and column. For example blanks of
"a b c d e" at b c and at e, written in the other order:

    inputs      [glm_spans]  a  [mask]  d  [mask]  [sop]  e      [sop]  b  c
    targets                                          e   [eop]     b    c  [eop]
    position 1       0       1    2     3    4       4    4        2    2  2
    position 2       0       0    0     0    0       1    2        1    2  3

A picture, where the record has one, stands in front of half of the documents. To be drawn: each run of unknown codes
(-1) is a blank of at most its length.
"""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, control, one_caption, prompt, shown
from unitok.sequence import AXES, Part
from unitok.vocab import SPECIAL

LONGEST = 39


def glm_spans(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """Blanks of Poisson lengths until `blank_share` of the tokens is covered, at least a token between two."""
  text = one_caption(codes, rng)
  spans = _unknown(text) or random_spans(len(text), rng, options.blank_share, options.blank_length)
  rng.shuffle(spans)
  return [control("[glm_spans]"), *_picture(codes, rng, options), *blanks(text, spans, "[mask]")]


def glm_document(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """One blank from anywhere to the end of the text."""
  text = one_caption(codes, rng)
  start = _unknown(text)[0][0] if (text < 0).any() else int(rng.integers(max(len(text), 1)))
  return [control("[glm_document]"), *_picture(codes, rng, options), *blanks(text, [(start, len(text))], "[gmask]")]


def random_spans(length: int, rng: np.random.Generator, share: float, mean: float) -> list[tuple[int, int]]:
  """[(start, stop)], in the order of the text, with at least one token between two; none in an empty text."""
  lengths, wanted = [], share * length
  while not lengths or sum(lengths) < wanted:
    room = length - sum(lengths) - len(lengths)   # a token before every blank but the first
    if room < 1:
      break
    lengths.append(int(np.clip(rng.poisson(mean), 1, min(LONGEST, room))))
  free = length - sum(lengths) - max(len(lengths) - 1, 0)
  gaps = np.diff(np.sort(rng.integers(0, free + 1, len(lengths))), prepend=0)
  spans, at = [], 0
  for gap, n in zip(gaps, lengths):
    at += int(gap)
    spans.append((at, at + n))
    at += n + 1
  return spans


def _unknown(text: np.ndarray) -> list[tuple[int, int]]:
  edges = np.flatnonzero(np.diff((text < 0).astype(int), prepend=0, append=0))
  return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]


def _picture(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  if codes.image is None or (not (np.concatenate(codes.text) < 0).any() and rng.random() < 0.5):
    return []
  return shown(codes.image, options)


def blanks(text: np.ndarray, spans: list[tuple[int, int]], mask: str, names: tuple[str, ...] = SPECIAL,
           close: tuple[Part, ...] = ()) -> list[Part]:
  """The corrupted text, which the control tokens `close` belong to, and its blanks in the order given."""
  parts, where, at, length = [], {}, 0, 0
  for start, stop in sorted(spans):
    parts += [Part("text", text[at:start]), control(mask, names=names)]
    length += start - at
    where[start], at, length = length, stop, length + 1
  parts = prompt(*parts, Part("text", text[at:]), *close)
  length += len(text) - at + len(close)
  for start, stop in spans:
    n = stop - start
    positions = np.full((n + 1, AXES), where[start] - length, np.int32)   # the text's time has passed
    positions[:, 1:] += np.arange(1, n + 2, dtype=np.int32)[:, None]
    parts += [control("[sop]", names=names)._replace(positions=positions[:1]),
              Part("text", text[start:stop], loss_weight=1.0, end="[eop]", positions=positions[1:], end_is_input=False)]
  return parts
