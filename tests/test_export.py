"""What this machine cannot run it can still compile: attention, a training step and a step of drawing, for TPU and GPU."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from unitok import config as c
from unitok.models import experts, modality_experts
from unitok.models.attention import ATTENTION, attend, look
from unitok.models.precision import PRECISIONS
from unitok.models.rule import Rule
from unitok.models.scores import PLAIN, Scores
from unitok.optim import optimizer
from unitok.sequence import Batch
from unitok.steps import Language, decoder_state, decoder_step

CARDS = {"tpu": AbstractDevice("TPU v5e", 1, "tpu"), "cuda": AbstractDevice("NVIDIA H100", None, "gpu")}
PLATFORMS = tuple(CARDS)
OPTIONS = c.Decoder(layers=2, width=128, heads=2, kv_heads=1, hidden=128, grid_embedding=8, row_length=512,
                    train=c.Train(optimizer="muon"))
BFLOAT16 = PRECISIONS["bfloat16"]


def rows(b: int, n: int):
  order = jnp.tile(jnp.arange(n, dtype=jnp.int32), (b, 1))
  return Rule(order, order, jnp.full((b, n), 2**30, jnp.int32), jnp.ones((b, n), jnp.int32))


def exported(function, platform: str, *arguments) -> export.Exported:
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
  kernel = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")     # its form may change between versions
  # from jax 0.11 a Triton kernel is made for a card that is named
  with use_abstract_mesh(AbstractMesh((), (), abstract_device=CARDS[platform])):
    return export.export(jax.jit(function), platforms=[platform], disabled_checks=[kernel])(*shapes)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("kind, score", [*((kind, PLAIN) for kind in ATTENTION), ("fused", Scores(32.0, 50.0))])
def test_attention(kind, score, platform):
  """Forward and backward; the fused kernel is really one there, and interpreted nowhere."""
  rule = rows(2, 256)
  q = jnp.zeros((2, 256, 4, 64), jnp.bfloat16)
  k = jnp.zeros((2, 2, 256, 64), jnp.bfloat16)

  def both(q, k, v, rule):
    out = lambda *x: attend(*x, look(rule, kind), score).astype(jnp.float32).sum()
    return jax.value_and_grad(out, (0, 1, 2))(q, k, v)

  program = exported(both, platform, q, k, k, rule)
  assert program.platforms == (platform,)
  kernel = {"tpu": "tpu_custom_call", "cuda": "triton"}[platform]
  assert (kernel in program.mlir_module()) == (kind == "fused")


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("kind", ATTENTION)
def test_training_step(kind, platform):
  options = dataclasses.replace(OPTIONS, attention=kind)
  language, tx = Language(options, 100, ("a/text",), BFLOAT16), optimizer(options.train, None, jnp.bfloat16)
  state = jax.eval_shape(functools.partial(decoder_state, language, tx), jax.random.key(0))
  rule, ids = rows(2, 512), jnp.zeros((2, 512), jnp.int32)
  batch = Batch(ids, ids, jnp.ones((2, 512)), *rule, tasks=ids, positions=jnp.zeros((2, 512, 3)))
  program = exported(lambda s, b: decoder_step(language, tx, s, b, None)[0], platform, state, batch)
  assert len(program.out_avals) == len(jax.tree.leaves(state))


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("switches", [dict(experts=8, shared_expert=64, balance_bias=0.001), dict(modality_experts="all")],
                         ids=["experts", "modality_experts"])
def test_training_step_with_experts(switches, platform, monkeypatch):
  """In the form that cards take."""
  for module in (experts, modality_experts):
    monkeypatch.setattr(module, "form_here", lambda: "batch")
  options = dataclasses.replace(OPTIONS, train=c.Train(), **switches)      # muon's layout constraints are not exported
  language = Language(options, 100, ("a/text",), BFLOAT16, image=(range(50, 90),))
  tx = optimizer(options.train, None, jnp.bfloat16)
  state = jax.eval_shape(functools.partial(decoder_state, language, tx), jax.random.key(0))
  rule, ids = rows(2, 512), jnp.zeros((2, 512), jnp.int32)
  batch = Batch(ids, ids, jnp.ones((2, 512)), *rule, tasks=ids, positions=jnp.zeros((2, 512, 3)))
  program = exported(lambda s, b: decoder_step(language, tx, s, b, None)[0], platform, state, batch)
  assert len(program.out_avals) == len(jax.tree.leaves(state))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_step_of_drawing(platform):
  """A few tokens behind a cache."""
  language = Language(OPTIONS, 100, (), BFLOAT16)
  params = jax.eval_shape(language.init, jax.random.key(0))

  def step(params, ids, rule, cache_rule, cache, at):
    model = language.model(params)
    hidden, cache = model.extend(ids, jnp.zeros((*ids.shape, 3)), rule, cache, cache_rule, at)
    return model.logits(hidden), cache

  cache = jax.eval_shape(lambda p: language.model(p).empty_cache(4, 64), params)
  program = exported(step, platform, params, jnp.zeros((4, 2), jnp.int32), rows(4, 2), rows(4, 64), cache, jnp.int32(0))
  assert program.out_avals[0].shape == (4, 2, 100) and program.out_avals[0].dtype == np.float32


@pytest.mark.skipif(jax.default_backend() not in ("gpu", "tpu"), reason="the fused kernel needs a GPU or TPU")
def test_fused_on_its_own_card():
  rule = rows(2, 256)
  q, k, v = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(2, 256, 4, 64)] + [(2, 2, 256, 64)] * 2))
  np.testing.assert_allclose(*(jax.jit(lambda kind=kind: attend(q, k, v, look(rule, kind)))() for kind in ("fused", "dense")),
                             atol=2e-2)
