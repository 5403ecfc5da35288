"""Weights of their own for a picture's tokens: CogVLM's visual expert (Wang 2023, 2311.03079) and
Mixture-of-Transformers (Liang 2024, 2411.04996). Attention is over all tokens alike.

A token is a picture's where its id is one of the block "image"; control tokens and placeholders are not. Tokens are
sorted by kind, and each goes through its own weights alone, so the products are those of one set of weights and a
sixteenth more at most. Norms are shared, as in CogVLM; Mixture-of-Transformers has two.
"""
import functools

import jax.numpy as jnp
from flax import nnx

from unitok.models.experts import Kernel, Tokens, block_size, form_here, product, sort, swiglus, taken
from unitok.models.precision import Precision
from unitok.sharding import spread

KINDS = 2
"""The others' weights first, then the pictures'."""


def kinds(tokens: Tokens):
  """i32[b n 1]: whose weights a token takes; nobody's where it is padding."""
  return jnp.where(tokens.real, tokens.image.astype(jnp.int32), KINDS)[..., None]


def _apart(products, x, choices, kernel):
  """x [b n in] times each token's own of kernel f32[e in out]; zeros for nobody's."""
  form, flat = form_here(), x.reshape(-1, x.shape[-1])
  choices = choices.reshape(-1, 1)
  slots = sort(choices, len(kernel), block_size(choices.size, len(kernel), form), choices.size)
  out = product(taken(flat, slots.entry, slots.slot), kernel, slots, products, form)
  return taken(out, slots.slot[:, 0], slots.entry[:, None]).reshape(*x.shape[:-1], -1)


class Linear(nnx.Module):
  """x [b n in] -> [b n out]. `columns`: the devices along `tensor` have some numbers out each, else some numbers in."""

  def __init__(self, into: int, out: int, precision: Precision, rngs: nnx.Rngs, scale=1.0, columns: bool = True):
    self.kinds = Kernel(KINDS, into, out, rngs, scale)
    self.products, self.columns = precision.products, columns

  def __call__(self, x, tokens: Tokens):
    run, kernel = functools.partial(_apart, self.products), self.kinds.kernel[...]
    if self.columns:
      return spread(run, x, kinds(tokens), (), (kernel,), ("kinds in",), out="wide")
    return spread(run, x, kinds(tokens), (), (kernel,), ("kinds out",), into="wide")


class SwiGLU(nnx.Module):
  """x [b n w] -> [b n w]."""

  def __init__(self, options, precision: Precision, rngs: nnx.Rngs):
    width, hidden = options.width, options.hidden
    self.products = precision.products
    self.gate, self.up = Kernel(KINDS, width, hidden, rngs), Kernel(KINDS, width, hidden, rngs)
    self.down = Kernel(KINDS, hidden, width, rngs, 1.0 / options.layers)

  def __call__(self, x, tokens: Tokens):
    choices, kernels = kinds(tokens), (self.gate.kernel[...], self.up.kernel[...], self.down.kernel[...])
    return spread(functools.partial(swiglus, self.products), x, choices, (jnp.ones_like(choices, x.dtype),), kernels,
                  ("kinds in", "kinds in", "kinds out"))
