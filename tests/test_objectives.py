"""What holds for every objective."""
import numpy as np
import pytest

from unitok.objectives import NEEDS, OBJECTIVES, possible
from unitok.objectives.codes import Codes
from unitok.objectives.infill import random_rectangles
from unitok.sequence import build, visible
from unitok.vocab import make_vocabulary

V = make_vocabulary({"text": 100, "image": 1000}, {})


def distinct_codes(rng, grid=(4, 5), length=6):
  """Every code occurs once, so that a target can be found among the inputs."""
  picture = rng.permutation(1000)[:grid[0] * grid[1]].reshape(grid).astype(np.int32)
  return Codes((rng.permutation(100)[:length].astype(np.int32),), picture)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_target_is_not_visible_to_its_predictor(name):
  """loss weight > 0 => the target's own input token, if there is one, is not visible to its predictor."""
  found = 0
  for seed in range(20):
    rng = np.random.default_rng(seed)
    s = build(OBJECTIVES[name](distinct_codes(rng), rng, 0.1), V)
    seen = visible(s.order, s.visible_from, s.visible_until, np.ones(s.length, int))
    for i in np.flatnonzero(s.loss_weights):
      own = np.flatnonzero(s.inputs == s.targets[i])
      assert len(own) <= 1
      assert not seen[i, own].any(), (name, seed, i)
      found += len(own)
  assert found


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_loss_counts_once(name):
  """Nothing is learned twice, and what is learned is legal in the block it says."""
  for seed in range(20):
    rng = np.random.default_rng(seed)
    s = build(OBJECTIVES[name](distinct_codes(rng), rng, 0.1), V)
    at = np.flatnonzero(s.loss_weights)
    assert len(set(s.targets[at])) == len(at) > 0
    for i in at:
      assert V.allowed(V.blocks[s.blocks[i]].name)[s.targets[i]] or s.targets[i] == s.ends[i]
    assert (s.order[1:] >= s.order[:-1]).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_a_placeholder_asks_for_stands_at_its_own_position(name):
  rng = np.random.default_rng(1)
  s = build(OBJECTIVES[name](distinct_codes(rng), rng, 0.0), V)
  for i in np.flatnonzero(s.inputs == V.special("[place]")):
    own = np.flatnonzero(s.inputs == s.targets[i])
    assert all(np.array_equal(s.positions[i], s.positions[j]) for j in own)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_same_rng_same_parts(name):
  codes = distinct_codes(np.random.default_rng(0))
  one, two = (build(OBJECTIVES[name](codes, np.random.default_rng(3), 0.5), V) for _ in range(2))
  assert all(np.array_equal(a, b) for a, b in zip(one, two))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_needs(name):
  """An objective runs with what it says it needs, and is not chosen without."""
  whole = distinct_codes(np.random.default_rng(0))
  least = whole._replace(text=whole.text if "text" in NEEDS[name] else (), image=whole.image if "image" in NEEDS[name] else None)
  assert possible(name, least) and possible(name, whole) and not possible(name, Codes())
  build(OBJECTIVES[name](least, np.random.default_rng(0), 0.0), V)
  assert NEEDS.keys() == OBJECTIVES.keys()


def test_dropped_captions():
  """A dropped caption leaves no token; infill drops at least three in ten."""
  codes = distinct_codes(np.random.default_rng(0))
  def without(name, drop):
    rng = np.random.default_rng(0)
    return np.mean([sum(len(p.codes) for p in OBJECTIVES[name](codes, rng, drop) if p.block == "text") == 0
                    for _ in range(500)])
  assert without("text_to_image", 0.0) == 0 and without("text_to_image", 1.0) == 1
  assert 0.05 < without("text_to_image", 0.1) < 0.15
  assert 0.24 < without("infill", 0.1) < 0.36
  assert without("image_to_text", 1.0) == without("text", 1.0) == 0


def test_holes():
  for grid in ((2, 2), (8, 8), (3, 7)):
    for seed in range(200):
      hole = random_rectangles(grid, np.random.default_rng(seed))
      assert hole.shape == grid and 0 < hole.sum() < hole.size, (grid, seed)
  codes = distinct_codes(np.random.default_rng(0))
  asked = codes._replace(image=np.where(np.arange(20).reshape(4, 5) == 7, -1, codes.image))
  part = OBJECTIVES["infill"](asked, np.random.default_rng(0), 1.0)[-1]
  assert np.flatnonzero(part.hole).tolist() == [7]   # what is to be drawn is the hole, and the caption stays
