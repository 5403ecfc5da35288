"""GLM (2103.10360), the 2B and 10B models in English: what is taken out of a text is written behind it.

    text 0 .. 50255 (GPT-2's pieces), <|endoftext|> 50256, [sop] 50257 (its <|startofpiece|>), [eop] 50258
    (<|endofpiece|>), [CLS] 50259, [MASK] 50260, [SEP] 50261, [UNUSED] 50262, [gMASK] 50263, [sMASK] 50264

A text stands between [CLS] and <|endoftext|>. Positions and visibility are those of `objectives.glm`, which see:
position 1 is our time, position 2 is added to it for row and column. Text alone, so there is no grid.

Left out: in training, one in ten of the 10B model's span inputs was a token [dBLOCK], which its published tokenizer
lacks.
"""
import functools

import numpy as np

from unitok.objectives.codes import control, prompt
from unitok.objectives.glm import blanks, random_spans
from unitok.sequence import AXES, Part
from unitok.templates.template import Template, vocabulary

CONTROLS = ("<|endoftext|>", "[sop]", "[eop]", "[CLS]", "[MASK]", "[SEP]", "[UNUSED]", "[gMASK]", "[sMASK]")
VOCABULARY = vocabulary({name: 50256 + n for n, name in enumerate(CONTROLS)}, text=(range(0, 50256),))
END = "<|endoftext|>"
SHARE, LENGTH = 0.15, 3.0
_control = functools.partial(control, names=VOCABULARY.controls)

Spans = list[tuple[int, int]]
"""(start, stop) of each blank in the text, in the order in which they are written."""


def spans(text: np.ndarray, blanked: Spans | None = None, mask: str = "[MASK]", seed: int = 0) -> list[Part]:
  """[CLS] text with a [MASK] for each span <|endoftext|>, then [sop] span, which ends with [eop].

  Left out, the spans are drawn as it does: Poisson lengths of mean 3 until 15 % is covered, in any order.
  """
  if blanked is None:
    rng = np.random.default_rng(seed)
    blanked = random_spans(len(text), rng, SHARE, LENGTH)
    rng.shuffle(blanked)
  if any(not 0 <= start < stop <= len(text) for start, stop in blanked):
    raise ValueError(f"glm: spans {blanked}; each must be a start < stop within 0 .. {len(text)}, the text's length")
  return [*prompt(_control("[CLS]")), *blanks(text, blanked, mask, names=VOCABULARY.controls, close=(_control(END),))]


def sentences(text: np.ndarray, blanked: Spans | None = None) -> list[Part]:
  """The same with [sMASK] for each whole sentence; left out, the text is one."""
  return spans(text, [(0, len(text))] if blanked is None else blanked, "[sMASK]")


def document(text: np.ndarray, start: int | None = None) -> list[Part]:
  """[CLS] text up to `start` [gMASK], then [sop] the rest, which ends with <|endoftext|>. Left out: the half."""
  start = len(text) // 2 if start is None else start
  source = prompt(_control("[CLS]"), Part("text", text[:start]), _control("[gMASK]"))
  where = np.full((len(text) - start + 1, AXES), -1, np.int32)     # where [gMASK] stands
  where[:, 1:] += np.arange(1, len(where) + 1, dtype=np.int32)[:, None]
  return [*source, _control("[sop]")._replace(positions=where[:1]),
          Part("text", text[start:], 1.0, end=END, positions=where[1:], end_is_input=False)]


TEMPLATE = Template(VOCABULARY, {"spans": spans, "sentences": sentences, "document": document})
