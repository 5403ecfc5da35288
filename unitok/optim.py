"""Schedules, the decay mask, the optimizer."""
import math
import re

import jax
import jax.numpy as jnp
import optax

from unitok.config import Train
from unitok.models.precision import turned
from unitok.sharding import path_name


def schedule(train: Train):
  """Linear warm-up from 0, then a cosine down to `final_share` of the peak at the last step."""
  warmup = min(train.warmup_steps, max(train.steps - 1, 0))
  return optax.warmup_cosine_decay_schedule(0.0, train.learning_rate, warmup, max(train.steps, warmup + 1),
                                            train.learning_rate * train.final_share)


def decay_mask(params):
  """True for matrices and kernels; norms, biases, embeddings and codebooks are not decayed."""
  def decays(path, leaf):
    return path_name(path).endswith("kernel")
  return jax.tree_util.tree_map_with_path(decays, params)


def frozen_mask(params, patterns: tuple[str, ...]):
  """True for parameters whose path matches a pattern. ValueError for a pattern that matches none."""
  names = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
  for pattern in patterns:
    if not any(re.search(pattern, name) for name in names):
      raise ValueError(f"init.frozen: {pattern!r} matches no parameter; they are {', '.join(names[:6])} …")
  return jax.tree_util.tree_map_with_path(
      lambda path, _: any(re.search(p, path_name(path)) for p in patterns), params)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Jordan's quintic: four steps leave singular values above 0.005 of the norm within 0.66 .. 1.1."""


def orthogonalized(x, dtype=jnp.float32, steps: int = 4):
  """U Vᵀ of x = U S Vᵀ, nearly, for each matrix of f32[… in out], by Newton-Schulz steps whose factors have `dtype`."""
  def times(how, a, b):
    return jnp.einsum(how, a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)

  tall, (one, three, five) = x.shape[-2] > x.shape[-1], NEWTON_SCHULZ
  y = turned(x) if tall else x
  y = y / (jnp.linalg.norm(y, axis=(-2, -1), keepdims=True) + 1e-8)
  for _ in range(steps):
    square = times("...ik,...jk->...ij", y, y)
    y = one * y + times("...ij,...jk->...ik", three * square + five * times("...ij,...jk->...ik", square, square), y)
  return y.swapaxes(-2, -1) if tall else y


def _muon(dtype) -> optax.GradientTransformation:
  """Orthogonalised Nesterov momentum (Jordan 2024) of stacked matrices [… in out]; scaled to a root mean square of 0.2,
  as AdamW's updates have (Liu 2025, 2502.16982), so that one learning rate serves both."""
  def one(path, momentum):
    x = momentum.reshape(*_matrix(path_name(path), momentum.shape))
    return (orthogonalized(x, dtype) * 0.2 * max(x.shape[-2:])**0.5).reshape(momentum.shape)

  turn = lambda updates, _: jax.tree_util.tree_map_with_path(one, updates)
  return optax.chain(optax.trace(0.95, nesterov=True), optax.stateless(turn))


def _matrix(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape [n … in out] of a layers' stacked kernel [n in …], [n e in out] of one of experts or modality experts."""
  kept = 3 if re.search(r"/(experts/(gate|up|down)|mlp/(gate|up|down)|kinds)/kernel$", name) else 2
  return *shape[:kept], math.prod(shape[kept:])


def _movers(params):
  """Which leaves Muon moves: the layers' stacked kernels, their experts' too; AdamW the others."""
  moves = lambda name: name.startswith("layers/") and name.endswith("kernel")
  labels = jax.tree_util.tree_map_with_path(lambda path, _: "muon" if moves(path_name(path)) else "adamw", params)
  if "muon" not in jax.tree.leaves(labels):
    raise ValueError("train.optimizer: muon moves the decoder's stacked layers, and there are none here; take adamw")
  return labels


def optimizer(train: Train, frozen=None, products=jnp.float32) -> optax.GradientTransformation:
  """AdamW (Loshchilov & Hutter, 1711.05101) behind a clip of the global norm; frozen leaves do not move.

  With `muon`, the layers' matrices take orthogonalised momentum instead; `products` is the dtype of its factors.
  """
  direction = optax.scale_by_adam(train.beta1, train.beta2)
  if train.optimizer == "muon":
    # with Nesterov's momentum here, too: the demo's losses after 200 to 600 steps are 2 % lower
    rest = optax.scale_by_adam(train.beta1, train.beta2, nesterov=True)
    direction = optax.partition({"muon": _muon(products), "adamw": rest}, _movers)
  tx = optax.chain(optax.clip_by_global_norm(train.clip), direction,
                   optax.add_decayed_weights(train.weight_decay, decay_mask),
                   optax.scale_by_learning_rate(schedule(train)))
  if frozen is not None and any(jax.tree.leaves(frozen)):
    labels = jax.tree.map(lambda f: "frozen" if f else "trained", frozen)
    tx = optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, labels)
  return tx


def averaged(average, params, decay: float, step):
  """Running mean of the weights; early on the decay grows as (1 + step) / (10 + step)."""
  keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, p: a + (1 - keep) * (p - a), average, params)
