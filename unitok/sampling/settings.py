"""What settings ask for: groups of codes or one after another, a program and what it takes."""
import dataclasses

import jax

from unitok.config import Sampling
from unitok.sampling import STRATEGIES

OFF = dict(temperature=0.0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, guidance_scale=1.0, image_guidance_scale=1.0,
           guidance_interval=(0.0, 1.0), text_attention=0.0, choice_temperature=0.0)
"""Numbers that do nothing at this value: a program without one need not compute it, one with it takes it as an input."""

LAID_OUT = dict(strategy="", window=0, guesses="", passes=0, group_sizes="", group_order="", row_window=0)
"""Settings that tell how documents become columns; those that differ in nothing else are one program."""


def differs(value, off) -> bool:
  """Is a number, or a tuple of them, not this one? What a program takes as its input may be any."""
  return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)) or value != off


def on(sampling: Sampling, name: str) -> bool:
  """Does this number do anything?"""
  return differs(getattr(sampling, name), OFF[name])


def by_groups(sampling: Sampling) -> bool:
  """Are several codes drawn at once, from documents that ask for them so?"""
  return sampling.passes > 0 or sampling.strategy in STRATEGIES and STRATEGIES[sampling.strategy].grouped


def code_by_code(sampling: Sampling) -> Sampling:
  """The settings without groups of codes."""
  return dataclasses.replace(sampling, strategy="", passes=0) if by_groups(sampling) else sampling


def split(sampling: Sampling) -> tuple[Sampling, dict]:
  """(what the program is compiled for, the numbers that it takes): settings that differ in these numbers alone are one
  program. `dataclasses.replace` of both is the settings again, but for LAID_OUT."""
  given = {name: getattr(sampling, name) for name in OFF if on(sampling, name)}
  return dataclasses.replace(sampling, **LAID_OUT, **dict.fromkeys(given)), given
