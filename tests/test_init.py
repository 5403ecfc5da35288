"""Starting from another run, parts that stay as they are, and going on after a crash from a periodic checkpoint."""
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

from train import decoder
from train.loop import fit
from unitok import config as c
from unitok.checkpoint import Checkpoints, load_part
from unitok.metrics import Writers
from unitok.optim import optimizer
from unitok.run import read_vocabulary
from unitok.sharding import path_name
from unitok.steps import Language, TrainState, decoder_state
from unitok.vocab import make_vocabulary


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return small_run.made(tmp_path_factory)


def config(source, frozen=(), optimizer="adamw") -> c.Config:
  """small_run's, begun from `source`, without drawing."""
  train = dataclasses.replace(small_run.TRAIN, optimizer=optimizer, weight_decay=0.5)
  options = dataclasses.replace(small_run.CONFIG.decoder, train=train,
                                tasks=dict(small_run.CONFIG.decoder.tasks, text_to_image=0.0))
  return dataclasses.replace(small_run.CONFIG, decoder=options, init=c.Init(str(source), frozen))


def new_workdir(source, folder, config):
  """A folder with the tokenizers' outcome, in which the decoder is left to train."""
  shutil.copytree(source, folder, ignore=shutil.ignore_patterns("decoder", "report", "metrics.jsonl", "config.json"))
  (folder / "config.json").write_text(json.dumps(c.to_json(config)))
  return folder


def read(folder, part: str):
  """{path: array} of one part of a decoder's newest checkpoint; "average" is a part here."""
  model = Language(small_run.CONFIG.decoder, read_vocabulary(folder).size, ())
  params = jax.eval_shape(model.init, jax.random.key(0))
  found = load_part(folder / "decoder", "extra", {"average": params})[0]["average"] if part == "average" else \
      load_part(folder / "decoder", part, params)[0]
  return flat(found)


def flat(tree) -> dict:
  return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_starts_from_the_averaged_weights(source, tmp_path, monkeypatch):
  """Exactly, in the weights and in their running mean; step and optimizer begin anew."""
  seen = []
  monkeypatch.setattr(decoder, "fit", lambda state, **rest: seen.append(state))
  chosen = config(source)
  decoder.run(chosen, new_workdir(source, tmp_path / "further", chosen))
  average, state = read(source, "average"), seen[0]
  assert any((average[name] != x).any() for name, x in read(source, "params").items()), "the average is not the weights"
  for begun in (flat(state.params), flat(state.extra["average"])):
    assert begun.keys() == average.keys()
    for name, x in begun.items():
      np.testing.assert_array_equal(x, average[name], err_msg=name)
  assert int(state.step) == 0 and not any(x.any() for x in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_frozen_parts_do_not_move(source, tmp_path, kind):
  """Weight decay and Muon included. A layer's kernel, an embedding and a norm stay, everything else moves."""
  chosen = config(source, ("decoder/layers/(qkv|mlp_norm)/", "^decoder/embed/", "image_tokenizer/nothing-of-this-stage"), kind)
  workdir = new_workdir(source, tmp_path / kind, chosen)
  decoder.run(chosen, workdir)
  before, after, average = read(source, "average"), read(workdir, "params"), read(workdir, "average")
  stays = {name for name in before if name.startswith(("layers/qkv/", "layers/mlp_norm/", "embed/"))}
  assert stays == {"layers/qkv/kernel", "layers/mlp_norm/scale", "embed/embedding"}
  for name in stays:
    np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    np.testing.assert_allclose(average[name], before[name], rtol=1e-6, err_msg=name)
  assert not {name for name in before.keys() - stays if (after[name] == before[name]).all()}, "did not move"


def test_pattern_without_match(source, tmp_path):
  chosen = config(source, ("decoder/layers/qvk",))
  with pytest.raises(ValueError, match="init.frozen: 'decoder/layers/qvk' matches no parameter; they are"):
    decoder.run(chosen, new_workdir(source, tmp_path / "further", chosen))


def test_vocabulary_that_does_not_fit(source, tmp_path):
  """The other run's decoder speaks of other codes, though their number is the same."""
  mine = read_vocabulary(source)
  other = make_vocabulary({"text": mine.block("text").size, "image": mine.block("image").size},
                          {"text": "0" * 16, "image": "1" * 16})
  assert other.size == mine.size
  state = decoder_state(Language(small_run.CONFIG.decoder, other.size, ()), optimizer(small_run.TRAIN), jax.random.key(0))
  with Checkpoints(tmp_path / "other" / "decoder") as checkpoints:
    checkpoints.save(1, state, meta={"vocabulary": other.fingerprint})
  chosen = config(tmp_path / "other")
  with pytest.raises(ValueError, match=f"init.from: .*was trained on vocabulary {other.fingerprint}, this run's is "
                                       f"{mine.fingerprint}; .*--init.frozen image_tokenizer") as told:
    decoder.run(chosen, new_workdir(source, tmp_path / "further", chosen))
  assert "\n" not in str(told.value)


def test_nothing_to_start_from(tmp_path, source):
  chosen = config(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="init.from: .*nowhere/decoder: no such folder"):
    decoder.run(chosen, new_workdir(source, tmp_path / "further", chosen))


# ---- a crash after a periodic checkpoint

SIDE = 1_000
"""4 MB an array: the next steps are through long before one is written."""


class Numbers:
  """Endless batches f32[2]; an error where batch `last` is asked for."""

  def __init__(self, last: int | None = None):
    self.step, self.last = 0, last

  def __next__(self):
    if self.step == self.last:
      raise RuntimeError("power")
    self.step += 1
    return np.full(2, self.step, np.float32)

  def get_state(self):
    return {"step": self.step}

  def set_state(self, state):
    self.step = state["step"]


def step_fn(state, batch, key):
  """Weights that remember every batch and key, so that any two steps mixed in one array show."""
  noise = batch[0] + jax.random.uniform(key)
  move = lambda x: x * 0.9 + noise
  params = jax.tree.map(move, state.params)
  moments = jax.tree.map(lambda m, w: 0.5 * m + w, state.opt_state, params)
  return TrainState(state.step + 1, params, moments, jax.tree.map(move, state.extra)), {"loss": noise}


def big() -> TrainState:
  array = lambda: {name: jnp.zeros((SIDE, SIDE)) for name in "ab"}
  return TrainState(jnp.zeros((), jnp.int32), array(), array(), {"average": array()})


def go(folder, steps: int, batches):
  """A checkpoint every 3 steps."""
  with Checkpoints(folder, 2) as checkpoints:
    train = c.Train(steps=steps, batch_size=2, log_every=1, save_every=3)
    return fit(state=big(), step_fn=step_fn, batches=batches, train=train, checkpoints=checkpoints, writer=Writers([]),
               key=jax.random.key(0), examples_per_step=2, title="model")


def test_gone_on_with_after_a_crash(tmp_path):
  """From a checkpoint taken in passing, while the next steps overwrote the state's memory (it is donated)."""
  want = go(tmp_path / "whole", 11, Numbers())
  with pytest.raises(RuntimeError, match="power"):
    go(tmp_path / "crashed", 11, Numbers(last=8))
  with Checkpoints(tmp_path / "crashed") as checkpoints:
    found = checkpoints.restore_latest(big())
  assert found.step == 6
  jax.tree.map(np.testing.assert_array_equal, found.state, go(tmp_path / "six", 6, Numbers()))
  jax.tree.map(np.testing.assert_array_equal, go(tmp_path / "crashed", 11, Numbers()), want)
