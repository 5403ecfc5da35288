"""The loss in chunks and the step in parts are the whole ones; they hold less."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.batches import documents, with_books
from unitok import config as c
from unitok.losses import cross_entropy, cross_entropy_in_chunks, weighted
from unitok.models.autoencoder import check as check_tokenizer
from unitok.models.precision import PRECISIONS
from unitok.models.rule import rule_of
from unitok.optim import optimizer
from unitok.sharding import check_batch, check_decoder
from unitok.steps import Language, decoder_state, decoder_step

OPTIONS = c.Decoder(layers=1, width=16, heads=2, kv_heads=1, hidden=16, grid_embedding=0, row_length=12,
                    train=c.Train(steps=4, warmup_steps=1, learning_rate=1e-2))


def close(one, other, rtol=1e-5):
  """Each array within rtol of the other's largest number."""
  for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(np.abs(b).max()))


def arrays(rows: int, tokens: int, width: int, ids: int):
  keys = jax.random.split(jax.random.key(0), 3)
  return (jax.random.normal(keys[0], (rows, tokens, width)), jax.random.normal(keys[1], (width, ids)),
          jax.random.randint(keys[2], (rows, tokens), 0, ids))


@pytest.mark.parametrize("chunk", [1, 5, 12, 99])
def test_chunks_give_the_whole_loss(chunk):
  """Nats and log Z of every token, and what any weighting of both gives backwards; 3 x 4 tokens, also a chunk that does
  not divide them."""
  x, kernel, targets = arrays(3, 4, 6, 11)

  def whole(x, kernel):
    return tuple(one.reshape(3, 4) for one in cross_entropy((x.reshape(-1, 6) @ kernel), targets.reshape(-1)))

  in_chunks = lambda x, kernel: cross_entropy_in_chunks(x, kernel, targets, jnp.matmul, chunk)
  def both(f, weights):
    out, back = jax.vjp(f, x, kernel)
    return out, back(weights)

  weights = tuple(jax.random.normal(jax.random.key(n), (3, 4)) for n in (7, 8))
  (one, back), (other, back_of_other) = (jax.jit(lambda weights, f=f: both(f, weights))(weights) for f in (whole, in_chunks))
  close(other, one)
  close(back_of_other, back)


def test_z_loss_by_its_formula():
  """ST-MoE's (Zoph 2022, 2202.08906, eq. 5) z · (log Σ exp)² beside the nats, in numpy, and as a decoder's loss grows by
  it; of parts, the whole's."""
  rng = np.random.default_rng(0)
  logits, targets, weights = 3 * rng.normal(size=(8, 11)), rng.integers(0, 11, 8), rng.uniform(0, 2, 8)
  log_z = np.log(np.exp(logits).sum(1))
  each = log_z - logits[np.arange(8), targets] + 0.3 * log_z**2
  def ours(some, total=None):
    nats, log_z = cross_entropy(jnp.asarray(logits[some], jnp.float32), jnp.asarray(targets[some]))
    return float(weighted(nats, log_z**2, jnp.asarray(weights[some]), 0.3, total))
  assert ours(slice(None)) == pytest.approx((each * weights).sum() / weights.sum(), rel=1e-5)
  assert ours(slice(3), weights.sum()) + ours(slice(3, None), weights.sum()) == pytest.approx(ours(slice(None)), rel=1e-5)
  batch, found = documents(4, 12, 20), {}
  for z in (0.0, 0.3):
    model = Language(dataclasses.replace(OPTIONS, z_loss=z), 20, ("a", "b"))
    params = model.init(jax.random.key(0))
    found[z] = float(jax.jit(model.loss)(params, batch)[0])
  logits = np.asarray(jax.jit(model.model(params))(batch.inputs, batch.positions, rule_of(batch)), np.float64)
  squares = np.log(np.exp(logits).sum(-1)) ** 2
  mean = (squares * batch.loss_weights).sum() / batch.loss_weights.sum()
  assert found[0.3] - found[0.0] == pytest.approx(0.3 * mean, rel=1e-4)


@pytest.mark.parametrize("books", [1, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_decoders_loss_is_the_same_in_chunks(books, precision):
  """With z-loss, and with several codes a place, some of which are not there."""
  batch, further = documents(4, 12, 20), ()
  if books > 1:
    batch, further = with_books(batch, 20, books, 6)

  def both(chunk):
    options = dataclasses.replace(OPTIONS, z_loss=0.1, loss_chunk=chunk)
    model = Language(options, 20 + 6 * (books - 1), ("a", "b"), PRECISIONS[precision], further)
    return jax.jit(jax.value_and_grad(model.loss, has_aux=True))(model.init(jax.random.key(0)), batch)

  close(both(7), both(0), 1e-5 if precision == "float32" else 2e-2)


def test_chunks_hold_less():
  """Temporary bytes of the loss and its gradients: half the tokens at a time, half the bytes."""
  x, kernel, targets = arrays(8, 64, 8, 4096)

  def held(chunk):
    loss = lambda x, kernel: sum(one.sum() for one in cross_entropy_in_chunks(x, kernel, targets, jnp.matmul, chunk))
    return jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile().memory_analysis().temp_size_in_bytes

  assert held(64) < 0.6 * held(128) < 0.4 * held(256)


@pytest.mark.parametrize("options", [{}, {"gradients_every": 1, "loss_chunk": 5}, {"watch_every": 1}])
def test_parts_make_the_step_of_the_whole(options):
  """Weights, moments and metrics after a step in four parts, whose targets differ in number and weight."""
  batch = documents(8, 12, 20)

  def step(parts):
    train = dataclasses.replace(OPTIONS.train, accumulate=parts)
    model, tx = Language(dataclasses.replace(OPTIONS, train=train, **options), 20, ("a", "b")), optimizer(train)
    state = decoder_state(model, tx, jax.random.key(0))._replace(step=jnp.int32(1))
    state = state._replace(opt_state=jax.tree.map(lambda x: x + 1 if x.ndim == 0 else x, state.opt_state))
    return jax.jit(lambda s, b: decoder_step(model, tx, s, b, jax.random.key(1)))(state, batch)

  (whole, told), (parts, also) = step(1), step(4)
  close(parts.params, whole.params)
  close(parts.opt_state, whole.opt_state, 1e-4)
  close(also, told, 1e-4)


@pytest.mark.parametrize("options", [{}, {"watch_every": 1}])
def test_parts_hold_less(options):
  def held(parts):
    train = dataclasses.replace(OPTIONS.train, accumulate=parts)
    model, tx = Language(dataclasses.replace(OPTIONS, train=train, **options), 256, ("a", "b")), optimizer(train)
    state = jax.eval_shape(lambda: decoder_state(model, tx, jax.random.key(0)))
    run = jax.jit(lambda s, b: decoder_step(model, tx, s, b, jax.random.key(1)))
    return run.lower(state, documents(32, 12, 256)).compile().memory_analysis().temp_size_in_bytes

  assert held(8) < held(1) / 4


def test_what_cannot_be_divided_is_told():
  class Mesh:
    shape = dict(data=2, fsdp=2, expert=1, sequence=2, tensor=4)

  with pytest.raises(ValueError, match=r"batch_size: 20 rows in 2 parts \(accumulate\) do not divide over data 2 x fsdp 2; "
                                       "take a multiple of 8, e.g. 16"):
    check_batch(20, Mesh, "decoder.train.batch_size", 2)
  good = dataclasses.replace(OPTIONS, heads=8, kv_heads=4)
  check_decoder(good, 20, Mesh)
  for options, ids, says in ((dataclasses.replace(good, kv_heads=2), 20, "decoder.kv_heads 2; take 2 or a divisor"),
                             (dataclasses.replace(good, heads=6), 20, "decoder.heads 6; take 2 or a divisor"),
                             (good, 21, "the vocabulary's 21 ids; take 3 more of text.vocab_size"),
                             (dataclasses.replace(good, row_length=13), 20, "decoder.row_length 13; take rows of 16")):
    with pytest.raises(ValueError, match=says):
      check_decoder(options, ids, Mesh)
  with pytest.raises(ValueError, match="decoder.train.accumulate: 0 must be 1 or more"):
    c.check_train(c.Train(accumulate=0), "decoder.train")
  with pytest.raises(ValueError, match="image_tokenizer.train.accumulate: 2, but its codes are counted"):
    check_tokenizer(c.ImageTokenizer(train=c.Train(accumulate=2)), 32)
