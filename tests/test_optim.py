"""The schedule, what decays, what is frozen, the running mean of the weights."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unitok.config import Train
from unitok.optim import averaged, decay_mask, frozen_mask, optimizer, schedule

PARAMS = {"encoder": {"enter": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}},
          "norm": {"scale": jnp.ones(2)}, "embed": {"embedding": jnp.ones((4, 2))}, "quantizer": {"codebook": jnp.ones((4, 2))}}


def test_schedule():
  rate = schedule(Train(steps=100, learning_rate=2.0, warmup_steps=10, final_share=0.1))
  assert rate(0) == 0 and rate(5) == pytest.approx(1.0) and rate(10) == pytest.approx(2.0)
  assert rate(55) == pytest.approx((2.0 + 0.2) / 2, rel=1e-3) and rate(100) == pytest.approx(0.2)
  falling = [float(rate(n)) for n in range(10, 101)]
  assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("steps, warmup", [(1, 50), (2, 50), (10, 10)])
def test_schedule_of_few_steps(steps, warmup):
  rate = schedule(Train(steps=steps, warmup_steps=warmup))
  assert all(np.isfinite(rate(n)) for n in range(steps + 1))


def test_decay():
  """With no gradient only kernels shrink."""
  assert decay_mask(PARAMS) == {"encoder": {"enter": {"kernel": True, "bias": False}}, "norm": {"scale": False},
                                "embed": {"embedding": False}, "quantizer": {"codebook": False}}
  tx = optimizer(Train(weight_decay=0.5, warmup_steps=0, steps=10, learning_rate=0.1))
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)
  np.testing.assert_allclose(updates["encoder"]["enter"]["kernel"], -0.05, rtol=1e-4)
  assert all((x == 0).all() for name in ("norm", "embed", "quantizer") for x in jax.tree.leaves(updates[name]))


def test_frozen_does_not_move():
  frozen = frozen_mask(PARAMS, ("^encoder/", "embedding$"))
  tx = optimizer(Train(warmup_steps=0, steps=10), frozen)
  params, state = PARAMS, tx.init(PARAMS)
  for _ in range(3):
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    params = optax.apply_updates(params, updates)
  for name in ("encoder", "embed"):
    jax.tree.map(np.testing.assert_array_equal, params[name], PARAMS[name])
  assert (params["norm"]["scale"] != 1).all() and (params["quantizer"]["codebook"] != 1).all()


def test_frozen_pattern_without_match():
  with pytest.raises(ValueError, match="init.frozen: 'decoder' matches no parameter; they are"):
    frozen_mask(PARAMS, ("norm", "decoder"))


def test_clip():
  """A gradient a thousand times as large changes nothing once both are clipped."""
  tx = optimizer(Train(warmup_steps=0, steps=10, clip=0.1, weight_decay=0.0))
  one = [tx.update(jax.tree.map(lambda x: x * size, PARAMS), tx.init(PARAMS), PARAMS)[0] for size in (1.0, 1000.0)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), *one)


def test_averaged():
  """The first steps hardly keep the start; later the decay is the config's."""
  zero, one = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
  np.testing.assert_allclose(averaged(zero, one, 0.99, 0)["w"], 0.9)
  np.testing.assert_allclose(averaged(zero, one, 0.99, 100_000)["w"], 0.01, rtol=1e-4)
