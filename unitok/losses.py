"""Cross-entropy where loss_weights says, apart by task, with z-loss."""
import jax
import jax.numpy as jnp

from unitok.metrics import Mean


def cross_entropy(logits, targets):
  """(nats f32[n], log Z f32[n]) of logits f32[n v] against targets i32[n]."""
  log_z = jax.nn.logsumexp(logits, -1)
  return log_z - jnp.take_along_axis(logits, targets[:, None], -1)[:, 0], log_z


def weighted(nats, log_z, weights, z_weight: float):
  """Mean nats + z_weight · mean log²Z over the weights, f32[n] each."""
  return ((nats + z_weight * log_z**2) * weights).sum() / jnp.maximum(weights.sum(), 1e-9)


def by_task(nats, weights, tasks, count: int) -> Mean:
  """A Mean of vectors f32[count]: nats by task number."""
  present = (weights > 0).astype(jnp.float32)
  zeros = jnp.zeros(count, jnp.float32)
  return Mean(zeros.at[tasks].add(nats * present), zeros.at[tasks].add(present))
