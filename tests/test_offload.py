"""Optimizer state and activations in the host's memory: the same training, and they do lie there."""
import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.batches import Same, documents
from train.loop import fit, seconds_a_step
from unitok import config as c
from unitok.checkpoint import Checkpoints
from unitok.metrics import Writers
from unitok.optim import optimizer
from unitok.sharding import HOST, create, make_mesh
from unitok.steps import Language, decoder_state, decoder_step

OPTIONS = c.Decoder(layers=2, width=32, heads=4, kv_heads=2, hidden=64, row_length=16, grid_embedding=8,
                    train=c.Train(steps=6, batch_size=8, save_every=3))
BATCH = documents(8, 16, 64)


def new(offload: bool, kind: str):
  """(step, fresh state)."""
  train = dataclasses.replace(OPTIONS.train, optimizer=kind)
  model, tx = Language(dataclasses.replace(OPTIONS, train=train), 64, ("a", "b")), optimizer(train)
  return (functools.partial(decoder_step, model, tx),
          create(functools.partial(decoder_state, model, tx), make_mesh(), jax.random.key(0), offload=offload))


def trained(folder, offload: bool, kind: str, steps: int):
  step, state = new(offload, kind)
  with Checkpoints(folder) as checkpoints:
    return fit(state=state, step_fn=step, batches=Same(BATCH), train=dataclasses.replace(OPTIONS.train, steps=steps),
               checkpoints=checkpoints, writer=Writers([]), key=jax.random.key(1), examples_per_step=8, title="decoder")


def kinds(tree) -> set[str]:
  """Of memory that a tree's arrays are in."""
  return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree) if leaf.ndim}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_optimizer_in_the_hosts_memory(tmp_path, kind):
  """Stopped and resumed, too, and by a run that has it on the device again: bit for bit the same."""
  at_home = trained(tmp_path / "device", False, kind, 6)
  away = trained(tmp_path / "host", True, kind, 3)
  assert kinds(away.opt_state) == {HOST} and kinds(at_home.opt_state) == kinds((away.params, away.extra)) == {"device"}
  resumed = trained(tmp_path / "host", True, kind, 6)
  assert kinds(resumed.opt_state) == {HOST} and int(resumed.step) == 6
  jax.tree.map(np.testing.assert_array_equal, resumed, at_home)
  trained(tmp_path / "both", True, kind, 3)
  back = trained(tmp_path / "both", False, kind, 6)
  assert kinds(back.opt_state) == {"device"}
  jax.tree.map(np.testing.assert_array_equal, back, at_home)


def test_a_step_is_timed_with_it():
  step, state = new(True, "adamw")
  once, each = seconds_a_step(state, step, Same(BATCH), make_mesh())
  assert 0 < each < once


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_activations_in_the_hosts_memory(platform):
  """What the layers leave for the backward pass goes there and comes back; a CPU's memory is the host's."""
  def lowered(remat):
    model = Language(dataclasses.replace(OPTIONS, remat=remat), 64, ("a", "b"))
    params = model.init(jax.random.key(0))
    grad = jax.jit(jax.grad(lambda params: model.loss(params, BATCH)[0]))
    return grad.trace(params).lower(lowering_platforms=(platform,)).as_text()
  assert lowered("offload").count(HOST) >= 2 > lowered("dots").count(HOST)


def test_devices_without_the_hosts_memory(monkeypatch):
  monkeypatch.setattr("unitok.sharding.HOST", "no_such_memory")
  with pytest.raises(ValueError, match="mesh.offload: cpu devices here cannot reach the host's memory"):
    new(True, "adamw")
