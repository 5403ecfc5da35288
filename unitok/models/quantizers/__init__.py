"""Quantizers behind one interface: continuous vectors to codes and back.

    init(key, options)                      -> (params, state)   params are trained, state is carried
    quantize(params, state, z, options)     -> Quantized         pure, straight-through
    update(params, state, z, codes, step, key, options) -> (params, state, revived)
    lookup(params, state, codes, options)   -> values            what `quantize` returned for these codes

z is f32[n d] and codes i32[n], or i32[n G] where `books(options)` is G > 1.
"""
from typing import Callable, NamedTuple

from unitok.models.quantizers import bsq, codebook, ema, fsq, ibq, l2, lfq, product, residual, simvq, vq
from unitok.models.quantizers.codebook import Quantized


class Quantizer(NamedTuple):
  init: Callable
  quantize: Callable
  update: Callable
  lookup: Callable
  size: Callable      # options -> number of codes of a book
  dim: Callable       # options -> d
  books: Callable     # options -> G, codes a position


def _of(module) -> Quantizer:
  """What the module has, and of `codebook` what it leaves out."""
  return Quantizer(*(getattr(module, name, None) or getattr(codebook, name) for name in Quantizer._fields))


QUANTIZERS: dict[str, Quantizer] = {
    "l2": _of(l2), "vq": _of(vq), "ema": _of(ema), "simvq": _of(simvq), "fsq": _of(fsq), "lfq": _of(lfq),
    "bsq": _of(bsq), "ibq": _of(ibq), "residual": _of(residual), "product": _of(product)}
