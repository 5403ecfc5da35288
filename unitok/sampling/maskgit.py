"""By confidence (MaskGIT, Chang 2022, 2202.04200), for models that learned the objective `parallel`.

A pass asks for all places that are left, whose placeholders see each other, and draws a code at each. Those it is surest
of stay, and are a group as the objective has it; the others are drawn anew by the next pass:

    left     0 1 2 3     0 2 3     2          places of a picture
    drawn    8 5 8 2     9 8 4     8          codes
    stay       5         9   4     8          1, 2 and 1 of them: their group

Unlike the paper's bidirectional model, a code sees its own group and what came before, never later ones. A pass computes
all places, those that are known too: their keys depend on the group that they came to be in.
"""
import jax.numpy as jnp
import numpy as np

from unitok.config import Sampling
from unitok.models.rule import Rule
from unitok.objectives.parallel import SCHEDULES
from unitok.sampling.groups import as_known
from unitok.sampling.strategy import Strategy, first_drawn
from unitok.sequence import FOREVER, Sequence

MASKGIT = Strategy(as_known, grouped=True, chooses=True)


def at_once(d: Sequence) -> bool:
  """Does the document ask for all of its codes in one group at its end?"""
  first = first_drawn(d)
  return bool((d.fills[first:] >= d.length).all() and (d.order[first:] == d.order[first]).all())


def known_behind(d: Sequence, sampling: Sampling, most: int) -> np.ndarray:
  """i32[most]: how many places are known behind each pass; sampling.passes of them, no more than there are places."""
  count = int((d.fills >= 0).sum())
  sizes = SCHEDULES[sampling.group_sizes](count, min(sampling.passes, count))
  return np.pad(np.cumsum(sizes), (0, most - len(sizes)), constant_values=count).astype(np.int32)


def regrouped(rule: Rule, places, turns, now) -> Rule:
  """The rule i32[b n] of one group of placeholders at bool[b n] `places`, as it is in pass `now` i32[b]: codes that stayed
  in pass `turns` i32[b n] are of that group, those of -1 are asked for by the placeholders of this pass."""
  known = turns >= 0
  order = rule.order + jnp.where(places, jnp.where(known, 2 * turns + 1, 2 * now[:, None]), 0)
  return Rule(order, jnp.where(places, order, rule.visible_from),
              jnp.where(places, jnp.where(known, FOREVER, order), rule.visible_until), rule.segment_ids)


def surest(confidence, left, count):
  """bool[b w]: the `count` i32[b] places of bool[b w] `left` with the largest f32[b w]; of equal ones the first."""
  ranked = jnp.argsort(jnp.where(left, -confidence, jnp.inf), axis=-1, stable=True)
  return left & (jnp.argsort(ranked, axis=-1) < count[:, None])
