"""Emu3 (2409.18869): Qwen's text; a picture says its size in digits and ends its rows.

    text 0 .. 151642, 211 control tokens 151643 .. 151853, picture 151854 .. 184621 (32,768 codes); of the control
    tokens [eol] 151846, [eof] 151847, [BOS] 151849, [EOS] 151850, [img] 151851, [boi] 151852, [eoi] 151853

Causal; any grid. In pretraining every token is learned, the picture's codes with half the weight. In the size, height
and width in codes, each digit is a piece of its own.

Unverified: the weight (from the paper), and that it holds for the codes alone; the ids of the digits, 15 .. 24, and of
*, 9, which are those of the byte-level vocabularies that Qwen's is made like.
"""
import functools

import numpy as np

from unitok.objectives.codes import control
from unitok.sequence import Part
from unitok.templates.template import Template, picture, vocabulary

EXTRAS = {200: "[eol]", 201: "[eof]", 203: "[BOS]", 204: "[EOS]"}
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(EXTRAS.get(n, f"<|extra_{n}|>") for n in range(205)),
            "[img]", "[boi]", "[eoi]")
VOCABULARY = vocabulary({name: 151643 + n for n, name in enumerate(CONTROLS)},
                        text=(range(0, 151643),), image=(range(151854, 184622),))
OF_CODES = 0.5
NOTHING = np.zeros(0, np.int32)
_control = functools.partial(control, names=VOCABULARY.controls)


def text_to_image(text: np.ndarray, image: np.ndarray, on_grid: bool = True) -> list[Part]:
  """[BOS] text [boi] height*width [img] rows, each with [eol], [eof] [eoi] [EOS]."""
  return [_control("[BOS]"), Part("text", text, 1.0), *_sized(image, 1.0, on_grid), _control("[EOS]", 1.0)]


def image_to_text(text: np.ndarray, image: np.ndarray, on_grid: bool = True) -> list[Part]:
  """[BOS] [boi] … [eoi] text [EOS]."""
  return [_control("[BOS]"), *_sized(image, 1.0, on_grid), Part("text", text, 1.0, end="[EOS]")]


def chat(text: np.ndarray, image: np.ndarray, before: np.ndarray = NOTHING, after: np.ndarray = NOTHING,
         on_grid: bool = True) -> list[Part]:
  """[BOS] before [boi] … [eoi] after text [EOS]: loss on the answer `text` and its end.

  `before` are the codes of "You are a helpful assistant. USER: ", `after` those of "QUESTION. ASSISTANT:".
  """
  return [_control("[BOS]"), Part("text", before), *_sized(image, 0.0, on_grid), Part("text", after),
          Part("text", text, 1.0, end="[EOS]")]


def _sized(image: np.ndarray, weight: float, on_grid: bool) -> list[Part]:
  size = np.array([ord(sign) - ord("!") for sign in "*".join(map(str, np.shape(image)))], np.int32)   # "*" is 9, "0" 15
  return [_control("[boi]", weight), Part("text", size, weight), _control("[img]", weight),
          *picture(image, OF_CODES * weight, on_grid, _control("[eol]", weight)), _control("[eof]", weight),
          _control("[eoi]", weight)]


TEMPLATE = Template(VOCABULARY, {"text_to_image": text_to_image, "image_to_text": image_to_text, "chat": chat})
