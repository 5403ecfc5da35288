"""Boxes <-> location codes."""
import numpy as np
import pytest

from unitok.modalities.location import BINS, LocationModality, overlap, vectors

LOCATION = LocationModality()


def test_worked_example():
  assert LOCATION.encode((0.25, 0.0, 0.5, 1.0)).tolist() == [0, 256, 1023, 512]


def test_boxes_come_back_to_half_a_bin():
  corners = np.sort(np.random.default_rng(0).random((500, 2, 2)), 1)
  boxes = np.concatenate([corners[:, 0], corners[:, 1]], -1)
  codes = LOCATION.encode(boxes)
  assert codes.dtype == np.int32 and codes.min() >= 0 and codes.max() < BINS
  assert np.abs(LOCATION.decode(codes) - boxes).max() <= 0.5 / BINS + 1e-6
  every = np.arange(BINS)
  middles = LOCATION.decode(np.stack([every] * 4, -1))
  assert np.array_equal((middles * BINS).astype(int), np.stack([every] * 4, -1))


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.01), (0, float("nan"), 1, 1)])
def test_no_box(box):
  with pytest.raises(ValueError, match="must be x0 < x1 and y0 < y1, shares of the picture in 0 .. 1"):
    LOCATION.encode([(0, 0, 1, 1), box])


def test_foreign_code():
  with pytest.raises(ValueError, match="location: code 1024 is not in 0 .. 1023"):
    LOCATION.decode([0, 0, 1024, 1])


def test_overlap():
  """By hand: a quarter shared of two that cover seven quarters; itself; apart."""
  one = (0.0, 0.0, 0.5, 0.5)
  assert overlap(one, (0.25, 0.25, 0.75, 0.75)) == pytest.approx(1 / 7)
  assert overlap(one, one) == pytest.approx(1) and overlap(one, (0.5, 0.5, 1, 1)) == 0
  assert overlap([one, one], [one, (0.5, 0, 1, 1)]).tolist() == pytest.approx([1, 0])


def test_vectors_of_near_bins_are_near():
  found = vectors()
  cosine = np.corrcoef(found)
  assert (cosine[np.arange(1023), np.arange(1, 1024)] > 0.98).all()
  for step, most in ((50, 0.9), (200, 0.5)):
    assert cosine[np.arange(1024 - step), np.arange(step, 1024)].mean() < most
