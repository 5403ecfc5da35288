"""Windows over a picture larger than those a model learned from."""
import numpy as np

from unitok.sampling.windows import seed_of, windows_over


def drawn(known, shape):
  """i32[h w]: the window that draws each place, -1 where it is known; each window draws something beside something known,
  and lies inside."""
  out = np.where(known, -1, len(known) * known.size)
  some = known.any()
  for step, (row, column) in enumerate(windows_over(known, shape)):
    window = np.s_[row:row + shape[0], column:column + shape[1]]
    new = out[window] > step
    assert 0 <= row and 0 <= column and new.any() and not (some and new.all())
    out[window] = np.where(new, step, out[window])
    some = True
  return out


def test_windows_cover_all_that_is_unknown():
  """Whatever is known of a picture, nothing included; a picture smaller than the window is one."""
  rng = np.random.default_rng(0)
  for shape in ((4, 4), (2, 6), (3, 2)):
    for _ in range(30):
      known = np.zeros(rng.integers(shape, 13), bool)
      corner = [rng.integers(side + 1) for side in known.shape]
      known[corner[0]:corner[0] + rng.integers(5), corner[1]:corner[1] + rng.integers(5)] = True
      steps = drawn(known, shape)
      assert steps.max(initial=-1) < known.size and ((steps < 0) == known).all()
  assert windows_over(np.zeros((2, 3), bool), (4, 4)) == [(0, 0)]
  assert windows_over(np.ones((5, 5), bool), (4, 4)) == []


def test_windows_at_even_places():
  known = np.zeros((8, 12), bool)
  at = windows_over(known, (4, 4), 2)
  assert not (np.array(at) % 2).any() and len(at) < 24
  for row, column in at:
    known[row:row + 4, column:column + 4] = True
  assert known.all()


def test_half_of_a_window_is_known():
  assert windows_over(np.arange(8)[None] < 4, (1, 4)) == [(0, 2), (0, 4)]
  known = np.zeros((16, 40), bool)
  known[:, 12:28] = True
  assert sorted(windows_over(known, (16, 16))) == [(0, 0), (0, 4), (0, 20), (0, 24)]


def test_seeds():
  """The first window's is the picture's own; others differ from each other and from those of other seeds."""
  seeds = [seed_of(seed, step) for seed in range(50) for step in range(1, 20)]
  assert len(set(seeds)) == len(seeds) and seed_of(7, 0) == 7 and all(0 <= seed < 2**32 for seed in seeds)
