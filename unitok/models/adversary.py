"""The discriminator of patches (Isola 2017, 1611.07004) and the adversarial loss of the image tokenizer (VQGAN,
2012.09841)."""
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from unitok.config import PictureLosses
from unitok.losses import judged_real, lecam
from unitok.models.precision import Precision


class Judge(nnx.Module):
  """pixels f32[b h w 3] in [-1, 1] -> f32[b h' w'], one judgement a patch, high for real ones.

  Convolutions of 4x4, every second pixel in the first `layers`, as in pix2pix; group norm instead of batch norm, so that
  a picture is judged by itself and devices need not agree.
  """

  def __init__(self, options, precision: Precision, rngs: nnx.Rngs):
    widths = [min(options.judge_width * 2**n, options.judge_width * 8) for n in range(options.judge_layers + 1)]
    def conv(into, out, stride, bias=True):
      return nnx.Conv(into, out, (4, 4), (stride, stride), padding=1, use_bias=bias, dtype=precision.activations, rngs=rngs,
                      kernel_init=nnx.initializers.normal(0.02))
    self.enter = conv(3, widths[0], 2)
    self.convs = nnx.List([conv(a, b, 2 if n < options.judge_layers - 1 else 1, bias=False)
                           for n, (a, b) in enumerate(zip(widths, widths[1:]))])
    self.norms = nnx.List([nnx.GroupNorm(b, min(8, b), dtype=precision.activations, rngs=rngs) for b in widths[1:]])
    self.leave = conv(widths[-1], 1, 1)

  def __call__(self, pixels_pm1):
    x = nnx.leaky_relu(self.enter(pixels_pm1), 0.2)
    for conv, norm in zip(self.convs, self.norms):
      x = nnx.leaky_relu(norm(conv(x)), 0.2)
    return self.leave(x)[..., 0].astype(jnp.float32)


class Adversary:
  """The judge of PictureLosses as pure functions of its state: params, opt_state and the running mean judgements."""

  def __init__(self, options: PictureLosses, precision: Precision):
    self.options, self.precision = options, precision
    self.graph = nnx.graphdef(nnx.eval_shape(lambda: Judge(options, precision, nnx.Rngs(0))))
    self.tx = optax.adam(options.judge_learning_rate, b1=0.5, b2=0.9)

  def init(self, key):
    params = nnx.to_pure_dict(nnx.state(Judge(self.options, self.precision, nnx.Rngs(key)), nnx.Param))
    return {"params": params, "opt_state": self.tx.init(params), "means": jnp.zeros(2)}

  def judge(self, params, pictures):
    return nnx.merge(self.graph, params)(pictures)

  def step(self, state, number, painted, target, towards, last_layer):
    """One update, from step `judge_start` on -> (state, gradient of the painted pixels, metrics).

    towards [b h w 3] is the gradient of the other losses, last_layer gives the gradients of the last layer's parameters
    for one of the pixels. Where those of the two have norms a and b, the judge's is weighed by adversarial · a / b
    (VQGAN, eq. 7).
    """
    options = self.options

    def play(state):
      push = jax.grad(lambda x: -self.judge(state["params"], x).mean())(painted)
      norm = lambda gradient: optax.tree.norm(last_layer(gradient))
      balance = jnp.clip(norm(towards) / (norm(push) + 1e-6), 0, 1e4) * options.adversarial
      (loss, (means, told)), grads = jax.value_and_grad(self.loss, has_aux=True)(
          state["params"], state["means"], painted, target)
      updates, opt_state = self.tx.update(grads, state["opt_state"], state["params"])
      new = {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state, "means": means}
      return new, balance * push, {"judge": loss, "judge_balance": balance,
                                 "judge_gradient_norm": optax.tree.norm(grads), **told}

    def wait(state):
      return state, jnp.zeros_like(painted), jax.tree.map(
          lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(play, state)[2])

    return jax.lax.cond(number >= options.judge_start, play, wait, state)

  def loss(self, params, means, painted, target):
    """The judge's own -> (loss, (running means, metrics))."""
    options = self.options
    real, fake = self.judge(params, target), self.judge(params, painted)
    total = judged_real(real, fake)
    now = jax.lax.stop_gradient(jnp.stack([real.mean(), fake.mean()]))
    means = 0.99 * means + 0.01 * now
    if options.lecam:
      total += options.lecam * lecam(real, fake, means[0], means[1])
    if options.r1:
      slope = jax.grad(lambda x: self.judge(params, x).mean((1, 2)).sum())(target)
      total += 0.5 * options.r1 * (slope**2).sum((1, 2, 3)).mean()
    return total, (means, {"judged_real": now[0], "judged_fake": now[1]})


def least_side(layers: int) -> int:
  """Pixels that a picture must have for one judgement."""
  side = 1
  for stride in (1, 1, *[2] * layers):
    side = (side - 1) * stride + 4 - 2
  return side
