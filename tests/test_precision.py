"""Products of bfloat16 factors: values and gradients near float32's, few rows left as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unitok import config as c
from unitok.models import precision
from unitok.models.precision import FEW, PRECISIONS, choose, linear, product, turned
from unitok.models.rule import Rule
from unitok.optim import orthogonalized
from unitok.steps import Language

X, W, G = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(96, 40), (40, 24), (96, 24)]))


def near(one, other, share: float):
  """Within a share of the largest entry."""
  assert np.abs(np.asarray(one) - np.asarray(other)).max() < share * np.abs(np.asarray(other)).max()


def test_product_and_its_gradients():
  """bfloat16 keeps 8 bits of a factor, so a sum of 40 products stays within a hundredth; it is no float32 product."""
  out, back = jax.vjp(jax.jit(product), X, W)
  exact, exact_back = jax.vjp(lambda x, w: x @ w, X, W)
  for got, wanted in zip((out, *back(G)), (exact, *exact_back(G))):
    assert got.dtype == jnp.float32
    near(got, wanted, 0.01)
    assert not np.allclose(got, wanted, atol=1e-6)
  rounded = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in (X, W, G)]
  for got, wanted in zip((out, *back(G)), (rounded[0] @ rounded[1], rounded[2] @ rounded[1].T, rounded[0].T @ rounded[2])):
    near(got, wanted, 1e-5)          # added up in float32


def test_turned():
  assert np.array_equal(jax.jit(turned)(X), X.T)
  cube = jnp.arange(24.0).reshape(2, 3, 4)
  assert np.array_equal(turned(cube), cube.swapaxes(1, 2))


@pytest.mark.parametrize("rows, exact", [(FEW - 1, True), (FEW, False)])
def test_few_rows_stay_float32(rows, exact):
  layer = linear(40, 24, PRECISIONS["mixed"], nnx.Rngs(0))
  x = X[:rows] if rows <= 96 else None
  assert layer.kernel.dtype == jnp.float32 and layer(x).dtype == jnp.float32
  assert np.allclose(layer(x), x @ layer.kernel[...], atol=1e-6) == exact


def test_more_sides_and_a_bias():
  layer = linear(40, 24, PRECISIONS["mixed"], nnx.Rngs(0), bias=True)
  layer.bias[...] = jnp.ones(24)
  cube = jax.random.normal(jax.random.key(5), (3, 5, 8, 40))
  near(layer(cube), cube @ layer.kernel[...] + 1, 0.01)


def test_choice(monkeypatch):
  """On a CPU by its units, and never mixed where that is not allowed; else as the config says."""
  for units, mixed, wanted in ((True, True, "mixed"), (False, True, "float32"), (True, False, "float32")):
    monkeypatch.setattr(precision, "_matrix_units", lambda units=units: units)
    assert choose("auto", mixed) == PRECISIONS[wanted]
  assert all(choose(name, False) == PRECISIONS[name] for name in PRECISIONS)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert choose("auto", False) == PRECISIONS["bfloat16"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(2, 16, 48), (2, 48, 16), (1, 16, 16)])
def test_orthogonalized(shape, dtype):
  """Singular values near 1, the singular vectors those of the matrix."""
  x = jax.random.normal(jax.random.key(0), shape)
  got = np.asarray(jax.jit(lambda x: orthogonalized(x, dtype))(x))
  u, s, v = np.linalg.svd(np.asarray(x), full_matrices=False)
  inner = np.einsum("nij,nik,nlk->njl", u, got, v)        # diagonal, where the vectors are the same
  for one, of in zip(inner, s):
    values = np.diagonal(one)[of / np.linalg.norm(of) > 0.005]
    assert ((0.6 < values) & (values < 1.2)).all()
    assert np.abs(one - np.diag(np.diagonal(one))).max() < (0.05 if dtype == jnp.bfloat16 else 1e-3)


@pytest.mark.parametrize("name", ["mixed", "bfloat16"])
def test_a_decoder_in_other_numbers(name):
  """Its logits lie near those of float32."""
  options = c.Decoder(layers=2, width=32, heads=4, kv_heads=2, hidden=48, grid_embedding=8)
  ids = jax.random.randint(jax.random.key(1), (3, 40), 0, 50)
  order = jnp.tile(jnp.arange(40), (3, 1))
  rule, positions = Rule(order, order, jnp.full((3, 40), 2**30), jnp.ones((3, 40), jnp.int32)), jnp.repeat(order[..., None], 3, -1)
  one, other = (Language(options, 50, (), PRECISIONS[kind]) for kind in ("float32", name))
  params = one.init(jax.random.key(2))
  assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), params, other.init(jax.random.key(2))))
  wanted, got = (jax.jit(lambda p, m=model: m.model(p)(ids, positions, rule))(params) for model in (one, other))
  assert got.dtype == jnp.float32
  near(got, wanted, 0.05)
