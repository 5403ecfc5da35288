"""Matrix products in int8, for drawing: weights by output channel, activations by row, sums in int32 (W8A8: LLM.int8,
Dettmers 2022, 2208.07339, without its outliers apart: these models have QK-norm and RMSNorm before every product).

On a CPU a product of 2 rows is 2 to 3 times as fast as in float32, with 64 rows 1.6 to 1.8 times; weights alone in int8
are slower than float32 there. A quarter of the memory in any case.
"""
import math

import jax
import jax.numpy as jnp
from flax import nnx

LEVELS = 127


def quantized(x):
  """[… k] -> (int8[… k], scale f32[…]) with x ≈ int8 · scale; the largest of a row is ±127."""
  x = x.astype(jnp.float32)
  scale = jnp.maximum(jnp.abs(x).max(-1), 1e-12) / LEVELS
  return jnp.round(x / scale[..., None]).astype(jnp.int8), scale


class Linear(nnx.Module):
  """x [… k] -> [… *out]. Its kernel lies by rows out, int8[m k] with m the product of out: as the product reads it."""

  def __init__(self, into: int, out: int | tuple[int, ...], dtype):
    self.out, self.dtype = (out,) if isinstance(out, int) else out, dtype
    many = math.prod(self.out)
    self.kernel = nnx.Param(jnp.zeros((many, into), jnp.int8))
    self.scale = nnx.Param(jnp.zeros(many, jnp.float32))

  def __call__(self, x):
    rows, scale = quantized(x.reshape(-1, x.shape[-1]))
    sums = jax.lax.dot_general(rows, self.kernel[...], (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)
    out = sums.astype(jnp.float32) * scale[:, None] * self.scale[...]
    whole = out.shape[1] == math.prod(self.out)      # or some columns alone
    return out.reshape(*x.shape[:-1], *(self.out if whole else (-1,))).astype(self.dtype)


def to_int8(like, params):
  """params with the kernels that are int8 in the tree `like`, of arrays or their shapes: [(layers) k *out] -> {kernel
  int8[(layers) m k], scale f32[(layers) m]}."""
  if not isinstance(like, dict):
    return params
  if {"kernel", "scale"} <= like.keys() and like["kernel"].dtype == jnp.int8:
    stacked, kernel = like["kernel"].shape[:-2], params["kernel"]
    into = kernel.shape[len(stacked)]
    values, scale = quantized(kernel.reshape(*stacked, into, -1).swapaxes(-1, -2))
    return {"kernel": values, "scale": scale}
  return {name: to_int8(one, params[name]) for name, one in like.items()}
