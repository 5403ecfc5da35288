"""Figures with their number of cases and 95 % interval, and the nested dictionary they are kept in."""
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Z = 1.959964
"""Two-sided 95 % of a normal distribution."""


def wilson(right: int, n: int) -> tuple[float, float]:
  """95 % interval of a share `right` of n (Wilson 1927); it stays within 0..1 and is no point at 0 or n.

  n = 0 says nothing: 0 .. 1. wilson(9, 10) is 0.596 .. 0.982.
  """
  if not n:
    return 0.0, 1.0
  share, z2 = right / n, Z * Z
  middle = (share + z2 / (2 * n)) / (1 + z2 / n)
  half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
  return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def mean_interval(values, weights=None) -> tuple[float, float, float]:
  """(mean, low, high) of f[n] values over independent cases, normal 95 % interval.

  weights f[n]: how many things a case holds; the mean is over the things, the spread over the cases, whose things go
  together (the ratio estimator). n = 1 gives an interval of width 0.
  """
  values = np.asarray(values, np.float64)
  weights = np.ones_like(values) if weights is None else np.asarray(weights, np.float64)
  n, total = len(values), weights.sum()
  mean = float((weights * values).sum() / total)
  spread = math.sqrt(float(((weights * (values - mean)) ** 2).sum()) * n / max(n - 1, 1)) / total
  return mean, mean - Z * spread, mean + Z * spread


def figure(name: str, values, weights=None) -> dict[str, float | int]:
  """{name, name_n, name_low, name_high} of cases that are right or wrong (bool[n], Wilson) or of numbers f[n].

  n is the number of cases. Cases whose value is not finite raise ValueError; without any case it is {}.
  """
  values = np.asarray(values)
  if not values.size:
    return {}
  if not np.isfinite(values.astype(np.float64)).all():
    raise ValueError(f"{name}: {int((~np.isfinite(values)).sum())} of {values.size} cases are not finite numbers; the "
                     "weights are damaged, or were trained with too high a learning rate")
  if values.dtype == bool and weights is None:
    mean, (low, high) = float(values.mean()), wilson(int(values.sum()), values.size)
  else:
    mean, low, high = mean_interval(values, weights)
  return {name: mean, f"{name}_n": int(values.size), f"{name}_low": low, f"{name}_high": high}


def clipped(figures: dict[str, float | int]) -> dict[str, float | int]:
  """The figures of a score in 0..1, with the interval cut to it."""
  return {name: value if name.endswith("_n") else min(max(value, 0.0), 1.0) for name, value in figures.items()}


def merge(*many: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dictionaries as one; later ones win where both have a leaf."""
  out: dict[str, Any] = {}
  for one in many:
    for name, value in one.items():
      both = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
      out[name] = merge(out[name], value) if both else dict(value) if isinstance(value, Mapping) else value
  return out


def look_up(metrics: Mapping[str, Any], key: str) -> float | int | None:
  """The number under "a.b.c", or None."""
  value: Any = metrics
  for name in key.split("."):
    value = value.get(name) if isinstance(value, Mapping) else None
  return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def plain(value: Any) -> Any:
  """For JSON: numpy numbers as Python's, what is not finite as None."""
  if isinstance(value, Mapping):
    return {str(name): plain(v) for name, v in value.items()}
  if isinstance(value, (list, tuple, np.ndarray)):
    return [plain(v) for v in value]
  if isinstance(value, np.generic):
    value = value.item()
  return None if isinstance(value, float) and not math.isfinite(value) else value
