"""Each switch of the decoder for stability by its formula, written out in numpy; cached = full with every one; the watch."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unitok import config as c
from unitok.models.attention import ATTENTION, attend, largest, look
from unitok.models.decoder import check, dropped
from unitok.models.rule import Rule, rule_of, visible
from unitok.models.scores import Scores
from unitok.optim import optimizer
from unitok.sequence import Batch
from unitok.steps import Language, decoder_state, decoder_step
from unitok.vocab import make_vocabulary

PLAIN = c.Decoder(layers=2, width=16, heads=4, kv_heads=2, hidden=24, grid_embedding=0, rope_base=100.0,
                  attention="dense")
SWITCHES = {"default": {}, "sandwich": dict(norm="sandwich"), "swin": dict(norm="swin"),
            "no qk_norm": dict(qk_norm=False),
            "pb_relax": dict(pb_relax=32.0), "attention_softcap": dict(attention_softcap=0.3),
            "logit_softcap": dict(logit_softcap=0.5), "dropout": dict(dropout=0.2),
            "all": dict(norm="sandwich", qk_norm=False, pb_relax=32.0, attention_softcap=0.3, logit_softcap=0.5,
                        dropout=0.2)}
V = make_vocabulary({"text": 20, "image": 9}, {})


@functools.cache
def made(name: str):
  """(Language, weights that are all random, the norms' scales too, and large enough for the caps to bite)."""
  language = Language(dataclasses.replace(PLAIN, **SWITCHES[name]), V.size, ("text/text", "text_to_image/image"))

  leaves, tree = jax.tree.flatten(language.init(jax.random.key(0)))
  moved = [2 * x * jax.random.uniform(jax.random.key(n), x.shape, minval=0.5, maxval=2) for n, x in enumerate(leaves)]
  params = jax.tree.unflatten(tree, moved)
  params["head"]["kernel"] = 10 * params["head"]["kernel"]
  return language, params


def rows(b: int, n: int) -> Rule:
  order = jnp.tile(jnp.arange(n, dtype=jnp.int32), (b, 1))
  return Rule(order, order, jnp.full((b, n), 2**30, jnp.int32), jnp.ones((b, n), jnp.int32))


def given(b: int = 2, n: int = 9):
  ids = jax.random.randint(jax.random.key(3), (b, n), 0, V.size)
  return ids, jnp.tile(jnp.arange(n, dtype=jnp.float32)[None, :, None], (b, 1, 3)), rows(b, n)


def rms(x, scale):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def turned(x):
  """Rotary embedding of [n d] at positions 0 .. n-1."""
  pairs = x.shape[1] // 2
  angle = np.arange(len(x))[:, None] * 100.0 ** (-np.arange(pairs) / pairs)
  a, b = x[:, :pairs], x[:, pairs:]
  return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], 1)


def by_hand(o: c.Decoder, params, ids, keep=None) -> np.ndarray:
  """The logits [n v] of one causal row, a head at a time, in float64. keep: 0 or 1 / (1 - dropout) [layers 2 n w]."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x, d, n = params["embed"]["embedding"][np.asarray(ids)], o.width // o.heads, len(ids)
  for layer in range(o.layers):
    p = jax.tree.map(lambda w: w[layer], params["layers"])
    before = lambda name, x: x if o.norm == "swin" else rms(x, p[name]["scale"])
    after = lambda name, x: x if o.norm == "pre" else rms(x, p[name]["scale"])
    kept = np.ones((2, 1, 1)) if keep is None else keep[layer]
    qkv = np.einsum("nw,wghd->nghd", before("attention_norm", x), p["qkv"]["kernel"])
    heads = []
    for head in range(o.heads):
      group, one = divmod(head, o.heads // o.kv_heads)
      q, k, v = qkv[:, group, one], qkv[:, group, -2], qkv[:, group, -1]
      if o.qk_norm:
        q, k = rms(q, p["query_norm"]["scale"]), rms(k, p["key_norm"]["scale"])
      scores = turned(q) @ turned(k).T / np.sqrt(d)
      if o.attention_softcap:
        scores = o.attention_softcap * np.tanh(scores / o.attention_softcap)
      weights = np.exp(np.where(np.tri(n, dtype=bool), scores, -np.inf))
      heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    x = x + kept[0] * after("attention_out_norm", np.concatenate(heads, 1) @ p["out"]["kernel"])
    gate, up = np.unstack(np.einsum("nw,wkh->knh", before("mlp_norm", x), p["gate_up"]["kernel"]))
    x = x + kept[1] * after("mlp_out_norm", (gate / (1 + np.exp(-gate)) * up) @ p["down"]["kernel"])
  logits = rms(x, params["norm"]["scale"]) @ params["head"]["kernel"]
  return o.logit_softcap * np.tanh(logits / o.logit_softcap) if o.logit_softcap else logits


@pytest.mark.parametrize("name", SWITCHES)
def test_formula(name):
  language, params = made(name)
  found = np.asarray(jax.jit(language.model(params))(*given()))
  ids, *_ = given()
  for row in range(2):
    np.testing.assert_allclose(found[row], by_hand(language.options, params, ids[row]), atol=1e-3, rtol=1e-3)
  others = {**params, "layers": {**made("default")[1]["layers"], **params["layers"]}}
  differs = np.abs(found[0] - by_hand(PLAIN, others, ids[0])).max() > 1e-2
  assert differs == (name not in ("default", "pb_relax", "dropout"))


@pytest.mark.parametrize("name", SWITCHES)
def test_cached_is_full(name):
  """Some tokens at once, then one by one, at every place the same as in one pass; nothing is dropped."""
  language, params = made(name)
  ids, positions, rule = given()
  model = language.model(params)
  want = np.asarray(jax.jit(model)(ids, positions, rule))
  cache, cut = model.empty_cache(2, 12), lambda x, at, n: jax.tree.map(lambda a: a[:, at:at + n], x)
  slots = Rule(*(jnp.pad(x, ((0, 0), (0, 3))) for x in rule))
  extend = jax.jit(lambda params, ids, positions, rule, cache, at: language.model(params).extend(
      ids, positions, rule, cache, slots, at))
  for at, n in ((0, 4), *((at, 1) for at in range(4, 9))):
    hidden, cache = extend(params, *cut((ids, positions, rule), at, n), cache, at)
    np.testing.assert_allclose(model.logits(hidden), want[:, at:at + n], atol=1e-4, rtol=1e-3)


SCORES = {"relax": Scores(relax=32.0), "softcap": Scores(softcap=0.7), "both": Scores(4.0, 0.7)}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("kind", ATTENTION)
def test_scores_in_every_attention(kind, name):
  """Forwards and backwards, against CogView's and Gemma 2's formulas as they are printed."""
  score, rule, keys = SCORES[name], rows(1, 150), jax.random.split(jax.random.key(1), 4)
  q, grad = (2 * jax.random.normal(keys[n], (1, 150, 4, 8)) for n in (0, 3))
  k, v = (2 * jax.random.normal(keys[n], (1, 2, 150, 8)) for n in (1, 2))

  def printed(q, k, v):
    k, v = (jnp.repeat(x, 2, 1) for x in (k, v))
    scores = jnp.einsum("bqhd,bhkd->bhqk", q / (score.relax * 8**0.5), k)
    if score.softcap:
      scores = score.softcap / score.relax * jnp.tanh(scores * score.relax / score.softcap)
    scores = jnp.where(jnp.tri(150, dtype=bool), scores, -jnp.inf)
    weights = jax.nn.softmax((scores - scores.max(-1, keepdims=True)) * score.relax, -1)
    return jnp.einsum("bhqk,bhkd->bqhd", weights, v)

  (want, back), (got, gone) = (jax.vjp(f, q, k, v) for f in (printed, lambda *x: attend(*x, look(rule, kind), score)))
  for a, b in zip((got, *gone(grad)), (want, *back(grad))):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3)
  plain = attend(q, k, v, look(rule, kind))
  if score.softcap:
    assert np.abs(got - plain).max() > 0.1
  else:
    np.testing.assert_array_equal(got, plain)       # 32 is a power of two: not even the rounding differs


def batch_of(b: int = 2, n: int = 9) -> Batch:
  ids, positions, rule = given(b, n)
  return Batch(ids, (ids * 7 + 1) % V.size, jnp.ones((b, n)), *rule, tasks=ids % 2, positions=positions)


def test_dropout():
  """In training by the key: what a layer adds is left out by its own mask of each sublayer; else nothing is."""
  language, params = made("dropout")
  ids, positions, rule = given()
  key = jax.random.key(8)
  model = language.model(params)
  found = np.asarray(jax.jit(lambda key: model.logits(model.hidden(ids, positions, rule, None, key)))(key))
  keep = np.stack([[jax.random.bernoulli(one, 0.8, (18, 16)) / 0.8 for one in jax.random.split(layer)]
                   for layer in jax.random.split(key, 2)]).reshape(2, 2, 2, 9, 16)
  for row in range(2):
    want = by_hand(language.options, params, ids[row], keep[:, :, row])
    np.testing.assert_allclose(found[row], want, atol=1e-3, rtol=1e-3)
  batch, loss = batch_of(), jax.jit(lambda key: language.loss(params, batch_of(), key)[0])
  assert loss(key) == loss(key) != loss(jax.random.key(9))
  without = [float(jax.jit(one.loss)(params, batch)[0]) for one in (language, made("default")[0])]
  assert without[0] == without[1] != loss(key)
  x = dropped(jnp.ones(10_000), 0.2, key)
  assert set(np.unique(x)) == {0.0, np.float32(1.25)} and float((x == 0).mean()) == pytest.approx(0.2, abs=0.02)


def test_no_dropout_is_no_other_program():
  language, params = made("default")
  trace = lambda *key: str(jax.make_jaxpr(lambda p, b: language.loss(p, b, *key))(params, batch_of()))
  assert trace(jax.random.key(0)) == trace() and "random" not in trace()


@pytest.mark.parametrize("change, says", [
    (dict(watch_every=-1), "decoder.watch_every: -1 must be a number of steps, 0 for never"),
    (dict(gradients_every=-1), "decoder.gradients_every: -1 must be a number of steps, 0 for never"),
    (dict(z_loss=-1e-4), "decoder.z_loss: -0.0001 must be a number from 0 on, 0 for none"),
    (dict(dropout=1.0), "decoder.dropout: 1.0 must be a share from 0 to below 1"),
    (dict(pb_relax=0.5), "decoder.pb_relax: 0.5 must be a number from 1 on, 1 for none"),
    (dict(attention_softcap=-1.0), "decoder.attention_softcap: -1.0 must be a number from 0 on, 0 for none"),
    (dict(logit_softcap=float("nan")), "decoder.logit_softcap: nan must be a number from 0 on")])
def test_out_of_range(change, says):
  with pytest.raises(ValueError, match=says):
    check(dataclasses.replace(PLAIN, **change))


@pytest.mark.parametrize("length", [9, 150])
def test_largest_attention_logit(length):
  """Of what a query sees, as written out; nothing seen, nothing found."""
  keys = jax.random.split(jax.random.key(1), 2)
  q, k = jax.random.normal(keys[0], (2, length, 4, 8)), jax.random.normal(keys[1], (2, 2, length, 8))
  rule = rows(2, length)
  rule = rule._replace(segment_ids=rule.segment_ids.at[1, -2:].set(0), order=rule.order.at[1, -1].set(-1))
  scores = jnp.einsum("bqhd,bhkd->bhqk", q, jnp.repeat(k, 2, 1)) / 8**0.5
  want = jnp.where(visible(rule, rule)[:, None], scores, -jnp.inf).max(-1).transpose(0, 2, 1)
  found = jax.jit(largest)(q, k, rule)
  np.testing.assert_allclose(found, want, rtol=1e-5)
  assert np.isneginf(found[1, -1]).all() and np.isfinite(found[0]).all()


def test_watch():
  """Every second step, by the block of the targets that count, as computed apart; else nothing, and no other update."""
  train = c.Train(learning_rate=0.1, warmup_steps=0, steps=9)
  batch = batch_of()
  batch = batch._replace(tasks=batch.inputs % 3, loss_weights=batch.loss_weights.at[0, :4].set(0.0))
  tasks = ("text/text", "text_to_image/image", "infill/image")
  plain, watching = (Language(dataclasses.replace(PLAIN, attention_softcap=0.3, watch_every=n, train=train), V.size, tasks)
                     for n in (0, 2))
  tx = optimizer(train)
  state = decoder_state(plain, tx, jax.random.key(0))._replace(params=made("default")[1])
  step = lambda model: jax.jit(lambda s: decoder_step(model, tx, s, batch, jax.random.key(1)))
  (want, rest), (after, found) = step(plain)(state), step(watching)(state)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after, want)
  names = {f"{what}/{block}" for what in ("attention_logit", "log_z", "output_norm") for block in ("text", "image")}
  assert set(found) - set(rest) == names | {"update_ratio"}
  distance = optax.tree.norm(jax.tree.map(jnp.subtract, want.params, state.params))
  assert found["update_ratio"].value() == pytest.approx(float(distance / optax.tree.norm(state.params)), rel=1e-4)
  model = plain.model(state.params)
  given = batch.inputs, batch.positions, rule_of(batch)
  log_z = jax.nn.logsumexp(jax.jit(model)(*given), -1)
  last, most = jax.jit(model.watched)(*given)
  np.testing.assert_allclose(model.norm(last), jax.jit(model.hidden)(*given), atol=1e-5)
  norms = (np.asarray(last) ** 2).sum(-1) ** 0.5
  for block, numbers in (("text", (0,)), ("image", (1, 2))):
    here = np.isin(batch.tasks, numbers) & (np.asarray(batch.loss_weights) > 0)
    assert 0 < here.sum() < here.size
    assert found[f"log_z/{block}"].value() == pytest.approx(float(np.asarray(log_z)[here].mean()), rel=1e-4)
    assert found[f"output_norm/{block}"].value() == pytest.approx(float(norms[here].mean()), rel=1e-4)
    assert found[f"attention_logit/{block}"].value() == pytest.approx(float(np.asarray(most)[here].max()), rel=1e-4)
  assert float(most.max()) > 0.3, "before the cap"
  _, off = step(watching)(state._replace(step=jnp.int32(1)))
  assert not any(float(off[name].count) for name in names | {"update_ratio"})
