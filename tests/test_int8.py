"""Matrices in int8: what is lost, and that drawing with them is what scoring with them says."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_books import V as BOOKS
from test_books import language as language_of_books
from test_sampler import GREEDY, ROW, V, asked, filled, forward, language, packed, sampler, to_draw, whole

from unitok import cli
from unitok.model import Model
from unitok.models import int8
from unitok.models.attention import attend_dense, attend_int8
from unitok.sampling.sampler import Sampler


def test_a_product():
  """By numpy from the rounded numbers exactly, from the others within half a step of each."""
  rng = np.random.default_rng(0)
  x, w = rng.normal(size=(5, 24)).astype(np.float32), rng.normal(size=(24, 2, 7)).astype(np.float32)
  x[2], x[3, 1:] = 0, 0
  layer = int8.Linear(24, (2, 7), jnp.float32)
  like = jax.eval_shape(lambda: {"kernel": layer.kernel[...], "scale": layer.scale[...]})
  weights = int8.to_int8(like, {"kernel": jnp.asarray(w)})
  layer.kernel[...], layer.scale[...] = weights["kernel"], weights["scale"]
  rows, scale = (np.asarray(one) for one in int8.quantized(jnp.asarray(x)))
  assert rows.dtype == weights["kernel"].dtype == np.int8 and (np.abs(rows[[0, 1, 3, 4]]).max(1) == 127).all()
  assert (np.abs(rows * scale[:, None] - x) <= scale[:, None] / 2 * 1.001).all()
  sums = rows.astype(int) @ np.asarray(weights["kernel"]).T.astype(int)
  by_hand = sums * scale[:, None] * np.asarray(weights["scale"])
  found = np.asarray(layer(jnp.asarray(x)))
  np.testing.assert_allclose(found.reshape(5, 14), by_hand, rtol=1e-5, atol=1e-9)
  np.testing.assert_allclose(found, np.einsum("nk,kab->nab", x, w), atol=0.15)
  assert not found[2].any()


def test_drawing_is_what_scoring_says(sampler):
  """Cached, in passes of two rows and of one, against the uncached forward pass: the argmax of each place, or as near to
  it as rounding to int8 can turn; near the float32 model's logits, and not equal."""
  less = sampler.in_int8()
  assert less.params["layers"]["qkv"]["kernel"].dtype == less.params["head"]["kernel"].dtype == np.int8
  documents, image, near = [to_draw("text_to_image", seed) for seed in range(4)], V.allowed("image"), []
  for document, ids in zip(documents, less.draw(documents, GREEDY, 0), strict=True):
    done, at = filled(document, ids)
    row = packed([done], ROW)
    logits, exact = (np.asarray(whole(s.language, s.params, row))[0, at] for s in (less, sampler))
    best = logits[:, image].max(-1)
    assert (logits[np.arange(len(at)), ids] >= best - 0.1 * logits.std()).all()
    near.append(np.abs(logits - exact).mean() / exact.std())
  assert 1e-4 < np.mean(near) < 0.1


def test_a_cache_in_int8(sampler):
  """What is drawn with it is what the exact model says of it, near enough; a key and a value within half a step."""
  less, documents = sampler.in_int8(matrices=False, cache=True), [to_draw("text_to_image", seed) for seed in range(4)]
  assert less.params is sampler.params
  image, below = V.allowed("image"), []
  for document, ids in zip(documents, less.draw(documents, GREEDY, 0), strict=True):
    done, at = filled(document, ids)
    logits = forward(sampler, done)[at][:, image]
    below.append((logits.max(-1) - forward(sampler, done)[at, ids]) / logits.std())
  assert 0 <= np.concatenate(below).max() < 0.2
  rng = np.random.default_rng(0)
  (k, v), q = rng.normal(size=(2, 3, 2, 40, 8)).astype(np.float32), rng.normal(size=(3, 2, 4, 8)).astype(np.float32)
  mask, bias = rng.random((3, 2, 40)) < 0.7, rng.normal(size=(3, 40)).astype(np.float32)
  (k8, ks), (v8, vs) = map(int8.quantized, (jnp.asarray(k), jnp.asarray(v)))
  found = attend_int8(jnp.asarray(q), k8.swapaxes(2, 3), v8, ks, vs, mask, bias)
  exact = attend_dense(q, (k8 * ks[..., None]).swapaxes(2, 3), v8 * vs[..., None], mask, bias, turned=True)
  np.testing.assert_allclose(found, exact, atol=0.01)
  np.testing.assert_allclose(found, attend_dense(q, k, v, mask, bias), atol=0.03)


def test_likelihood_is_near(sampler):
  less, some = sampler.in_int8(), [to_draw("text_to_image", seed) for seed in range(8)]
  documents = [filled(d, ids)[0] for d, ids in zip(some, sampler.draw(some, GREEDY, 0), strict=True)]
  exact, found = (s.log_likelihood(documents, 8) for s in (sampler, less))
  assert not np.array_equal(exact, found)
  np.testing.assert_allclose(found, exact, rtol=0.1)


def test_further_books():
  model, params = language_of_books()
  less, weights = model.in_int8(params)
  hidden, codes = jax.random.normal(jax.random.key(0), (3, model.options.width)), jnp.array([[BOOKS.image[0].start]] * 3)
  exact, found = (m.model(p).next_book(hidden, codes) for m, p in ((model, params), (less, weights)))
  assert found.shape == exact.shape == (3, len(model.further[0]))
  np.testing.assert_allclose(found, exact, atol=0.1 * float(jnp.abs(exact).max()))


def test_no_experts():
  model, params = language(experts=4, expert_hidden=8)
  with pytest.raises(ValueError, match="int8: this model has experts .*; draw without int8"):
    Sampler(model, params, V).in_int8()


def test_of_the_command_line(monkeypatch, capsys):
  """--int8 of any command that draws reaches Model.open."""
  given = []

  def opened(folder, int8=False, int8_cache=False):
    given.append((int8, int8_cache))
    raise ValueError(f"{folder}: stop")

  monkeypatch.setattr(Model, "open", opened)
  for more in ([], ["--int8"], ["--int8-cache"]):
    assert cli.main(["complete", "--model", "nowhere", "a", *more])
  assert given == [(False, False), (True, False), (False, True)] and "nowhere: stop" in capsys.readouterr().err
