"""Mixture of experts and weights by modality: dense where all are alike, by hand where they are not, at what cost, on
any mesh."""
import dataclasses
import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import eight_devices
from tests.batches import documents
from unitok import config as c
from unitok.models import experts as of_experts
from unitok.models import modality_experts
from unitok.models.decoder import check
from unitok.models.experts import FORMS, Experts, Tokens, block_size, product, sort, swiglus
from unitok.models.precision import FLOAT32
from unitok.models.rule import Rule
from unitok.optim import optimizer
from unitok.plan import active, flops, parameters
from unitok.sharding import check_batch, check_decoder, path_name
from unitok.steps import Language, decoder_state, decoder_step
from unitok.vocab import make_vocabulary

IMAGE = (range(8, 20), range(26, 30))
IDS = 32
TRAIN = c.Train(steps=400, batch_size=8, learning_rate=1e-2, warmup_steps=1)
DENSE = c.Decoder(layers=2, width=16, heads=4, kv_heads=2, hidden=24, grid_embedding=0, rope_base=100.0, row_length=12,
                  train=TRAIN)
SPARSE = dataclasses.replace(DENSE, experts=4, expert_hidden=12, shared_expert=8)
KINDS = {name: dataclasses.replace(DENSE, modality_experts=name) for name in ("mlp", "all")}


def made(options, seed: int = 0):
  language = Language(options, IDS, ("a", "b"), image=IMAGE)
  return language, jax.jit(language.init)(jax.random.key(seed))


def paths(params) -> set[str]:
  return {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}


def close(one, other, rtol=1e-5):
  """Each array within rtol of the other's largest number."""
  for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(np.abs(b).max()))


def rows(b: int, n: int) -> Rule:
  order = jnp.tile(jnp.arange(n, dtype=jnp.int32), (b, 1))
  return Rule(order, order, jnp.full((b, n), 2**30, jnp.int32), jnp.ones((b, n), jnp.int32))


def given(b: int = 2, n: int = 12):
  ids = jax.random.randint(jax.random.key(3), (b, n), 0, IDS)
  return ids, jnp.tile(jnp.arange(n, dtype=jnp.float32)[None, :, None], (b, 1, 3)), rows(b, n)


# ---- products

def test_entries_by_expert():
  """The docstring's example."""
  found = sort(jnp.array([[1], [0], [1], [1], [5]]), 2, 2, 5)
  assert found.entry.tolist() == [1, 5, 0, 2, 3, 5, 5, 5] and found.slot[:, 0].tolist() == [2, 0, 3, 4, 8]
  assert found.expert.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens, skew", [(300, 0.0), (300, 30.0), (1, 0.0), (7, 2.0)])
def test_products_are_those_of_the_chosen(form, tokens, skew):
  """Outputs and all gradients against every expert's SwiGLU of every token; experts without any, entries with none."""
  experts, k, width, hidden = 5, 2, 6, 4
  keys = jax.random.split(jax.random.key(tokens), 6)
  x, weights = jax.random.normal(keys[0], (1, tokens, width)), jax.random.uniform(keys[1], (1, tokens, k))
  choices = jax.random.categorical(keys[2], skew * jnp.arange(experts + 2.0), shape=(1, tokens, k)) - 1    # -1 .. 5
  shapes = ((experts, width, hidden), (experts, width, hidden), (experts, hidden, width))
  kernels = [jax.random.normal(key, shape) for key, shape in zip(keys[3:], shapes)]

  def by_hand(x, weights, gate, up, down):
    every = [jnp.einsum("bnh,hw->bnw", jax.nn.silu(x @ gate[e]) * (x @ up[e]), down[e]) for e in range(experts)]
    return sum(((choices == e) * weights).sum(-1, keepdims=True) * one for e, one in enumerate(every))

  ours = lambda x, weights, *kernels: swiglus(jnp.dtype("float32"), x, choices, weights, *kernels, form=form)
  def both(f, grad, *given):
    out, back = jax.vjp(f, *given)
    return out, back(grad)

  grad = jax.random.normal(jax.random.key(9), x.shape)
  (one, its), (other, other_its) = (jax.jit(functools.partial(both, f))(grad, x, weights, *kernels) for f in (ours, by_hand))
  close(one, other)
  close(its, other_its, 1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_few_rows_are_computed_in_vain(form):
  """Slots beside the entries: a sixteenth at most, of many (copied for each block a quarter, but of two experts); the
  blocks are enough however uneven the choices."""
  for entries, experts in ((4096, 8), (32768, 64), (2048, 2)):
    size, most = block_size(entries, experts, form), 17 / 16 if form == "loop" or experts == 2 else 5 / 4
    sorted_by = jax.jit(lambda choices: sort(choices, experts, size, entries))
    for choices in (np.arange(entries) % experts, np.zeros(entries, int), np.minimum(np.arange(entries), experts - 1)):
      entry = np.asarray(sorted_by(choices[:, None]).entry)
      assert entries <= len(entry) <= entries * most
      assert sorted(entry[entry < entries].tolist()) == list(range(entries))


@pytest.mark.parametrize("form", FORMS)
def test_blocks_that_are_not_used_are_not_computed(form):
  """Where their number is known when running alone: neither forwards nor backwards."""
  slots = sort(jnp.zeros((8, 1), int), 3, 4, 8)._replace(used=jnp.int32(2))
  x, kernel = jnp.ones((len(slots.entry), 5)), jnp.ones((3, 5, 6))
  assert len(x) > 8
  out, back = jax.vjp(lambda x, kernel: product(x, kernel, slots, jnp.dtype("float32"), form), x, kernel)
  towards, of_kernel = back(jnp.ones_like(out))
  assert (out[:8] == 5).all() and not out[8:].any() and not towards[8:].any()
  assert of_kernel.sum() == 8 * 5 * 6


# ---- the layer

def test_none_is_the_dense_decoder():
  """The same weights and the same program, to the letter."""
  batch, programs = documents(8, 12, IDS), []
  for count in (0, 1):
    language, params = made(dataclasses.replace(DENSE, experts=count))
    assert not [path for path in paths(params) if "experts" in path or "kinds" in path or "mlp/" in path]
    programs.append(jax.jit(jax.grad(lambda p: language.loss(p, batch)[0])).lower(params).as_text())
  assert programs[0] == programs[1] and "stablehlo.sort" not in programs[0]


def with_experts_of(dense, params, count: int):
  """`params` with what the dense ones have, each expert its SwiGLU."""
  shared = {name: part for name, part in dense["layers"].items() if name not in ("gate_up", "down")}
  layers = {**params["layers"], **shared}
  gate, up = jnp.unstack(dense["layers"]["gate_up"]["kernel"], axis=2)
  each = lambda kernel: {"kernel": jnp.repeat(kernel[:, None], count, 1)}
  flat = lambda kernel: kernel.reshape(*kernel.shape[:2], -1)
  kernels = {"gate": each(gate), "up": each(up), "down": each(dense["layers"]["down"]["kernel"])}
  name = "experts" if "experts" in layers else "mlp"
  layers[name] = {**layers[name], **kernels}
  for one in ("qkv", "out"):
    if "kinds" in params["layers"][one]:
      layers[one] = {"kinds": each(flat(dense["layers"][one]["kernel"]))}
  return {**params, **{name: dense[name] for name in dense if name != "layers"}, "layers": layers}


@pytest.mark.slow
@pytest.mark.parametrize("options, count", [
    (dataclasses.replace(DENSE, experts=4), 4), (KINDS["mlp"], 2), (KINDS["all"], 2)], ids=["experts", "mlp", "all"])
def test_alike_ones_are_the_dense_layer(options, count):
  """Loss, and gradients added up over the experts, through the scanned layers with and without remat."""
  batch = documents(8, 12, IDS)
  (dense, weights), (language, params) = made(DENSE), made(options)
  params = with_experts_of(weights, params, count)
  want, grads = jax.jit(jax.value_and_grad(lambda p: dense.loss(p, batch)[0]))(weights)
  for remat in ("none", "layer", "dots"):
    language, _ = made(dataclasses.replace(options, remat=remat, balance_loss=0.0))
    found, its = jax.jit(jax.value_and_grad(lambda p: language.loss(p, batch)[0]))(params)
    assert float(found) == pytest.approx(float(want), rel=1e-5)
    close(its["embed"], grads["embed"], 1e-4)
    its = its["layers"]["experts" if options.experts else "mlp"]
    close(its["down"]["kernel"].sum(1), grads["layers"]["down"]["kernel"], 1e-4)
    close(jnp.stack([its["gate"]["kernel"].sum(1), its["up"]["kernel"].sum(1)], 2),
          grads["layers"]["gate_up"]["kernel"], 1e-4)


def layer(key: int = 0, **changes):
  """(Experts of 4, x [2 10 16], all tokens real)."""
  module = Experts(dataclasses.replace(SPARSE, **changes), FLOAT32, nnx.Rngs(key))
  return module, jax.random.normal(jax.random.key(1), (2, 10, 16)), Tokens(jnp.ones((2, 10), bool))


def run(module, x, tokens):
  """module(x, tokens) in one program."""
  return jax.jit(lambda x: module(x, tokens))(x)


def every(module, x):
  """[b n e w]: each expert's SwiGLU of each token."""
  gate, up, down = (getattr(module, name).kernel[...] for name in ("gate", "up", "down"))
  inside = [jnp.einsum("bnw,ewh->bneh", x, one) for one in (gate, up)]
  return jnp.einsum("bneh,ehw->bnew", jax.nn.silu(inside[0]) * inside[1], down)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_chosen_weighted_by_hand(k):
  module, x, tokens = layer(experts_per_token=k, shared_expert=0)
  out, routed = run(module, x, tokens)
  p = np.asarray(jax.nn.softmax(module.router(x), -1))
  order = np.argsort(-p, -1)[..., :k]
  weights = np.take_along_axis(p, order, -1)
  weights = weights if k == 1 else weights / weights.sum(-1, keepdims=True)
  taken = np.take_along_axis(np.asarray(jax.jit(lambda x: every(module, x))(x)), order[..., None], 2)
  np.testing.assert_allclose(out, (taken * weights[..., None]).sum(2), atol=1e-5)
  share = np.stack([[(row == e).sum() for e in range(4)] for row in order.reshape(2, -1)]) / (10 * k)
  np.testing.assert_allclose(routed.balance, 4 * (share * p.mean(1)).sum(), rtol=1e-5)
  assert routed.wanted.tolist() == (share.sum(0) * 10 * k).round().tolist() and routed.dropped == 0
  shared, x, tokens = layer(experts_per_token=k)
  out, _ = run(shared, x, tokens)
  alone = shared.shared
  shared.shared = None
  np.testing.assert_allclose(out, run(shared, x, tokens)[0] + alone(x), atol=1e-5)


def test_what_is_beyond_the_capacity_passes_through():
  """A router that sends all to two experts of four. With twice the even share none is dropped; with once, the second
  half of each row is; outside training none is."""
  free, x, tokens = layer(shared_expert=0)
  bias = jnp.array([9.0, -9.0, 9.0, -9.0])
  outs = {}
  for capacity in (0.0, 1.0, 2.0):
    module, *_ = layer(shared_expert=0, expert_capacity=capacity)
    module.bias[...] = bias
    outs[capacity], routed = run(module, x, tokens._replace(bounded=True))
    assert routed.wanted.tolist() == [20, 0, 20, 0] and routed.dropped == (20 if capacity == 1 else 0)
    whole, _ = run(module, x, tokens)
    np.testing.assert_allclose(whole, outs[0.0], atol=1e-6)
  np.testing.assert_allclose(outs[2.0], outs[0.0], atol=1e-6)
  np.testing.assert_allclose(outs[1.0][:, :5], outs[0.0][:, :5], atol=1e-6)
  assert not np.asarray(outs[1.0][:, 5:]).any() and np.asarray(outs[0.0][:, 5:]).any()
  # tokens that lie in another order than the row's: the last ones of the row are dropped all the same
  module, *_ = layer(shared_expert=0, expert_capacity=1.0)
  module.bias[...] = bias
  place = jnp.array([5, 6, 0, 1, 2, 7, 8, 9, 3, 4])
  moved, _ = run(module, x[:, place], tokens._replace(bounded=True, place=place))
  np.testing.assert_allclose(moved, outs[1.0][:, place], atol=1e-6)


def test_padding_goes_to_nobody():
  module, x, tokens = layer(shared_expert=0)
  real = jnp.arange(10) < jnp.array([[7], [0]])
  out, routed = run(module, x, tokens._replace(real=real))
  assert routed.wanted.sum() == 2 * 7 and not np.asarray(out)[~np.asarray(real)].any()
  np.testing.assert_allclose(out[0, :7], run(module, x, tokens)[0][0, :7], atol=1e-6)
  assert np.isfinite(routed.balance)


@pytest.mark.parametrize("k", [1, 2])
def test_gradients_reach_the_router_and_the_chosen_alone(k):
  language, params = made(dataclasses.replace(SPARSE, experts_per_token=k, balance_loss=0.0))
  params["layers"]["experts"]["bias"] = params["layers"]["experts"]["bias"].at[:, 1].set(-9.0)
  batch = documents(8, 12, IDS)
  grads = jax.jit(jax.grad(lambda p: language.loss(p, batch)[0]))(params)["layers"]["experts"]
  assert not grads["bias"].any()
  for name in ("gate", "up", "down"):
    reached = np.abs(grads[name]["kernel"]).max((2, 3)) > 0
    assert (reached == [True, False, True, True]).all(), name
  assert (np.abs(grads["router"]["kernel"]).max((1, 2)) > 1e-6).all()


def preferring(params, some, by: float):
  """`params` whose tokens have something in common, by which the routers like some of the experts more."""
  layers, table = params["layers"], params["embed"]["embedding"]
  kernel = layers["experts"]["router"]["kernel"].at[..., some].add(by)
  return {**params, "embed": {"embedding": table + 0.5},
          "layers": {**layers, "experts": {**layers["experts"], "router": {"kernel": kernel}}}}


@pytest.mark.slow
def test_balance_loss_evens_a_router():
  """Alone, on a router that prefers two of the experts."""
  language, params = made(dataclasses.replace(SPARSE, balance_loss=1.0))
  params = preferring(params, slice(2, None), 0.3)
  batch = documents(8, 12, IDS)

  @jax.jit
  def move(params):
    of = lambda params: language.routed(params, batch)[1][1].balance.mean() / 8
    balance, grads = jax.value_and_grad(of)(params)
    return jax.tree_util.tree_map_with_path(
        lambda path, x, g: x - 0.5 * g if "router" in path_name(path) else x, params, grads), balance

  found = []
  for _ in range(40):
    params, balance = move(params)
    found.append(float(balance))
  assert found[0] > 1.2 and found[-1] < 0.5 * (1 + found[0])


@pytest.mark.slow
def test_bias_evens_a_skewed_router_though_all_else_is_frozen():
  """The step moves it with every weight frozen; the load of the busiest falls; the averaged weights have it, too."""
  options = dataclasses.replace(SPARSE, balance_bias=0.005, balance_loss=0.0)
  language, params = made(options)
  frozen = jax.tree.map(lambda _: True, params)
  tx = optimizer(TRAIN, frozen)
  state = decoder_state(language, tx, jax.random.key(0))
  state = state._replace(params=preferring(state.params, 0, 0.15))
  batch = jax.tree.map(jnp.asarray, documents(8, 12, IDS))
  step, start, loads = jax.jit(lambda s: decoder_step(language, tx, s, batch, jax.random.key(1))), state.params, []
  for _ in range(200):
    state, metrics = step(state)
    loads.append(float(metrics["expert_load"]))
  assert loads[0] > 1.5 and np.mean(loads[-20:]) < 1.25, (loads[0], loads[-20:])
  moved = {path_name(path) for path, same in jax.tree_util.tree_leaves_with_path(
      jax.tree.map(lambda a, b: bool((a == b).all()), state.params, start)) if not same}
  assert moved == {"layers/experts/bias"}
  assert state.extra["average"]["layers"]["experts"]["bias"].any()
  assert metrics["balance_loss"].value() > 0 and metrics["expert_dropped"].value() == 0


def test_bias_stays_where_the_step_is_skipped():
  language, _ = made(dataclasses.replace(SPARSE, balance_bias=0.1))
  tx, batch = optimizer(TRAIN), documents(8, 12, IDS)
  state = jax.jit(lambda key: decoder_state(language, tx, key))(jax.random.key(0))
  bad = batch._replace(loss_weights=batch.loss_weights * np.nan)
  after, metrics = jax.jit(lambda state: decoder_step(language, tx, state, bad, jax.random.key(1)))(state)
  assert metrics["skipped"] == 1
  jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


# ---- as every decoder

EVERY = {"experts": dataclasses.replace(SPARSE, expert_capacity=1.0),
         "one each": dataclasses.replace(SPARSE, experts_per_token=1), **KINDS}


@pytest.mark.parametrize("name", EVERY)
def test_cached_decoding_is_the_full_forward_pass(name):
  """First 5 tokens, then one, then three at a time; a capacity binds training alone."""
  language, params = made(EVERY[name])
  model, (ids, positions, rule) = language.model(params), given()
  whole = np.asarray(jax.jit(model.hidden)(ids, positions, rule))
  (cache, at), (ids, positions) = (model.empty_cache(2, 12), 0), map(np.asarray, (ids, positions))
  extend = jax.jit(lambda ids, positions, some, cache, at: model.extend(ids, positions, some, cache, rule, at))
  for n in (5, 1, 3, 3):
    part = lambda x: np.asarray(x)[:, at:at + n]
    found, cache = extend(part(ids), part(positions), Rule(*map(part, rule)), cache, at)
    np.testing.assert_allclose(found, part(whole), atol=2e-5)
    at += n


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_packed_documents_do_not_know_each_other(name):
  """Two of 7 and 5 tokens in a row of 16, padding behind them, against each alone."""
  language, params = made(EVERY[name])
  model, (ids, positions, rule) = language.model(params), given(1, 12)
  parts = [(0, 7), (7, 12)]
  hidden = jax.jit(model.hidden)
  alone = [hidden(ids[:, a:b], positions[:, :b - a], Rule(*(x[:, :b - a] for x in rule))) for a, b in parts]
  join = lambda x: jnp.concatenate([x[:, :b - a] for a, b in parts] + [0 * x[:, :4]], 1)
  segments = jnp.array([[1] * 7 + [2] * 5 + [0] * 4])
  together = Rule(join(rule.order).at[:, 12:].set(-1), join(rule.visible_from).at[:, 12:].set(2**30),
                  join(rule.visible_until).at[:, 12:].set(-1), segments)
  found = hidden(jnp.pad(ids, ((0, 0), (0, 4))), join(positions), together)
  np.testing.assert_allclose(found[:, :12], jnp.concatenate(alone, 1), atol=2e-5)
  assert np.isfinite(found).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_parts_make_the_step_of_the_whole(name):
  """Weights and metrics of a step in four parts, the balance loss and what is dropped among them."""
  batch = documents(8, 12, IDS)

  def step(parts):
    options = dataclasses.replace(EVERY[name], balance_bias=0.01, train=dataclasses.replace(TRAIN, accumulate=parts))
    language, tx = Language(options, IDS, ("a", "b"), image=IMAGE), optimizer(options.train)
    state = decoder_state(language, tx, jax.random.key(0))._replace(step=jnp.int32(1))
    state = state._replace(opt_state=jax.tree.map(lambda x: x + 1 if x.ndim == 0 else x, state.opt_state))
    return jax.jit(lambda s: decoder_step(language, tx, s, batch, jax.random.key(1)))(state)

  (whole, told), (parts, also) = step(1), step(4)
  close(parts.opt_state, whole.opt_state, 1e-4)
  close(parts.params, whole.params, 1e-4)
  close(also, told, 1e-4)
  if name == "experts":
    assert 0 < told["expert_dropped"].value() < 0.5 and told["expert_load"] >= 1 <= told["balance_loss"].value()


@pytest.mark.slow
def test_muon_moves_each_experts_matrix():
  language, params = made(SPARSE)
  tx = optimizer(dataclasses.replace(TRAIN, optimizer="muon", learning_rate=1.0, warmup_steps=0, weight_decay=0.0,
                                     clip=1e9))
  grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
  updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  for name in ("gate", "down"):
    for e in range(4):
      singular, raw = (np.linalg.svd(np.asarray(tree["layers"]["experts"][name]["kernel"][1, e]), compute_uv=False)
                       for tree in (updates, grads))
      assert singular[0] / singular[-3] < 3 and raw[0] / raw[-1] > singular[0] / singular[-3]


# ---- by modality

@pytest.mark.parametrize("name", KINDS)
def test_each_kind_has_its_own_weights(name):
  """A row of text alone gives the pictures' weights no gradient, and the other way round; attention is shared."""
  language, params = made(KINDS[name])
  _, positions, rule = given(1, 12)
  outputs = lambda params, ids: language.model(params).hidden(ids[None], positions, rule)
  pictures = jnp.asarray([8, 19, 26, 29, 12, 13, 14, 15, 16, 17, 18, 27])
  text = jnp.asarray([0, 7, 20, 25, 30, 31, 1, 2, 3, 4, 5, 6])
  gradient = jax.jit(jax.grad(lambda p, row: (outputs(p, row) ** 3).sum()))
  for row, own in ((text, 0), (pictures, 1)):
    grads = jax.device_get(gradient(params, row))
    kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(grads["layers"])
               if "kinds" in path_name(path) or "mlp/" in path_name(path)]
    assert len(kernels) == (5 if name == "all" else 3)
    for kernel in kernels:
      assert (np.abs(kernel[:, own]).max((1, 2)) > 0).all() and not kernel[:, 1 - own].any()
  mixed = jnp.where(jnp.arange(12) < 6, pictures, text)
  reach = jax.jit(jax.grad(lambda p: outputs(p, mixed)[0, -1, 0]))(params)["embed"]["embedding"]
  assert np.abs(reach[mixed[0]]).max() > 1e-6, "text sees the picture before it"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", KINDS)
def test_weights_by_modality_cost_what_one_set_does(monkeypatch, name, form):
  """FLOPs of a training step, and of a forward pass: a sixteenth more at most. Twice the weights, as many active."""
  for module in (of_experts, modality_experts):
    monkeypatch.setattr(module, "form_here", lambda: form)
  few = dataclasses.replace(DENSE, width=64, hidden=128, row_length=256)
  batch = documents(8, 256, IDS)
  cost, weights = [], []
  for options in (few, dataclasses.replace(few, modality_experts=name)):
    language, tx = Language(options, IDS, ("a", "b"), image=IMAGE), optimizer(TRAIN)
    state = jax.eval_shape(functools.partial(decoder_state, language, tx), jax.random.key(0))
    step = flops(lambda s, l=language: decoder_step(l, tx, s, batch, jax.random.key(1)), state)
    cost.append((step, flops(lambda p, l=language: l.loss(p, batch), state.params)))
    weights.append((parameters(state.params), active(state.params, options)))
  for dense, apart in zip(*cost):
    assert dense <= apart <= dense * 17 / 16
  assert weights[0][0] == weights[0][1] == weights[1][1] < 0.7 * weights[1][0]


def test_experts_cost_what_is_active():
  """Two of eight experts cost as a dense SwiGLU of twice their width, but for the router and a sixteenth."""
  batch = documents(8, 256, IDS)
  dense = dataclasses.replace(DENSE, width=64, hidden=128)
  sparse = dataclasses.replace(dense, experts=8, expert_hidden=64)
  cost = []
  for options in (dense, sparse):
    language = Language(options, IDS, ("a", "b"))
    params = jax.eval_shape(language.init, jax.random.key(0))
    cost.append((flops(jax.grad(lambda p, l=language: l.loss(p, batch)[0]), params), active(params, options)))
  router = 2 * 64 * 8
  assert cost[0][1] + router + 2 * 8 == cost[1][1]
  assert cost[0][0] + 3 * 2 * 8 * 256 * router <= cost[1][0] <= (cost[0][0] + 3 * 2 * 8 * 256 * router) * 17 / 16


# ---- what cannot be

@pytest.mark.parametrize("change, says", [
    (dict(experts=-1), "decoder.experts: -1 must be a number of experts"),
    (dict(experts_per_token=5), "decoder.experts_per_token: 5 must be from 1 to decoder.experts 4"),
    (dict(expert_capacity=-0.5), "decoder.expert_capacity: -0.5 must be a number from 0 on, 0 for no bound"),
    (dict(balance_bias=float("inf")), "decoder.balance_bias: inf must be"),
    (dict(modality_experts="mlp"), "decoder.modality_experts: mlp does not go with decoder.experts 4")])
def test_what_cannot_be_built_is_told(change, says):
  with pytest.raises(ValueError, match=says):
    check(dataclasses.replace(SPARSE, **change))


def test_no_pictures_no_weights_of_theirs():
  with pytest.raises(ValueError, match="decoder.modality_experts: mlp, but the vocabulary has no block 'image'; "):
    Language(KINDS["mlp"], IDS, ())
  assert make_vocabulary({"text": 4, "image": 6}, {}).image == (range(68, 74),)
  assert make_vocabulary({"text": 4}, {}).image == ()


def test_a_mesh_that_does_not_divide_is_told():
  class Mesh:
    shape = dict(data=1, fsdp=2, expert=4, sequence=1, tensor=2)

  good = dataclasses.replace(SPARSE, experts=8)
  check_decoder(good, IDS, Mesh)
  for options, says in ((dataclasses.replace(good, experts=6), "mesh.expert: 4 does not divide decoder.experts 6; "),
                        (DENSE, "mesh.expert: 4 does not divide decoder.experts 0; take 1"),
                        (dataclasses.replace(good, expert_hidden=13), "mesh.tensor: 2 .* decoder.expert_hidden 13")):
    with pytest.raises(ValueError, match=says):
      check_decoder(options, IDS, Mesh)
  with pytest.raises(ValueError, match="batch_size: 12 rows do not divide over data 1 x fsdp 2 x expert 4; take a mul"):
    check_batch(12, Mesh, "train.batch_size")


# ---- eight devices

OVER_EXPERTS = [{axis: size for axis, size in zip(("expert", "data", "fsdp", "sequence", "tensor"), sizes) if size > 1}
                for sizes in itertools.product((2, 4, 8), *[(1, 2, 4)] * 4) if math.prod(sizes) == 8]
MESHES = {"experts": [*OVER_EXPERTS, dict(data=8), dict(fsdp=8), dict(tensor=8), dict(sequence=8)],
          "batch": [dict(expert=8), dict(expert=2, fsdp=2, tensor=2)],
          "all": [dict(data=2, fsdp=2, tensor=2), dict(sequence=4, tensor=2), dict(fsdp=8)],
          "mlp": [dict(fsdp=4, tensor=2)]}
name_of = lambda sizes: " ".join(f"{axis} {size}" for axis, size in sizes.items())
CASES = [(model, name_of(sizes)) for model, meshes in MESHES.items() for sizes in meshes]


def measure() -> dict:
  from unitok.sharding import create, make_mesh, place_batch, under
  single = make_mesh(c.Mesh(), jax.devices()[:1])
  train = c.Train(steps=4, batch_size=16, learning_rate=1e-3, warmup_steps=1)
  base = c.Decoder(layers=2, width=32, heads=8, kv_heads=8, hidden=64, row_length=16, grid_embedding=8, train=train)
  sparse = dataclasses.replace(base, experts=8, expert_hidden=16, shared_expert=16)
  options = {"experts": dataclasses.replace(sparse, expert_capacity=1.25), "batch": sparse,
             **{name: dataclasses.replace(base, modality_experts=name) for name in KINDS}}
  batch = documents(16, 16, 64)
  padded = batch.order >= 13
  padding = dict(segment_ids=0, loss_weights=0, visible_from=2**30, visible_until=-1, order=-1)
  batch = batch._replace(**{name: np.where(padded, value, getattr(batch, name)).astype(getattr(batch, name).dtype)
                            for name, value in padding.items()})

  def distance(a, b):
    return max(float(np.linalg.norm(x - y) / (np.linalg.norm(y) + 1e-12)) for x, y in zip(*map(jax.tree.leaves, (a, b))))

  found, here = {"devices": jax.device_count(), "same": {}}, of_experts.form_here
  for model, meshes in MESHES.items():
    of_experts.form_here = (lambda: "batch") if model == "batch" else here
    language = Language(options[model], 64, ("a", "b"), image=(range(8, 30),))

    def run(mesh):
      params = create(language.init, mesh, jax.random.key(0))
      both = jax.jit(under(mesh, jax.value_and_grad(language.routed, has_aux=True)))
      return jax.device_get(both(params, place_batch(batch, mesh)))

    (value, (_, routed)), grads = run(single)
    for sizes in meshes:
      (other, (_, also)), others = run(make_mesh(c.Mesh(**{"data": 1, **sizes})))
      found["same"][f"{model}: {name_of(sizes)}"] = [abs(other / value - 1).item(), distance(others, grads),
                                                     0.0 if routed is None else distance(also, routed)]
    if model == "batch":
      found["work"] = work(make_mesh(c.Mesh(data=1, expert=8)))
    if model == "experts":
      found["dropped"] = float(routed.dropped.sum() / routed.wanted.sum())

  chosen = dataclasses.replace(options["experts"], balance_bias=0.01, train=dataclasses.replace(train, optimizer="muon"))
  language, tx = Language(chosen, 64, ("a", "b")), optimizer(chosen.train)

  def trained(mesh):
    state = create(functools.partial(decoder_state, language, tx), mesh, jax.random.key(0))
    advance = jax.jit(under(mesh, functools.partial(decoder_step, language, tx)),
                      out_shardings=(jax.tree.map(lambda x: x.sharding, state), None))
    for _ in range(3):
      given = state, place_batch(batch, mesh), jax.random.key(1)
      state, metrics = jax.block_until_ready(advance(*given))     # several under way may wait for each other's threads
    return state, jax.device_get(metrics)

  (one, told), (other, also) = trained(single), trained(make_mesh(c.Mesh(data=1, expert=2, fsdp=2, tensor=2)))
  kernels = {name: other.params["layers"]["experts"][name]["kernel"] for name in ("gate", "down")}
  found["trained"] = {"distance": distance(*jax.device_get((other.params, one.params))), "metrics": distance(also, told),
                      "places": {name: [list(map(str, kernel.sharding.spec)), kernel.addressable_shards[0].data.shape]
                                 for name, kernel in kernels.items()}}
  return found


def work(mesh) -> list:
  """[products of blocks on all devices, entries over the slots of a block, experts] of one forward product of the layer."""
  from unitok.sharding import place_batch, under
  module, counted, dot = Experts(dataclasses.replace(SPARSE, experts=16), FLOAT32, nnx.Rngs(0)), [], of_experts._dot

  def counting(*given):
    jax.debug.callback(lambda: counted.append(1))
    return dot(*given)

  x, real = np.random.default_rng(0).normal(size=(8, 64, SPARSE.width)).astype(np.float32), np.ones((8, 64), bool)
  of_experts._dot = counting
  jax.block_until_ready(jax.jit(under(mesh, lambda x, real: module(x, Tokens(real))))(*place_batch((x, real), mesh)))
  jax.effects_barrier()
  of_experts._dot = dot
  entries = real.size * SPARSE.experts_per_token
  return [len(counted) / 3, entries / block_size(entries, 16, "batch"), 16]


@pytest.fixture(scope="module")
def report():
  return eight_devices.report(__file__)


@pytest.mark.slow
@pytest.mark.parametrize("model, mesh", CASES)
def test_every_mesh_gives_one_devices_loss_and_gradients(report, model, mesh):
  loss, grads, routed = report["same"][f"{model}: {mesh}"]
  assert loss <= 1e-5 and grads <= 1e-4 and routed <= 1e-5
  assert 0.01 < report["dropped"] < 0.5, "some entries are dropped, the same ones everywhere"


@pytest.mark.slow
def test_a_device_multiplies_its_own_entries(report):
  """In the form of GPU and TPU, too: of all devices together the blocks of the entries, and one more an expert at most."""
  blocks, full, experts = report["work"]
  assert full <= blocks <= full + experts


@pytest.mark.slow
def test_experts_train_on_the_mesh_as_on_one_device(report):
  """Muon and the bias among it; each device holds an eighth of the experts."""
  found = report["trained"]
  assert found["distance"] <= 1e-4 and found["metrics"] <= 1e-4
  assert found["places"] == {"gate": [["None", "expert", "fsdp", "tensor"], [2, 4, 16, 8]],
                             "down": [["None", "expert", "tensor", "fsdp"], [2, 4, 8, 16]]}


if __name__ == "__main__":
  print(json.dumps(measure()))
