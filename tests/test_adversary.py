"""The losses of the image tokenizer's pictures, and the judge in its training step."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unitok.config import ImageTokenizer, PictureLosses, Quantizer, Train
from unitok.losses import PICTURES, edges, judged_real, lecam, picture_losses
from unitok.models.adversary import Adversary, least_side
from unitok.models.autoencoder import check, to_pm1
from unitok.models.precision import FLOAT32
from unitok.steps import Tokenizer, tokenizer_state, tokenizer_step

JUDGED = PictureLosses(l1=0.5, edges=0.3, adversarial=0.7, judge_start=2, judge_width=4, judge_layers=1, lecam=0.1, r1=0.2)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)


def made(losses: PictureLosses):
  options = ImageTokenizer(widths=(8, 16), blocks=(1, 1), patch=2, quantizer=Quantizer(codebook_size=16, code_dim=4),
                           losses=losses, train=Train(steps=20, learning_rate=1e-3, warmup_steps=0, ema_decay=0.9))
  tokenizer, tx = Tokenizer(options), optax.sgd(1.0)
  state = jax.jit(functools.partial(tokenizer_state, tokenizer, tx))(jax.random.key(0))
  return tokenizer, jax.jit(functools.partial(tokenizer_step, tokenizer, tx)), state


@pytest.fixture(scope="module")
def judged():
  return made(JUDGED)


def test_edges():
  """Nothing for equal pictures or ones that differ by a flat colour; a column's step is told at every scale."""
  flat = jnp.zeros((1, 16, 16, 3))
  step = flat.at[:, :, 8:].set(1.0)
  assert edges(step, step) == 0 and edges(step + 0.3, step) == pytest.approx(0, abs=1e-6)
  # one of 15, 7 and 3 differences across is 1, halved by the rows, which have none
  assert edges(step, flat) == pytest.approx((1 / 15 + 1 / 7 + 1 / 3) / 2 / 3)


def test_only_what_has_a_weight():
  x, y = jax.random.normal(jax.random.key(0), (2, 2, 8, 8, 3))
  assert picture_losses(x, y, PictureLosses()) == {"l2": ((x - y) ** 2).mean()}
  every = picture_losses(x, y, PictureLosses(l1=2.0, l2=3.0, edges=4.0))
  for name, weight in dict(l1=2.0, l2=3.0, edges=4.0).items():
    assert every[name] == weight * PICTURES[name](x, y)


def test_hinge_and_lecam():
  real, fake = jnp.array([2.0, 0.5]), jnp.array([-3.0, 0.5])
  assert judged_real(real, fake) == pytest.approx(0.5 * (0.25 + 0.75))
  assert lecam(real, fake, 1.0, -0.5) == pytest.approx((2.5**2 + 1.0**2) / 2 + (4.0**2 + 0.5**2) / 2)


@pytest.mark.parametrize("losses", [PictureLosses(), PictureLosses(l1=0.5, edges=0.3)])
def test_step_descends_the_loss(losses):
  """What the step takes off the parameters is the gradient of the loss that it reports."""
  tokenizer, step, state = made(losses)
  new, metrics = step(state, PIXELS, jax.random.key(1))

  def loss(params):
    target = to_pm1(PIXELS)
    last, quantized, _ = tokenizer.through(params, state.extra["quantizer"], target)
    return sum(picture_losses(tokenizer.finish(params, last), target, losses).values()) + sum(quantized.losses.values())

  value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
  assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
  jax.tree.map(lambda a, b, g: np.testing.assert_allclose(a - b, g, atol=1e-6), state.params, new.params, grads)


def test_judge_waits_and_then_pushes(judged):
  """Before judge_start a step is one without a judge. From it on the judge learns, and the pixels' gradient is theirs
  plus the judge's, balanced so that at the last layer it is `adversarial` times as strong."""
  tokenizer, step, state = judged
  _, plain, other = made(dataclasses.replace(JUDGED, adversarial=0.0))
  for _ in range(2):
    before = state
    state, metrics = step(state, PIXELS, jax.random.key(1))
    other, _ = plain(other, PIXELS, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, state.extra["judge"], before.extra["judge"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, other.params)
    assert metrics["judge"] == metrics["judge_balance"] == 0
  new, metrics = step(state, PIXELS, jax.random.key(1))
  other, _ = plain(other, PIXELS, jax.random.key(1))
  moved = [float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (new.params, other.params)))]
  assert max(moved) > 1e-4 and metrics["judge"] > 0
  assert all((a != b).any() for a, b in zip(*(jax.tree.leaves(s.extra["judge"]["params"]) for s in (new, state))))

  target, params, judge = to_pm1(PIXELS), state.params, state.extra["judge"]["params"]
  adversary = Adversary(JUDGED, FLOAT32)

  last_layer = lambda params: list(params["painter"]["leave"].values())[-1]

  def of_last(layer, loss):
    leave = {**params["painter"]["leave"]}
    leave[list(leave)[-1]] = layer
    last, _, _ = tokenizer.through(params, state.extra["quantizer"], target)
    return loss(tokenizer.finish({**params, "painter": {**params["painter"], "leave": leave}}, last))

  gradient = lambda loss: jax.jit(jax.grad(lambda layer: of_last(layer, loss)))(last_layer(params))
  pixels = gradient(lambda x: sum(picture_losses(x, target, JUDGED).values()))
  pushed = gradient(lambda x: -adversary.judge(judge, x).mean())
  norms = optax.tree.norm(pixels), optax.tree.norm(pushed)
  assert metrics["judge_balance"] == pytest.approx(float(0.7 * norms[0] / norms[1]), rel=1e-3)
  taken = jax.tree.map(lambda a, b: a - b, last_layer(state.params), last_layer(new.params))
  jax.tree.map(lambda t, a, b: np.testing.assert_allclose(t, a + metrics["judge_balance"] * b, atol=1e-5), taken, pixels, pushed)


@pytest.mark.parametrize("part", ["network", "judge"])
def test_a_step_that_is_not_finite_changes_nothing(judged, part):
  """Neither the network, its moments and average nor the codebook nor the judge, wherever it comes from."""
  _, step, state = judged
  state = state._replace(step=jnp.int32(5))
  assert step(state, PIXELS, jax.random.key(1))[1]["skipped"] == 0
  spoilt = lambda tree: jax.tree.map(lambda x: x.at[0].set(jnp.nan), tree)
  if part == "judge":
    judge = state.extra["judge"]
    judge = {**judge, "params": {**judge["params"], "leave": spoilt(judge["params"]["leave"])}}
    state = state._replace(extra={**state.extra, "judge": judge})
  else:
    state = state._replace(params={**state.params, "encoder": spoilt(state.params["encoder"])})
  after, metrics = step(state, PIXELS, jax.random.key(1))
  assert metrics["skipped"] == 1 and after.step == 6 and metrics["gradient_norm"].shape == ()
  jax.tree.map(np.testing.assert_array_equal, after[1:], state[1:])


def test_judge_learns_to_tell():
  """Noise from flat colours; the balance of LeCAM and r1 only slow it down."""
  adversary = Adversary(dataclasses.replace(JUDGED, judge_learning_rate=1e-2, lecam=0.0, r1=0.0), FLOAT32)
  state, real = jax.jit(adversary.init)(jax.random.key(0)), to_pm1(PIXELS)
  fake = jnp.zeros_like(real) + real.mean((1, 2), keepdims=True)
  step = jax.jit(lambda s: adversary.step(s, 5, fake, real, jnp.ones_like(real), lambda gradient: {"kernel": gradient}))
  losses = []
  for _ in range(60):
    state, _, told = step(state)
    losses.append(float(told["judge"]))
  assert losses[-1] < 0.3 < losses[0] and told["judged_real"] > told["judged_fake"] + 1
  of = lambda **one: Adversary(dataclasses.replace(JUDGED, **{"lecam": 0.0, "r1": 0.0, **one}), FLOAT32).loss
  terms = {name: float(jax.jit(of(**one))(state["params"], jnp.zeros(2), fake, real)[0])
           for name, one in (("none", {}), ("r1", dict(r1=1.0)), ("lecam", dict(lecam=1.0)))}
  assert terms["r1"] > terms["none"] and terms["lecam"] > terms["none"]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_least_side(layers):
  options = dataclasses.replace(JUDGED, judge_layers=layers)
  adversary, side = Adversary(options, FLOAT32), least_side(layers)
  params = jax.eval_shape(adversary.init, jax.random.key(0))["params"]
  assert jax.eval_shape(adversary.judge, params, jnp.zeros((2, side, side, 3))).shape == (2, 1, 1)
  tokenizer = ImageTokenizer(widths=(8,), blocks=(1,), patch=2, losses=options)
  check(tokenizer, side)
  with pytest.raises(ValueError, match=f"judge_layers: {layers} need pictures of {side} pixels"):
    check(tokenizer, side - 2)
