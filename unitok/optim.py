"""Schedules, the decay mask, the optimizer."""
import re

import jax
import jax.numpy as jnp
import optax

from unitok.config import Train


def schedule(train: Train):
  """Linear warm-up from 0, then a cosine down to `final_share` of the peak at the last step."""
  warmup = min(train.warmup_steps, max(train.steps - 1, 0))
  return optax.warmup_cosine_decay_schedule(0.0, train.learning_rate, warmup, max(train.steps, warmup + 1),
                                            train.learning_rate * train.final_share)


def path_name(path) -> str:
  return "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)


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


def _muon_dimensions(params):
  """Which leaves Muon moves: the layers' stacked kernels [n in out]; None leaves a parameter to AdamW."""
  def one(path, leaf):
    inner = leaf.ndim == 3 and path_name(path).endswith("kernel")
    return optax.contrib.MuonDimensionNumbers(1, 2) if inner else None
  if not any(leaf.ndim == 3 and path_name(p).endswith("kernel") for p, leaf in jax.tree_util.tree_leaves_with_path(params)):
    raise ValueError("train.optimizer: muon moves the decoder's stacked layers, and there are none here; take adamw")
  return jax.tree_util.tree_map_with_path(one, params)


def optimizer(train: Train, frozen=None) -> optax.GradientTransformation:
  """AdamW (Loshchilov & Hutter, 1711.05101) behind a clip of the global norm; frozen leaves do not move.

  With `muon`, the layers' matrices take orthogonalised momentum (Jordan 2024; its updates scaled to
  AdamW's root mean square, Liu 2025, 2502.16982, so that one learning rate serves both). Four Newton-Schulz steps
  instead of five: singular values above 0.005 of the norm still end within 0.66 .. 1.1.
  """
  if train.optimizer == "muon":
    core = optax.contrib.muon(
        schedule(train), ns_steps=4, consistent_rms=0.2, weight_decay=train.weight_decay, weight_decay_mask=decay_mask,
        adam_b1=train.beta1, adam_b2=train.beta2, adam_weight_decay=train.weight_decay,
        muon_weight_dimension_numbers=_muon_dimensions)
  else:
    core = optax.adamw(schedule(train), b1=train.beta1, b2=train.beta2, weight_decay=train.weight_decay,
                       mask=decay_mask)
  tx = optax.chain(optax.clip_by_global_norm(train.clip), core)
  if frozen is not None and any(jax.tree.leaves(frozen)):
    labels = jax.tree.map(lambda f: "frozen" if f else "trained", frozen)
    tx = optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, labels)
  return tx


def averaged(average, params, decay: float, step):
  """Running mean of the weights; early on the decay grows as (1 + step) / (10 + step)."""
  keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, p: a + (1 - keep) * (p - a), average, params)
