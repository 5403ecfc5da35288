"""Work of a ring of devices, counted; that it computes the same is in test_sharding.py, on eight devices."""
import numpy as np
import pytest

from tests.batches import documents
from tests.test_attention import causal, rule_of
from unitok.models.block_attention import SIZE, blocks_of
from unitok.models.ring_attention import balanced
from unitok.models.rule import Rule


def work(rule: Rule, devices: int) -> list[int]:
  """Pairs of blocks that each device looks at, over all pieces of keys."""
  pieces = [Rule(*(x[:, part] for x in rule)) for part in np.split(np.arange(rule.order.shape[1]), devices)]
  return [sum(int(blocks_of(mine, keys).count.sum()) for keys in pieces) for mine in pieces]


@pytest.mark.parametrize("devices", [2, 4])
def test_causal_work_is_even(devices):
  """A row of 2 S blocks: in its own order the last device has twice the first's and more, zigzag they are equal."""
  rule = rule_of(causal(2 * devices * SIZE))
  assert work(rule, devices) == [4 * n + 3 for n in range(devices)]
  assert work(balanced(rule, devices), devices) == [2 * devices + 1] * devices


def test_tokens_travel_whole():
  """Device s of 4 has pieces s and 7 - s; what belongs to a token goes with it."""
  before = documents(2, 16, 9)
  batch = balanced(before, 4)
  places = [0, 1, 14, 15, 2, 3, 12, 13, 4, 5, 10, 11, 6, 7, 8, 9]
  for one, other in zip(batch, before):
    assert one is other is None or np.array_equal(one, other[:, places])
