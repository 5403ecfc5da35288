"""Every quantizer in the registry, then what only one of them promises."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok.config import Quantizer
from unitok.models.quantizers import QUANTIZERS, codebook
from unitok.models.quantizers.codebook import GRADIENTS, REVIVALS, nearest, revive, rotated, straight_through

OPTIONS = Quantizer(codebook_size=16, code_dim=4, levels=(3, 4, 5), revive_every=5)
CODEBOOKS = ("l2", "vq", "ema", "simvq")
"""Those whose code is the nearest row of a matrix."""
SEVERAL = dataclasses.replace(OPTIONS, books=2)
BOOKS = ("residual", "product")


def made(kind: str, n: int = 40, seed: int = 0, options: Quantizer = OPTIONS):
  """(quantizer, params, state, z f32[n d])."""
  quantizer = QUANTIZERS[kind]
  params, state = quantizer.init(jax.random.key(seed), options)
  return quantizer, params, state, jax.random.normal(jax.random.key(seed + 1), (n, quantizer.dim(options)))


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
  """Where the gradient is the identity: on vq's, ema's, simvq's and lfq's input. l2 puts the sphere's tangent before it,
  fsq a tanh, ibq a softmax."""
  quantizer, params, state, z = made(kind)
  weights = jax.random.normal(jax.random.key(9), z.shape)
  gradient = jax.grad(lambda z: (quantizer.quantize(params, state, z, OPTIONS).values * weights).sum())(z)
  assert (jnp.abs(gradient).sum(-1) > 0).all()
  if kind in ("vq", "ema", "simvq", "lfq"):
    np.testing.assert_allclose(gradient, weights, atol=1e-6)
  if kind == "ibq":
    soft = lambda z: ((jax.nn.softmax(z @ params["codebook"].T) @ params["codebook"]) * weights).sum()
    np.testing.assert_allclose(gradient, jax.grad(soft)(z), atol=1e-5)
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


def test_rotation_turns_the_gradient_with_the_code():
  """2410.06424: forward the code; the gradient keeps its angle to it, and grows by |code| / |z|."""
  z, values, gradient = jax.random.normal(jax.random.key(0), (3, 50, 6))
  np.testing.assert_allclose(rotated(z, values), values, atol=1e-5)
  back = jax.vjp(lambda z: rotated(z, values), z)[1](gradient)[0]
  length = lambda x: np.linalg.norm(x, axis=-1)
  angle = lambda a, b: (a * b).sum(-1) / length(a) / length(b)
  np.testing.assert_allclose(angle(back, z), angle(gradient, values), atol=1e-5)
  np.testing.assert_allclose(length(back), length(gradient) * length(values) / length(z), rtol=1e-4)


@pytest.mark.parametrize("kind", (*CODEBOOKS, "bsq"))
def test_the_way_of_the_gradient_changes_no_value(kind):
  quantizer, params, state, z = made(kind)
  quantized = [quantizer.quantize(params, state, z, dataclasses.replace(OPTIONS, gradient=way)) for way in GRADIENTS]
  np.testing.assert_allclose(*(one.values for one in quantized), atol=1e-5)
  np.testing.assert_array_equal(*(one.codes for one in quantized))


@pytest.mark.parametrize("kind, options", [*((kind, OPTIONS) for kind in (*CODEBOOKS, "ibq")),
                                           *((kind, SEVERAL) for kind in BOOKS)])
def test_chunks_change_nothing(kind, options, monkeypatch):
  """Codes, values, losses and gradients, where only three positions are held against the codes at a time."""
  quantizer, params, state, z = made(kind, options=options)
  weights = jax.random.normal(jax.random.key(9), z.shape)

  def loss(params, z):
    quantized = quantizer.quantize(params, state, z, options)
    return (quantized.values * weights).sum() + sum(quantized.losses.values()), quantized

  whole = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, z)
  monkeypatch.setattr(codebook, "CELLS", 3 * OPTIONS.codebook_size)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
               whole, jax.value_and_grad(loss, (0, 1), has_aux=True)(params, z))


@pytest.mark.parametrize("kind, books", [*((kind, 1) for kind in (*CODEBOOKS, "ibq")), *((kind, 2) for kind in BOOKS)])
def test_many_codes_take_little_memory(kind, books):
  """2^16 codes against 2,048 positions, forward and backward: no f32[2048 65536], which would be 512 MiB."""
  options = dataclasses.replace(OPTIONS, codebook_size=1 << 16, books=books)
  quantizer = QUANTIZERS[kind]
  params, state = jax.eval_shape(lambda key: quantizer.init(key, options), jax.random.key(0))
  def loss(params, state, z):
    quantized = quantizer.quantize(params, state, z, options)
    return (quantized.values**2).sum() + sum(quantized.losses.values())
  compiled = jax.jit(jax.grad(loss, (0, 2), allow_int=True)).lower(params, state, jnp.zeros((2048, 4))).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 400 << 20


def test_vq_starts_from_the_first_batch():
  quantizer, params, state, z = made("vq")
  new, carried, _ = quantizer.update(params, state, z, jnp.zeros(40, jnp.int32), jnp.array(0), jax.random.key(2), OPTIONS)
  assert (jnp.abs(new["codebook"][:, None] - z).max(-1).min(-1) < 0.1).all() and not carried["fresh"]
  kept, _, _ = quantizer.update(new, carried, z + 5, jnp.zeros(40, jnp.int32), jnp.array(0), jax.random.key(3), OPTIONS)
  np.testing.assert_array_equal(kept["codebook"], new["codebook"])


def test_simvq_moves_all_codes_at_once():
  """One code's gradient turns the matrix, which every code shares; the frozen codes stay."""
  quantizer, params, state, z = made("simvq")
  loss = lambda params: (quantizer.quantize(params, state, z[:1], OPTIONS).losses["codebook"])
  moved = {"matrix": params["matrix"] - 0.1 * jax.grad(loss)(params)["matrix"]}
  every = jnp.arange(OPTIONS.codebook_size)
  before, after = (quantizer.lookup(p, state, every, OPTIONS) for p in (params, moved))
  assert (jnp.abs(before - after).max(-1) > 0).all()
  _, carried, _ = quantizer.update(params, state, z, every, jnp.array(5), jax.random.key(0), OPTIONS)
  np.testing.assert_array_equal(carried["codebook"], state["codebook"])


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_bits(kind):
  """The code's bits are the signs; the entropy loss is least where each position is sure and all codes are used."""
  quantizer, params, state, z = made(kind)
  quantized = quantizer.quantize(params, state, z, OPTIONS)
  assert quantized.codes.tolist() == [sum(1 << p for p in range(4) if one[p] >= 0) for one in np.array(z)]
  np.testing.assert_array_equal(jnp.sign(quantized.values), jnp.sign(z))
  loss = lambda z: float(quantizer.quantize(params, state, z, OPTIONS).losses["entropy"])
  every = 9 * quantizer.lookup(params, state, jnp.arange(16), OPTIONS)
  least = -OPTIONS.entropy_weight * 4 * np.log(2)
  assert abs(loss(every) - least) < (0.01 if kind == "lfq" else 0.1 * abs(least))
  assert abs(loss(jnp.ones((16, 4)))) < 0.02                         # sure, but one code
  assert least < loss(z) < abs(least)
  with pytest.raises(ValueError, match="quantizer.codebook_size: 12 is no power of two.*take 8 or 16"):
    quantizer.init(jax.random.key(0), dataclasses.replace(OPTIONS, kind=kind, codebook_size=12))


def test_ibq_teaches_every_code():
  quantizer, params, state, z = made("ibq")
  loss = lambda params: (quantizer.quantize(params, state, z[:2], OPTIONS).values[:, 0]).sum()
  assert (jnp.abs(jax.grad(loss)(params)["codebook"]).sum(-1) > 0).all()


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


@pytest.mark.parametrize("kind", ["ema", "l2", "vq"])
def test_dead_codes_are_revived(kind):
  """Codes far from all data come to where the data is, live long enough to be used, and only every n-th step."""
  quantizer, params, state, z = made(kind, 400)
  holder = state if kind == "ema" else params
  dead = jnp.arange(16) >= 2
  away = jnp.where(dead[:, None], -jnp.ones(4), holder["codebook"])
  z = jnp.abs(z)
  holder["codebook"] = away
  if kind == "vq":
    state["fresh"] = jnp.zeros((), bool)
  state["counts"] = jnp.where(dead, 0.0, 10.0)
  if kind == "ema":
    state["sums"] = state["codebook"] * state["counts"][:, None]
  codes = quantizer.quantize(params, state, z, OPTIONS).codes
  assert set(np.unique(codes)) <= {0, 1}
  _, _, revived = quantizer.update(params, state, z, codes, jnp.array(4), jax.random.key(3), OPTIONS)
  assert revived == 0, "not due"
  params, state, revived = quantizer.update(params, state, z, codes, jnp.array(5), jax.random.key(3), OPTIONS)
  assert revived == 14 and (state["counts"] > 0.5).all()
  after = quantizer.quantize(params, state, z, OPTIONS).codes
  assert len(np.unique(after)) >= 8


def test_split_revival():
  """Each dead code comes beside another of the most used ones, and halves its count."""
  options = dataclasses.replace(OPTIONS, revive="split")
  book, counts = 10 * jnp.eye(6), jnp.array([0.0, 5, 0, 9, 7, 6])
  new, new_counts, dead = revive(book, counts, jnp.zeros((3, 6)), jnp.array(5), jax.random.key(0), options)
  assert dead.tolist() == [True, False, True, False, False, False]
  assert new_counts.tolist() == [4.5, 5, 3.5, 4.5, 3.5, 6]
  np.testing.assert_array_equal(new[np.array([1, 3, 4, 5])], book[np.array([1, 3, 4, 5])])
  near = jnp.abs(new[np.array([0, 2])] - book[np.array([3, 4])])
  assert 0 < near.max() < 0.2
  few = jnp.array([0.0, 0, 0, 0, 8, 0])       # one to split: the others wait
  new, new_counts, _ = revive(book, few, jnp.zeros((3, 6)), jnp.array(5), jax.random.key(0), options)
  assert new_counts.tolist() == [4, 0, 0, 0, 4, 0]


@pytest.mark.parametrize("way", REVIVALS)
def test_revival_leaves_living_codes(way):
  options = dataclasses.replace(OPTIONS, revive=way)
  book, counts = jnp.eye(4), jnp.array([5.0, 5, 5, 0])
  new, new_counts, dead = revive(book, counts, jnp.ones((6, 4)), jnp.array(5), jax.random.key(0), options)
  assert dead.tolist() == [False, False, False, True]
  np.testing.assert_array_equal(new[:3], book[:3])
  if way == "far":
    np.testing.assert_array_equal(new[3], np.ones(4))
    assert new_counts[3] == counts.mean()


@pytest.mark.parametrize("kind", BOOKS)
def test_one_book_is_plain_vq(kind):
  """To the last bit: its codes i32[n], values, losses, first batch, counts and revival."""
  told, options = [], dataclasses.replace(OPTIONS, decay=0.1)
  for name in (kind, "vq"):
    quantizer, params, state, z = made(name)
    found = []
    for step in range(7):
      quantized = quantizer.quantize(params, state, z[:10], options)
      params, state, revived = quantizer.update(
          params, state, z[:10], quantized.codes, step, jax.random.key(step), options)
      found.append((quantized, params, state, revived))
    told.append((found, quantizer.lookup(params, state, quantized.codes, options), quantizer.books(options)))
  assert jax.tree.structure(told[0]) == jax.tree.structure(told[1]) and int(sum(one[-1] for one in told[0][0])) > 0
  jax.tree.map(np.testing.assert_array_equal, *told)


def started(kind: str, options, n: int = 400):
  """Its books put onto a first batch: (quantizer, params, state, z)."""
  quantizer, params, state, z = made(kind, n, options=options)
  codes = quantizer.quantize(params, state, z, options).codes
  return quantizer, *quantizer.update(params, state, z, codes, 0, jax.random.key(2), options)[:2], z


@pytest.mark.parametrize("kind", BOOKS)
def test_books(kind):
  """The interface with several codes a position: shapes, lookup, the gradient, and counts of each book."""
  options = dataclasses.replace(OPTIONS, books=4)
  quantizer, params, state, z = started(kind, options)
  quantized = jax.jit(quantizer.quantize, static_argnums=3)(params, state, z, options)
  assert quantizer.books(options) == 4 and quantized.codes.shape == (400, 4) and quantized.codes.dtype == jnp.int32
  assert quantizer.size(options) == 16 and quantized.values.shape == z.shape
  np.testing.assert_allclose(quantizer.lookup(params, state, quantized.codes, options), quantized.values, atol=1e-5)
  weights = jax.random.normal(jax.random.key(9), z.shape)
  through = lambda z: (quantizer.quantize(params, state, z, options).values * weights).sum()
  np.testing.assert_allclose(jax.jit(jax.grad(through))(z), weights, atol=1e-5)
  losses = lambda p: sum(quantizer.quantize(p, state, z, options).losses.values())
  slopes = jax.jit(jax.grad(losses))(params)["codebook"]
  update = jax.jit(quantizer.update, static_argnums=6)
  _, new, _ = update(params, state, z, quantized.codes, jnp.array(1), jax.random.key(3), options)
  uses = np.stack([np.bincount(book, minlength=16) for book in np.asarray(quantized.codes).T])
  np.testing.assert_allclose(new["counts"], 0.99 * state["counts"] + 0.01 * uses, rtol=1e-5)
  assert np.array_equal(jnp.abs(slopes).sum(-1) > 0, uses > 0), "every code that was used learns"


def test_residual_against_numpy():
  """Each book takes the nearest row to what is left, and leaves less; commitment is Lee's sum over the partial sums."""
  options = dataclasses.replace(OPTIONS, books=3)
  quantizer, params, state, z = started("residual", options)
  quantized, left, commitment, errors = quantizer.quantize(params, state, z, options), np.array(z), 0.0, []
  for book, codes in zip(np.array(params["codebook"]), np.array(quantized.codes).T):
    errors.append((left**2).sum(-1).mean())
    np.testing.assert_array_equal(codes, ((left[:, None] - book) ** 2).sum(-1).argmin(-1))
    left = left - book[codes]
    commitment += options.commitment_weight * (left**2).sum(-1).mean()
  errors.append((left**2).sum(-1).mean())
  assert all(after < 0.8 * before for before, after in zip(errors, errors[1:])), errors
  np.testing.assert_allclose(quantized.values, z - left, atol=1e-5)
  np.testing.assert_allclose(quantized.losses["commitment"], commitment, rtol=1e-4)


def test_product_against_numpy():
  """Each part of the numbers by its own book; the loss is that of the whole vector."""
  quantizer, params, state, z = started("product", SEVERAL)
  quantized = quantizer.quantize(params, state, z, SEVERAL)
  parts = np.split(np.array(z), 2, 1)
  for part, book, codes in zip(parts, np.array(params["codebook"]), np.array(quantized.codes).T):
    np.testing.assert_array_equal(codes, ((part[:, None] - book) ** 2).sum(-1).argmin(-1))
  books = zip(np.array(params["codebook"]), np.array(quantized.codes).T)
  whole = np.concatenate([book[codes] for book, codes in books], 1)
  np.testing.assert_allclose(quantized.values, whole, atol=1e-6)
  np.testing.assert_allclose(quantized.losses["codebook"], ((np.array(z) - whole) ** 2).sum(-1).mean(), rtol=1e-5)


@pytest.mark.parametrize("kind", BOOKS)
def test_dead_codes_of_every_book_are_revived(kind):
  quantizer, params, state, z = started(kind, SEVERAL)
  dead = jnp.arange(16) >= jnp.array([[3], [9]])
  params = {"codebook": jnp.where(dead[..., None], 50.0, params["codebook"])}
  state = {**state, "counts": jnp.where(dead, 0.0, 10.0)}
  codes = quantizer.quantize(params, state, z, SEVERAL).codes
  assert [len(np.unique(book)) <= most for book, most in zip(codes.T, (3, 9))] == [True, True]
  new, after, revived = quantizer.update(params, state, z, codes, jnp.array(5), jax.random.key(3), SEVERAL)
  assert revived == 13 + 7 and (after["counts"] > 0.4).all() and jnp.abs(new["codebook"]).max() < 10
  error = lambda params: float(((quantizer.quantize(params, state, z, SEVERAL).values - z) ** 2).mean())
  assert error(new) < 0.7 * error(params)


@pytest.mark.parametrize("kind, change, says", [
    ("residual", dict(books=0), "quantizer.books: 0 must be 1 or more"),
    ("product", dict(books=-1), "quantizer.books: -1 must be 1 or more"),
    ("product", dict(books=3), "quantizer.code_dim: 4 numbers do not split into 3 books .* e.g. 3$")])
def test_books_that_cannot_be(kind, change, says):
  with pytest.raises(ValueError, match=says):
    QUANTIZERS[kind].init(jax.random.key(0), dataclasses.replace(OPTIONS, **change))


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
  digits = np.asarray(values) * (np.array(levels) // 2)
  grid = np.linspace(-6, 6, 4001, dtype=np.float32)[:, None] * np.ones(len(levels), np.float32)
  reach = np.asarray(_bound(grid, jnp.array(levels)))
  z = jnp.stack([grid[np.abs(reach[:, d, None] - digits[None, :, d]).argmin(0), d] for d in range(len(levels))], -1)
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
