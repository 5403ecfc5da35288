"""The one attention rule. Token j is visible to token i exactly when

    segment_ids[j] == segment_ids[i]  and  visible_from[j] <= order[i] <= visible_until[j]
"""
from typing import NamedTuple

import jax


class Rule(NamedTuple):
  """The integers of n tokens a row, i32[b n] each."""
  order: jax.Array
  visible_from: jax.Array
  visible_until: jax.Array
  segment_ids: jax.Array


NOTHING = Rule(-1, 2**30, -1, 0)
"""Padding: sees nothing and is seen by nobody."""


def rule_of(batch) -> Rule:
  return Rule(batch.order, batch.visible_from, batch.visible_until, batch.segment_ids)


def visible(queries: Rule, keys: Rule):
  """bool[b q k]."""
  order = queries.order[:, :, None]
  return ((queries.segment_ids[:, :, None] == keys.segment_ids[:, None, :])
          & (keys.visible_from[:, None, :] <= order) & (order <= keys.visible_until[:, None, :]))
