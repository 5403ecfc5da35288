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

Blanks are of random lengths ([mask]), whole sentences ([smask]) or all to the end ([gmask]). A picture, where the
record has one, stands in front of half of the documents. To be drawn: each run of unknown codes (-1) of a text is a
blank of at most its length.
"""
import functools

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


def glm_sentences(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """Whole sentences until `blank_share` of the tokens is covered; where there are two or more, one is left.

  All of the record's texts stand behind one another, [sep] between two; `codes.sentences` says where each is cut.
  """
  starts = np.cumsum([0, *map(len, codes.text)]).tolist()
  in_all = lambda runs: [(at + int(a), at + int(b)) for at, some in zip(starts, runs) for a, b in some if a < b]
  cuts = codes.sentences or [[len(text)] for text in codes.text]
  sentences = in_all(zip([0, *ends], ends) for ends in cuts)
  spans = in_all(map(_unknown, codes.text)) or random_sentences(sentences, rng, options.blank_share)
  rng.shuffle(spans)
  text = blanks(np.concatenate(codes.text), spans, "[smask]", starts[1:-1])
  return [control("[glm_sentences]"), *_picture(codes, rng, options), *text]


def random_sentences(sentences: list[tuple[int, int]], rng: np.random.Generator, share: float) -> list[tuple[int, int]]:
  """Some of them, evenly, until they have the share of the tokens; never all, but of a single one."""
  order = rng.permutation(len(sentences))
  covered = np.cumsum([sentences[n][1] - sentences[n][0] for n in order])
  enough = 1 + int(np.searchsorted(covered, share * covered[-1])) if sentences else 0
  return [sentences[n] for n in order[:min(enough, max(len(sentences) - 1, 1))]]


def random_spans(length: int, rng: np.random.Generator, share: float, mean: float) -> list[tuple[int, int]]:
  """[(start, stop)], in the order of the text, with at least one token between two; none in an empty text."""
  lengths, wanted, poisson = [], share * length, cut_poisson(mean)
  while not lengths or sum(lengths) < wanted:
    room = length - sum(lengths) - len(lengths)   # a token before every blank but the first
    if room < 1:
      break
    lengths.append(min(1 + int(rng.choice(LONGEST, p=poisson)), room))
  free = length - sum(lengths) - max(len(lengths) - 1, 0)
  gaps = np.diff(np.sort(rng.integers(0, free + 1, len(lengths))), prepend=0)
  spans, at = [], 0
  for gap, n in zip(gaps, lengths):
    at += int(gap)
    spans.append((at, at + n))
    at += n + 1
  return spans


@functools.cache
def cut_poisson(mean: float) -> np.ndarray:
  """f64[LONGEST]: the chances of lengths 1 .. LONGEST under a Poisson that is drawn anew where it is outside."""
  lengths = np.arange(1, LONGEST + 1)
  logs = lengths * np.log(mean) - np.cumsum(np.log(lengths))
  chances = np.exp(logs - logs.max())
  return chances / chances.sum()


def _unknown(text: np.ndarray) -> list[tuple[int, int]]:
  edges = np.flatnonzero(np.diff((text < 0).astype(int), prepend=0, append=0))
  return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]


def _picture(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  if codes.image is None or (not (np.concatenate(codes.text) < 0).any() and rng.random() < 0.5):
    return []
  return shown(codes.image, options)


def blanks(text: np.ndarray, spans: list[tuple[int, int]], mask: str, joins=(), names: tuple[str, ...] = SPECIAL,
           close: tuple[Part, ...] = ()) -> list[Part]:
  """The corrupted text, with [sep] at its joins, which the control tokens `close` belong to, and its blanks in the order
  given."""
  parts, where, at, length = [], {}, 0, 0
  marks = [(start, stop, mask) for start, stop in spans] + [(join, join, "[sep]") for join in joins]
  for start, stop, name in sorted(marks):
    parts += [Part("text", text[at:start]), control(name, names=names)]
    length += start - at
    where[start, stop], at, length = length, stop, length + 1
  parts = prompt(*parts, Part("text", text[at:]), *close)
  length += len(text) - at + len(close)
  for start, stop in spans:
    n = stop - start
    positions = np.full((n + 1, AXES), where[start, stop] - length, np.int32)   # the text's time has passed
    positions[:, 1:] += np.arange(1, n + 2, dtype=np.int32)[:, None]
    parts += [control("[sop]", names=names)._replace(positions=positions[:1]),
              Part("text", text[start:stop], loss_weight=1.0, end="[eop]", positions=positions[1:], end_is_input=False)]
  return parts
