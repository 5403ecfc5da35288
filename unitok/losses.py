"""Cross-entropy where loss_weights says, whole or in chunks, with z-loss; what two pictures differ by; a judge's hinge."""
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from unitok.metrics import Mean
from unitok.models.lpips import lpips
from unitok.sharding import ACTIVATIONS, ROWS, in_use


def cross_entropy(logits, targets):
  """(nats f32[n], log Z f32[n]) of logits f32[n v] against targets i32[n]."""
  log_z = jax.nn.logsumexp(logits, -1)
  return log_z - jnp.take_along_axis(logits, targets[:, None], -1)[:, 0], log_z


def cross_entropy_in_chunks(x, kernel, targets, times, chunk: int):
  """`cross_entropy` of the logits x · kernel, f32[b l] each, that are never there as a whole.

  x [b l w], kernel f32[w v], targets i32[b l]; times(x [n w], kernel) -> f32[n v]. `chunk` tokens of a device are looked
  at together, and again in the backward pass. Where a mesh is in use each device has its own rows and tokens and, where
  tensor divides v, its own columns: the largest logit, the sum and the target's logit go over that axis (Shoeybi 2019,
  1909.08053, section 3), the logits never; the gradient of the kernel is added up over the rows once, behind all chunks.
  """
  mesh = in_use()
  if not mesh:
    return _in_chunks(x, kernel, targets, times, chunk)
  split = kernel.shape[1] % mesh.shape["tensor"] == 0
  tokens, columns = ACTIVATIONS["hidden"], ACTIVATIONS["head"] if split else P()

  def own(x, kernel, targets):
    kernel = jax.lax.pcast(kernel, (*ROWS, "sequence"), to="varying")
    if not split:
      return _in_chunks(x, kernel, targets, times, chunk)
    return _in_chunks(jax.lax.pcast(x, "tensor", to="varying"), kernel, targets, times, chunk, "tensor")

  return jax.shard_map(own, in_specs=(tokens, columns, tokens), out_specs=(tokens, tokens))(x, kernel, targets)


def _in_chunks(x, kernel, targets, times, chunk: int, axis: str | None = None):
  """axis: the mesh axis over whose devices the columns lie in turn."""
  over = (lambda how, x: how(x, axis)) if axis else (lambda how, x: x)
  columns = jnp.arange(kernel.shape[1]) + (jax.lax.axis_index(axis) * kernel.shape[1] if axis else 0)
  size = min(chunk, targets.size)
  more = -targets.size % size
  flat = (x.reshape(-1, x.shape[-1]), targets.reshape(-1))
  flat = (jnp.pad(one, ((0, more), *[(0, 0)] * (one.ndim - 1))).reshape(-1, size, *one.shape[1:]) for one in flat)

  def some(x, targets):
    logits = times(x, kernel)
    most = over(jax.lax.pmax, jax.lax.stop_gradient(logits.max(-1)))
    log_z = most + jnp.log(over(jax.lax.psum, jnp.exp(logits - most[:, None]).sum(-1)))
    return log_z - over(jax.lax.psum, jnp.where(columns == targets[:, None], logits, 0.0).sum(-1)), log_z

  some = jax.checkpoint(some, prevent_cse=False)
  found = jax.lax.map(lambda chunk: some(*chunk), tuple(flat))
  return tuple(one.reshape(-1)[:targets.size].reshape(targets.shape) for one in found)


def weighted(nats, squares, weights, z_weight: float, total=None):
  """Mean nats + z_weight · mean log²Z (`squares`) over the weights, f32[n] each; total: their sum, where these are but
  some of them."""
  total = weights.sum() if total is None else total
  return ((nats + z_weight * squares) * weights).sum() / jnp.maximum(total, 1e-9)


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
