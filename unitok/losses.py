"""Cross-entropy where loss_weights says, apart by task, with z-loss; what two pictures differ by; a judge's hinge."""
import jax
import jax.numpy as jnp

from unitok.metrics import Mean
from unitok.models.lpips import lpips


def cross_entropy(logits, targets):
  """(nats f32[n], log Z f32[n]) of logits f32[n v] against targets i32[n]."""
  log_z = jax.nn.logsumexp(logits, -1)
  return log_z - jnp.take_along_axis(logits, targets[:, None], -1)[:, 0], log_z


def weighted(nats, squares, weights, z_weight: float):
  """Mean nats + z_weight · mean log²Z (`squares`) over the weights, f32[n] each."""
  return ((nats + z_weight * squares) * weights).sum() / jnp.maximum(weights.sum(), 1e-9)


def by_task(nats, weights, tasks, count: int) -> Mean:
  """A Mean of vectors f32[count]: nats by task number."""
  present = (weights > 0).astype(jnp.float32)
  zeros = jnp.zeros(count, jnp.float32)
  return Mean(zeros.at[tasks].add(nats * present), zeros.at[tasks].add(present))


# ---- pictures, f32[b h w 3] in [-1, 1]

def absolute(found, target):
  return jnp.abs(found - target).mean()


def squared(found, target):
  return ((found - target) ** 2).mean()


def edges(found, target, least: int = 4):
  """Mean absolute difference of the pictures' differences between neighbours, at full size, half, a quarter … as long as
  the shorter side has `least` pixels: edges stay sharp and in their place, with no trained network."""
  error, total, scales = found - target, 0.0, 0
  while min(error.shape[1:3]) >= least:
    total += sum(jnp.abs(jnp.diff(error, axis=axis)).mean() for axis in (1, 2)) / 2
    scales, (b, h, w, c) = scales + 1, error.shape
    error = error[:, :h // 2 * 2, :w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
  return total / max(scales, 1)


PICTURES = {"l1": absolute, "l2": squared, "edges": edges}
"""By their names in config.PictureLosses."""


def picture_losses(found, target, options, perceptual=None) -> dict[str, jax.Array]:
  """Each weighted part of PictureLosses that has a weight; perceptual: LPIPS' network, where that has one."""
  parts = {name: weight * loss(found, target) for name, loss in PICTURES.items() if (weight := getattr(options, name))}
  if options.perceptual:
    parts["perceptual"] = options.perceptual * lpips(perceptual, found, target).mean()
  return parts


# ---- a judge of patches, f32[b h w] high for real ones

def judged_real(real, fake):
  """The judge's hinge loss (Lim 2017, 1705.02894)."""
  return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean())


def lecam(real, fake, mean_real, mean_fake):
  """LeCAM (Tseng 2021, 2104.03310): a judgement is held near the running mean of the other side, which helps where the
  data is little."""
  return (jax.nn.relu(real - mean_fake) ** 2).mean() + (jax.nn.relu(mean_real - fake) ** 2).mean()
