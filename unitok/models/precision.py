"""In which numbers a network computes: activations, and the inputs of its matrix products.

Products always add up in float32, and parameters, softmax, losses and averages stay float32. On a CPU with
bfloat16 matrix units (Intel's AMX) products of bfloat16 run 2 to 5 times faster than of float32, as long as the result
is float32 and no operand is transposed; all else is slower in bfloat16 there. Hence `mixed`: float32 activations,
bfloat16 in the products alone.
"""
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint

from unitok.models import int8
from unitok.sharding import devices

FEW = 64           # rows of a product below which bfloat16 is slower than float32 on a CPU
ONE_BY_ONE = 3     # rows that are faster each by itself: from 4 on reading the matrix again costs more


class Precision(NamedTuple):
  activations: jnp.dtype
  products: jnp.dtype
  cache: jnp.dtype | None = None      # of keys and values; None: as activations


PRECISIONS = {"float32": Precision(jnp.dtype("float32"), jnp.dtype("float32")),
              "bfloat16": Precision(jnp.dtype("bfloat16"), jnp.dtype("bfloat16")),
              "mixed": Precision(jnp.dtype("float32"), jnp.dtype("bfloat16"))}
FLOAT32 = PRECISIONS["float32"]


def choose(name: str, mixed: bool = True) -> Precision:
  """The precision of Config.compute_dtype; `auto` is bfloat16 on GPU and TPU, on a CPU mixed where that is allowed and
  the units are there, else float32."""
  if name == "auto":
    name = "bfloat16" if jax.default_backend() != "cpu" else "mixed" if mixed and _matrix_units() else "float32"
  return PRECISIONS[name]


def _matrix_units() -> bool:
  try:
    return "amx_bf16" in Path("/proc/cpuinfo").read_text()
  except OSError:   # no Linux
    return False


def linear(into: int, out: int | tuple[int, ...], precision: Precision, rngs: nnx.Rngs, bias: bool = False, **options):
  """nnx.Linear in that precision; with several sides out, whose kernel [into *out] a mesh may split by any of them,
  nnx.LinearGeneral; int8.Linear where products are of int8 (no bias)."""
  if precision.products == jnp.int8:
    return int8.Linear(into, out, precision.activations)
  mixed = precision.activations != precision.products
  several = nnx.Linear if isinstance(out, int) else nnx.LinearGeneral
  return several(into, out, use_bias=bias, dtype=precision.activations, rngs=rngs,
                 dot_general=_dot_general if mixed else _flat, **options)


def _flat(x, w, dimensions, precision=None, **_):
  """x [… k] times w [k …], as one with [k n] where no mesh splits that: a sixth faster on a CPU."""
  if devices("tensor") > 1:
    return jax.lax.dot_general(x, w, dimensions, precision)
  rows, columns = x.reshape(-1, x.shape[-1]), w.reshape(len(w), -1)
  return one_by_one(rows, columns).reshape(*x.shape[:-1], *w.shape[1:])


def one_by_one(x, w):
  """x [n k] times w [k m]. On a CPU up to ONE_BY_ONE rows each by itself: XLA's product of a row and a matrix reads that
  2 to 3 times as fast as its product of two rows and a matrix."""
  if len(x) > ONE_BY_ONE or jax.default_backend() != "cpu":
    return x @ w
  return jnp.stack([row @ w for row in x])


def _dot_general(x, w, dimensions, precision=None, **_):
  """x [… k] times w [k …]: what nnx.Linear asks of lax.dot_general."""
  del dimensions, precision
  rows, columns = x.reshape(-1, x.shape[-1]), w.reshape(len(w), -1)
  return (product(rows, columns) if len(rows) >= FEW else one_by_one(rows, columns)).reshape(*x.shape[:-1], *w.shape[1:])


@jax.custom_vjp
def product(x, w):
  """f32[n k] times f32[k m], both rounded to bfloat16, added up in float32; so are both gradients."""
  return _dot(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))


def _forward(x, w):
  x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
  return _dot(x, w), (x, w)


def _backward(kept, grad):
  x, w = kept
  grad = grad.astype(jnp.bfloat16)
  return jax.lax.dot_general(grad, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32), _dot(turned(x), grad)


product.defvjp(_forward, _backward)


def _dot(a, b):
  return jax.lax.dot(a, b, preferred_element_type=jnp.float32)


def turned(x):
  """x [… n k] -> [… k n], written out: folded into a product on a CPU it takes a path that is 2.5 times slower."""
  return with_layout_constraint(x.swapaxes(-1, -2), Layout(tuple(range(x.ndim))))
