"""The Fréchet distance against closed forms and what it must not change under."""
import numpy as np
import pytest

from unitok.evaluation.frechet import Moments, distance

RNG = np.random.default_rng(0)
D = 6


def gaussian(mean, covariance) -> Moments:
  return Moments(11, np.asarray(mean, float), 10 * np.asarray(covariance, float))


def turn() -> np.ndarray:
  return np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]


def test_moments():
  """numpy's, whatever the batches."""
  x = RNG.normal(size=(40, D)) * 3 + 1000
  for cuts in ((40,), (1, 40), (7, 8, 30, 40)):
    parts = [Moments.of(part) for part in np.split(x, cuts[:-1])]
    found = sum(parts[1:], parts[0])
    assert found.count == 40
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-9)


def test_commuting_covariances():
  """Of Gaussians that share their axes it is |m1 - m2|^2 + sum of (sigma1 - sigma2)^2, with axes of no extent too."""
  q, means = turn(), RNG.normal(size=(2, D))
  for pair in (((1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1)), ((3, 2, 1, 0, 0, 0), (0, 2, 5, 1, 0, 0))):
    s1, s2 = np.array(pair, float)
    want = ((means[0] - means[1]) ** 2).sum() + ((s1 - s2) ** 2).sum()
    got = distance(gaussian(means[0], (q * s1**2) @ q.T), gaussian(means[1], (q * s2**2) @ q.T))
    assert got == pytest.approx(want, rel=1e-12)


def test_two_dimensions():
  """Covariances that do not commute: in two dimensions tr (AB)^(1/2) = (tr AB + 2 sqrt(det AB))^(1/2)."""
  a, b = np.array([[2.0, 0.5], [0.5, 1]]), np.array([[1.0, -0.7], [-0.7, 3]])
  want = np.trace(a + b) - 2 * np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
  assert distance(gaussian([0, 0], a), gaussian([0, 0], b)) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("n", [30, 4])      # 4: fewer than there are dimensions
def test_invariances(n):
  x, y, q = RNG.normal(size=(n, D)), 2 * RNG.normal(size=(n + 2, D)) + 1, turn()
  of = lambda a, b: distance(Moments.of(a), Moments.of(b))
  want = of(x, y)
  assert of(x, x) == pytest.approx(0, abs=1e-12) and of(x, x + 3) == pytest.approx(9 * D)
  assert of(x, x[::-1]) == pytest.approx(0, abs=1e-12) and want > 1
  assert of(y, x) == pytest.approx(want, rel=1e-12)
  assert of(x @ q + 5, y @ q + 5) == pytest.approx(want, rel=1e-10)       # turned and moved, both alike
  assert of(3 * x, 3 * y) == pytest.approx(9 * want, rel=1e-12)


def test_bad_features():
  one, x = Moments.of(np.ones((1, D))), Moments.of(RNG.normal(size=(4, D)))
  with pytest.raises(ValueError, match="4 and 1 features, must be 2 or more of each"):
    distance(x, one)
  with pytest.raises(ValueError, match="not finite numbers"):
    distance(x, x._replace(mean=x.mean * np.nan))
