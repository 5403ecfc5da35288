"""The Fréchet distance between two sets of features, in float64 (Heusel 2017, 1706.08500, eq. 6; Dowson 1982)."""
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
  """Of n features f64[d]: their mean, and the sum of the outer products of their deviations from it."""
  count: int
  mean: np.ndarray      # f64[d]
  scatter: np.ndarray   # f64[d d]

  @classmethod
  def of(cls, features) -> "Moments":
    """features f[n d], n >= 1."""
    x = np.asarray(features, np.float64)
    mean = x.mean(0)
    return cls(len(x), mean, (x - mean).T @ (x - mean))

  def __add__(self, other: "Moments") -> "Moments":
    """Those of both sets together (Chan 1983)."""
    n, apart = self.count + other.count, other.mean - self.mean
    between = np.outer(apart, apart) * (self.count * other.count / n)
    return Moments(n, self.mean + apart * (other.count / n), self.scatter + other.scatter + between)

  @property
  def covariance(self) -> np.ndarray:
    """f64[d d], with n - 1 below."""
    return self.scatter / (self.count - 1)


def distance(a: Moments, b: Moments) -> float:
  """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of the Gaussians with these moments, at least 0.

  With C = F F^T the last trace is the sum of the singular values of F_a^T F_b. Their squares are the eigenvalues of the
  symmetric F_a^T C_b F_a, which are those of C_a C_b other than 0; no root is taken of a rounding error, and with
  few features the matrix is small. ValueError for fewer than 2 features on a side, or features that are not finite.
  """
  if min(a.count, b.count) < 2:
    raise ValueError(f"Fréchet distance: {a.count} and {b.count} features, must be 2 or more of each; measure on more "
                     "pictures")
  if not all(np.isfinite(x).all() for x in (a.mean, b.mean, a.scatter, b.scatter)):
    raise ValueError("Fréchet distance: features are not finite numbers; the weights of the network are damaged")
  cross = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False).sum()
  apart = ((a.mean - b.mean) ** 2).sum()
  return max(float(apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross), 0.0)


def _factor(covariance: np.ndarray) -> np.ndarray:
  """F f64[d r] with F F^T = covariance, r its rank: eigenvalues within rounding of 0 are left out."""
  values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
  kept = values > max(values.max(), 0.0) * len(values) * np.finfo(np.float64).eps
  return vectors[:, kept] * np.sqrt(values[kept])
