"""Show-o (2408.12528): text is written token by token, pictures are unmasked.

    text 0 .. 50294 (phi-1.5's pieces) but 50256, <|endoftext|>, which begins and ends a text; [PAD] 50295, <soi> 50296,
    <eoi> 50297, <sov> 50298, <eov> 50299, <t2i> 50300, <mmu> 50301, <t2v> 50302, <v2v> 50303, <lvg> 50304,
    picture 50305 .. 58496 (8,192 codes), mask 58497, which is our [place]

Text is causal; a picture's tokens see each other and the text before it. A mask predicts the code of its own place. The
pads of its rows are left out. 16x16 or 32x32 codes; any grid is taken here. Weights: drawing 1, understanding 1, text
alone 0.1; each is a mean over its own documents there.
"""
import functools

import numpy as np

from unitok.objectives.codes import control, prompt
from unitok.sequence import Part
from unitok.templates.template import Template, line_positions, picture, vocabulary

CONTROLS = ("[PAD]", "<soi>", "<eoi>", "<sov>", "<eov>", "<t2i>", "<mmu>", "<t2v>", "<v2v>", "<lvg>")
END = "<|endoftext|>"
VOCABULARY = vocabulary({END: 50256, **{name: 50295 + n for n, name in enumerate(CONTROLS)}, "[place]": 58497},
                        text=(range(0, 50256), range(50257, 50295)), image=(range(50305, 58497),))
_control = functools.partial(control, names=VOCABULARY.controls)


def text_to_image(text: np.ndarray, image: np.ndarray, hole: np.ndarray | None = None,
                  on_grid: bool = True) -> list[Part]:
  """<t2i> <|endoftext|> text <|endoftext|> <soi> <eoi> codes: loss on the masked ones.

  `hole` bool[h w]: what is masked; left out, all of it, the first step of drawing. <eoi> stands before the codes in the
  row and behind them by its position; the known codes come before the masks.
  """
  height, width = image.shape
  groups = np.zeros(image.shape, np.int32) if hole is None else np.where(hole, 0, -1).astype(np.int32)
  behind = line_positions(max(height, width) if on_grid else image.size, 1)
  codes = image if on_grid else image.ravel()
  return [_control("<t2i>"), _control(END), Part("text", text), _control(END),
          _control("<soi>"), *prompt(_control("<eoi>")._replace(positions=behind)),
          Part("image", codes, 1.0, groups=groups.reshape(codes.shape), together=True)]


def image_to_text(text: np.ndarray, image: np.ndarray, on_grid: bool = True) -> list[Part]:
  """<mmu> <soi> codes <eoi>, which see each other, then <|endoftext|> text <|endoftext|>, causal, with the loss."""
  shown = prompt(_control("<mmu>"), _control("<soi>"), *picture(image, 0.0, on_grid), _control("<eoi>"))
  return [*shown, _control(END, 1.0), Part("text", text, 1.0, end=END)]


def text_alone(text: np.ndarray) -> list[Part]:
  """<|endoftext|> text <|endoftext|>."""
  return [_control(END), Part("text", text, 0.1, end=END)]


TEMPLATE = Template(VOCABULARY, {"text_to_image": text_to_image, "image_to_text": image_to_text,
                                 "text_alone": text_alone})
