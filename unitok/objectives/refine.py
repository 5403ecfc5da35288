"""A picture in detail: [refine] caption, the picture at half its sides, then group by group the codes of the picture itself.

The coarse codes are seen by all that follows and stand at every second row and column, so that each is as far from the
codes it covers as all others from theirs. The groups are those of `parallel`: a model draws a picture of many codes in few
passes, window by window (CogView2, 2204.14217, which has 60 x 60 codes from 20 x 20 by local groups).
"""
import numpy as np

from unitok.config import Objectives
from unitok.objectives.codes import Codes, caption_or_none, control, picture, shown
from unitok.objectives.parallel import random_groups
from unitok.sequence import Part


def refine(codes: Codes, rng: np.random.Generator, options: Objectives) -> list[Part]:
  """The groups are `codes.groups` where given (-1 is context); else by chance, of a random window where the options have
  one."""
  caption = caption_or_none(codes, rng, options.caption_drop)
  image, coarse, groups = codes.image, codes.coarse, codes.groups
  if groups is None:
    if options.refine_window:
      sides = [min(options.refine_window, side) for side in codes.grid]
      top, left = (2 * int(rng.integers((side - part) // 2 + 1)) for side, part in zip(codes.grid, sides))
      image, coarse = part_of(image, coarse, (top, left), sides)
    groups = random_groups(image.shape[:2], rng, options)
  before, fine = shown(coarse, options), picture(image, options, groups=groups)
  before[-2] = before[-2]._replace(scale=2 * fine[-1].scale)
  return [control("[refine]"), Part("text", caption), *before, *fine]


def part_of(image: np.ndarray, coarse: np.ndarray, at: tuple[int, int], sides) -> tuple[np.ndarray, np.ndarray]:
  """The window of i32[h w …] that begins at an even place, and the part of i32[h/2 w/2 …] that covers it."""
  (top, left), (height, width) = at, sides
  below, right = -(-(top + height) // 2), -(-(left + width) // 2)
  return image[top:top + height, left:left + width], coarse[top // 2:below, left // 2:right]
