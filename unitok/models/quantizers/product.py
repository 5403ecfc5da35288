"""Product quantization (Jegou 2011, 10.1109/TPAMI.2010.57): the numbers in equal parts, a book of plain VQ for each.

A position has K^G values for G · K rows of d / G numbers.
"""
import dataclasses

import jax

from unitok.models.quantizers import vq
from unitok.models.quantizers.codebook import Quantized, at_one, several

__all__ = ["books", "init", "lookup", "quantize", "update"]


def books(options) -> int:
  return options.books


def _of_part(options):
  return dataclasses.replace(options, code_dim=options.code_dim // options.books)


def _parts(z, options):
  """f32[n d] -> f32[G n d/G]."""
  return z.reshape(len(z), options.books, -1).swapaxes(0, 1)


def _whole(parts):
  """The inverse of `_parts`."""
  return parts.swapaxes(0, 1).reshape(parts.shape[1], -1)


@at_one(vq.init)
def init(key, options):
  if options.code_dim % several(options):
    raise ValueError(f"quantizer.code_dim: {options.code_dim} numbers do not split into {options.books} books of as "
                     f"many each; take a multiple of quantizer.books, e.g. "
                     f"{max(options.code_dim // options.books, 1) * options.books}")
  return jax.vmap(lambda one: vq.init(one, _of_part(options)))(jax.random.split(key, options.books))


@at_one(vq.quantize)
def quantize(params, state, z, options) -> Quantized:
  """codes i32[n G]. The losses add up over the books: they are squares, so they are those of the whole vector."""
  one = lambda book: vq.quantize(*book, _of_part(options))
  values, codes, losses = jax.lax.map(one, (params, state, _parts(z, options)))
  return Quantized(_whole(values), codes.T, {name: loss.sum() for name, loss in losses.items()})


@at_one(vq.update)
def update(params, state, z, codes, step, key, options):
  one = lambda book: vq.update(*book[:4], step, book[4], _of_part(options))
  keys = jax.random.split(key, options.books)
  params, state, revived = jax.lax.map(one, (params, state, _parts(z, options), codes.T, keys))
  return params, state, revived.sum()


@at_one(vq.lookup)
def lookup(params, state, codes, options):
  return _whole(jax.vmap(lambda book, codes: book[codes], (0, 1))(params["codebook"], codes))
