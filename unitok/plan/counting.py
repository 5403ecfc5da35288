"""Products, parameters and bytes of a function, counted on its trace."""
import math
from collections.abc import Callable

import jax

KEY = jax.ShapeDtypeStruct((), jax.eval_shape(lambda: jax.random.key(0)).dtype)


def flops(function, *arguments) -> int:
  """Of the matrix products and convolutions of function(*arguments), a multiply-add is two.

  Arguments may be abstract; the longest branch of a condition counts. ValueError for a loop whose length only the data
  knows.
  """
  return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    name, out = equation.primitive.name, equation.outvars[0].aval if equation.outvars else None
    if name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      total += 2 * out.size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    elif name == "ragged_dot_general":     # a row of one side meets the matrix of its group alone
      (contracted, _), _ = equation.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
      rows, matrices = (equation.invars[n].aval for n in (0, 1))
      ragged = equation.params["ragged_dot_dimension_numbers"].lhs_ragged_dimensions[0]
      if ragged in contracted:             # [rows k], [rows m] -> [groups k m]
        total += 2 * rows.size * matrices.size // rows.shape[ragged]
      else:
        total += 2 * out.size * math.prod(rows.shape[axis] for axis in contracted)
    elif name == "conv_general_dilated":
      kernel, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
      total += 2 * out.size * kernel.size // kernel.shape[numbers.rhs_spec[0]] // equation.params["batch_group_count"]
    inner = [_flops(getattr(one, "jaxpr", one)) for value in equation.params.values()
             for one in (value if isinstance(value, (tuple, list)) else (value,))
             if hasattr(getattr(one, "jaxpr", one), "eqns")]
    if name == "while" and any(inner):
      raise ValueError("flops: a loop's length is known to the data alone; count a form without it")
    total += max(inner, default=0) if name == "cond" else equation.params.get("length", 1) * sum(inner)
  return total


def causal(count: Callable[[int], int], length: int) -> int:
  """What a row of so many tokens costs where each sees those up to itself, of count(l), whose rows see all pairs.

  count(l) = a l + b l², whose two numbers are found from one length and twice that; of the l² pairs l (l + 1) / 2 are
  seen: with a = 10, b = 4 and l = 3, count is 66 and this 30 + 4 · 6 = 54.
  """
  one, two = count(length), count(2 * length)
  pairs = (two - 2 * one) // 2             # b l²
  return one - pairs + pairs * (length + 1) // (2 * length)


def parameters(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def bytes_of(tree) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if leaf.dtype != KEY.dtype)


def kept(function, params) -> int:
  """Bytes that function(params) leaves for its backward pass beside the parameters, as traced: a compiler that fuses
  keeps less."""
  traced = jax.make_jaxpr(lambda params: jax.tree.leaves(jax.vjp(function, params)[1]))(params).jaxpr
  left = {id(var): var.aval for var in traced.outvars if var not in traced.invars}
  return sum(aval.size * aval.dtype.itemsize for aval in left.values())
