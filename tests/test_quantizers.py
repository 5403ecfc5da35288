"""Every quantizer in the registry, then what only one of them promises."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok.config import Quantizer
from unitok.models.quantizers import QUANTIZERS
from unitok.models.quantizers.codebook import nearest, revive, straight_through

OPTIONS = Quantizer(codebook_size=12, code_dim=4, levels=(3, 4, 5), revive_every=5)


def made(kind: str, n: int = 40, seed: int = 0):
  """(quantizer, params, state, z f32[n d])."""
  quantizer = QUANTIZERS[kind]
  params, state = quantizer.init(jax.random.key(seed), OPTIONS)
  return quantizer, params, state, jax.random.normal(jax.random.key(seed + 1), (n, quantizer.dim(OPTIONS)))


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_codes_and_lookup(kind):
  quantizer, params, state, z = made(kind)
  quantized = quantizer.quantize(params, state, z, OPTIONS)
  assert quantized.codes.dtype == jnp.int32 and quantized.codes.shape == (40,) and quantized.values.shape == z.shape
  assert 0 <= quantized.codes.min() and quantized.codes.max() < quantizer.size(OPTIONS)
  assert len(np.unique(quantized.codes)) > 3
  np.testing.assert_allclose(quantizer.lookup(params, state, quantized.codes, OPTIONS), quantized.values, atol=1e-6)
  assert all(loss.shape == () and np.isfinite(loss) for loss in quantized.losses.values())


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_every_code_has_values_of_its_own(kind):
  quantizer, params, state, _ = made(kind)
  every = jnp.arange(quantizer.size(OPTIONS))
  values = quantizer.lookup(params, state, every, OPTIONS)
  assert len(np.unique(np.round(values, 5), axis=0)) == len(every)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_the_encoder_learns_through_it(kind):
  """Where the gradient is the identity on its input: ema. l2 puts the sphere's tangent before it, fsq a tanh."""
  quantizer, params, state, z = made(kind)
  weights = jax.random.normal(jax.random.key(9), z.shape)
  gradient = jax.grad(lambda z: (quantizer.quantize(params, state, z, OPTIONS).values * weights).sum())(z)
  assert (jnp.abs(gradient).sum(-1) > 0).all()
  if kind == "ema":
    np.testing.assert_allclose(gradient, weights, atol=1e-6)
  if kind == "l2":
    unit = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    tangent = (weights - (weights * unit).sum(-1, keepdims=True) * unit) / jnp.linalg.norm(z, axis=-1, keepdims=True)
    np.testing.assert_allclose(gradient, tangent, atol=1e-4)
  if kind == "fsq":
    def bounded(z):
      from unitok.models.quantizers.fsq import _bound
      return (_bound(z, jnp.array(OPTIONS.levels)) / (jnp.array(OPTIONS.levels) // 2) * weights).sum()
    np.testing.assert_allclose(gradient, jax.grad(bounded)(z), atol=1e-5)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_update_counts_uses(kind):
  quantizer, params, state, z = made(kind)
  codes = quantizer.quantize(params, state, z, OPTIONS).codes
  _, new, revived = quantizer.update(params, state, z, codes, jnp.array(1), jax.random.key(2), OPTIONS)
  uses = np.bincount(codes, minlength=quantizer.size(OPTIONS))
  np.testing.assert_allclose(new["counts"], 0.99 * np.ones(len(uses)) + 0.01 * uses, rtol=1e-5)
  assert revived == 0 and jax.tree.structure(new) == jax.tree.structure(state)


def test_straight_through():
  z, values = jnp.array([1.0, -2.0]), jnp.array([3.0, 4.0])
  np.testing.assert_array_equal(straight_through(z, values), values)
  np.testing.assert_array_equal(jax.jacobian(lambda z: straight_through(z, values))(z), np.eye(2))


def test_nearest_ties_take_the_lowest():
  codebook = jnp.array([[1.0, 0], [0, 1.0], [1.0, 0], [-1.0, 0]])
  assert nearest(jnp.array([[2.0, 0], [0, 5.0], [-0.1, 0]]), codebook).tolist() == [0, 1, 3]


def test_ema_against_numpy():
  quantizer, params, state, z = made("ema")
  quantized = quantizer.quantize(params, state, z, OPTIONS)
  _, new, _ = quantizer.update(params, state, z, quantized.codes, jnp.array(1), jax.random.key(2), OPTIONS)
  codebook, sums, counts = (np.array(state[name]) for name in ("codebook", "sums", "counts"))
  codes = np.array([((codebook - vector) ** 2).sum(-1).argmin() for vector in np.array(z)])
  np.testing.assert_array_equal(quantized.codes, codes)
  for k in range(len(counts)):
    mine = np.array(z)[codes == k]
    counts[k] = 0.99 * counts[k] + 0.01 * len(mine)
    sums[k] = 0.99 * sums[k] + 0.01 * mine.sum(0)
  np.testing.assert_allclose(new["counts"], counts, rtol=1e-5)
  np.testing.assert_allclose(new["codebook"], sums / counts[:, None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["ema", "l2"])
def test_dead_codes_are_revived(kind):
  """Codes far from all data come to where the data is, live long enough to be used, and only every n-th step."""
  quantizer, params, state, z = made(kind, 400)
  holder = params if kind == "l2" else state
  dead = jnp.arange(12) >= 2
  away = jnp.where(dead[:, None], -jnp.ones(4), holder["codebook"])
  z = jnp.abs(z)
  holder["codebook"] = away
  state["counts"] = jnp.where(dead, 0.0, 10.0)
  if kind == "ema":
    state["sums"] = state["codebook"] * state["counts"][:, None]
  codes = quantizer.quantize(params, state, z, OPTIONS).codes
  assert set(np.unique(codes)) <= {0, 1}
  _, _, revived = quantizer.update(params, state, z, codes, jnp.array(4), jax.random.key(3), OPTIONS)
  assert revived == 0, "not due"
  params, state, revived = quantizer.update(params, state, z, codes, jnp.array(5), jax.random.key(3), OPTIONS)
  assert revived == 10 and (state["counts"] > 0.5).all()
  after = quantizer.quantize(params, state, z, OPTIONS).codes
  assert len(np.unique(after)) >= 8


def test_revival_leaves_living_codes():
  codebook, counts = jnp.eye(4), jnp.array([5.0, 5, 5, 0])
  new, new_counts, dead = revive(codebook, counts, jnp.ones((6, 4)), jnp.array(5), jax.random.key(0), OPTIONS)
  assert dead.tolist() == [False, False, False, True]
  np.testing.assert_array_equal(new[:3], codebook[:3])
  np.testing.assert_array_equal(new[3], np.ones(4))
  assert new_counts[3] == counts.mean()


def test_l2_values_are_unit_vectors():
  quantizer, params, state, z = made("l2")
  np.testing.assert_allclose(jnp.linalg.norm(quantizer.quantize(params, state, 100 * z, OPTIONS).values, axis=-1), 1, rtol=1e-4)
  np.testing.assert_array_equal(quantizer.quantize(params, state, 100 * z, OPTIONS).codes,
                                quantizer.quantize(params, state, z, OPTIONS).codes)


@pytest.mark.parametrize("levels", [(3, 4, 5), (2, 2), (8, 8, 8), (7, 5)])
def test_fsq_is_a_bijection(levels):
  """Every code's values, taken to where they quantize to, give that code again: none is unreachable."""
  from unitok.models.quantizers.fsq import _bound
  options = Quantizer(kind="fsq", levels=levels)
  quantizer, every = QUANTIZERS["fsq"], jnp.arange(np.prod(levels))
  values = quantizer.lookup({}, {}, every, options)
  assert jnp.abs(values).max() <= 1
  digits = values * (jnp.array(levels) // 2)
  grid = jnp.linspace(-6, 6, 4001)[:, None] * jnp.ones(len(levels))
  reach = _bound(grid, jnp.array(levels))
  z = jnp.stack([grid[jnp.abs(reach[:, d, None] - digits[None, :, d]).argmin(0), d] for d in range(len(levels))], -1)
  quantized = quantizer.quantize({}, {}, z, options)
  np.testing.assert_array_equal(quantized.codes, every)
  np.testing.assert_allclose(quantized.values, values, atol=1e-5)
  extreme = 20 * jax.random.normal(jax.random.key(0), (200, len(levels)))   # nothing rounds past the last level
  quantized = quantizer.quantize({}, {}, extreme, options)
  np.testing.assert_allclose(quantizer.lookup({}, {}, quantized.codes, options), quantized.values, atol=1e-5)
  assert jnp.abs(quantized.values).max() <= 1


def test_fsq_refuses_a_level_of_one():
  with pytest.raises(ValueError, match=r"quantizer.levels: \(8, 1\)"):
    QUANTIZERS["fsq"].init(jax.random.key(0), Quantizer(levels=(8, 1)))
