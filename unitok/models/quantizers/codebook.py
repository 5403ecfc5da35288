"""What quantizers share: the nearest code, gradients past the choice, running counts, revival of dead codes; and `size`,
`dim`, `books` and `update` of those that say nothing else."""
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

CELLS = 1 << 24
"""Scores of positions against codes held at a time (64 MiB): 2^18 codes take 64 positions together."""


class Quantized(NamedTuple):
  values: jax.Array               # f32[n d], with a gradient for z
  codes: jax.Array                # i32[n], or i32[n G] of G books
  losses: dict[str, jax.Array]    # each already weighted, to be added


def size(options) -> int:
  return options.codebook_size


def dim(options) -> int:
  return options.code_dim


def books(options) -> int:
  """Codes a position."""
  return 1


def several(options) -> int:
  """`options.books`. ValueError where there are none."""
  if options.books < 1:
    raise ValueError(f"quantizer.books: {options.books} must be 1 or more codes a position")
  return options.books


def at_one(plain: Callable) -> Callable:
  """Decorates a function of several books, whose last argument is the options: with one book it is `plain`."""
  def of(function):
    return functools.wraps(function)(lambda *args: (plain if args[-1].books == 1 else function)(*args))
  return of


def update(params, state, z, codes, step, key, options):
  """Uses are counted and nothing moves."""
  return params, {**state, "counts": counted(state["counts"], codes, options)}, jnp.zeros((), jnp.int32)


def chunks(z, size: int):
  """z f32[n d] -> (f32[m r d], bool[m r] not padding) with r · size within CELLS."""
  rows = min(max(CELLS // size, 1), len(z))
  pad = -len(z) % rows
  real = jnp.arange(len(z) + pad) < len(z)
  return jnp.pad(z, ((0, pad), (0, 0))).reshape(-1, rows, z.shape[1]), real.reshape(-1, rows)


def nearest(z, codebook):
  """i32[n]: the row of codebook f32[k d] closest to each z f32[n d] (Euclidean); ties take the lowest."""
  lengths = 0.5 * (codebook**2).sum(-1)
  search = lambda some: jnp.argmax(some @ codebook.T - lengths, -1).astype(jnp.int32)
  if z.shape[0] * codebook.shape[0] <= CELLS:
    return search(z)
  return jax.lax.map(search, chunks(z, codebook.shape[0])[0]).reshape(-1)[:z.shape[0]]


def unit(x):
  return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-12)


def straight_through(z, values):
  """`values` forward, the identity to z backward (van den Oord 2017, 1711.00937)."""
  return z + jax.lax.stop_gradient(values - z)


def rotated(z, values):
  """`values` forward; backward z is turned and stretched onto them, as if by a constant matrix (the rotation trick,
  Fifty 2024, 2410.06424, eq. 3-5), so that the gradient keeps its angle to the code."""
  stop = jax.lax.stop_gradient
  length = lambda x: jnp.sqrt((x**2).sum(-1, keepdims=True) + 1e-12)
  before, after = stop(unit(z)), stop(unit(values))
  middle = stop(unit(before + after))
  along = lambda axis: (z * axis).sum(-1, keepdims=True)
  return stop(length(values) / length(z)) * (z - 2 * middle * along(middle) + 2 * after * along(before))


GRADIENTS = {"straight_through": straight_through, "rotation": rotated}


def pull(z, values, options) -> dict[str, jax.Array]:
  """||sg(z) - e||² + commitment_weight ||z - sg(e)||², means over the positions (van den Oord 2017, eq. 3)."""
  stop = jax.lax.stop_gradient
  return {"codebook": ((stop(z) - values) ** 2).sum(-1).mean(),
          "commitment": options.commitment_weight * ((z - stop(values)) ** 2).sum(-1).mean()}


def use_counts(codes, size: int):
  """f32[k]: how often each code occurs."""
  return jnp.zeros(size, jnp.float32).at[codes].add(1.0)


def counted(counts, codes, options):
  """The running uses a step after one with these codes."""
  return options.decay * counts + (1 - options.decay) * use_counts(codes, counts.shape[0])


def revive(codebook, counts, z, step, key, options):
  """Puts codes that are hardly used where they are missing, every `revive_every` steps.

  codebook f32[k d], counts f32[k] running uses a step, z f32[n d] the vectors of this batch. A code is dead when its
  count is below `revive_below` of the mean count. `revive` says where it goes, see REVIVALS.
  Returns (codebook, counts, dead bool[k]).
  """
  def put(codebook, counts):
    dead = counts < options.revive_below * counts.mean()
    return *REVIVALS[options.revive](codebook, counts, z, dead, key), dead

  due = (step % max(options.revive_every, 1) == 0) & (options.revive_every > 0) & (step > 0)
  return jax.lax.cond(due, put, lambda *same: (*same, jnp.zeros(counts.shape, bool)), codebook, counts)


def _to_far(codebook, counts, z, dead, key):
  """Onto vectors of the batch, drawn with probability proportional to the squared distance from the nearest code
  (k-means++, Arthur 2007), with the mean count, so that it lives long enough to be used."""
  error = ((z - codebook[nearest(z, codebook)]) ** 2).sum(-1)
  at = jnp.searchsorted(jnp.cumsum(error), jax.random.uniform(key, counts.shape) * error.sum())
  at = jnp.minimum(at, z.shape[0] - 1)
  return jnp.where(dead[:, None], z[at], codebook), jnp.where(dead, counts.mean(), counts)


def _by_split(codebook, counts, z, dead, key):
  """Beside the most used codes, one each, sharing their counts (UViM, Kolesnikov 2022, 2205.10337). As many as there are
  codes to split; the others stay dead until the next time."""
  size = counts.shape[0]
  busiest = jnp.argsort(-jnp.where(dead, -1.0, counts))
  rank = jnp.cumsum(dead) - 1                                       # of a dead code among the dead
  fits = dead & (rank < size - dead.sum())
  source = busiest[jnp.where(fits, rank, 0)]
  aside = 0.01 * jax.random.normal(key, codebook.shape) * jnp.abs(codebook).mean()
  halved = jnp.where(jnp.zeros(size).at[source].max(fits) > 0, counts / 2, counts)
  return (jnp.where(fits[:, None], codebook[source] + aside, codebook), jnp.where(fits, counts[source] / 2, halved))


REVIVALS = {"far": _to_far, "split": _by_split}
