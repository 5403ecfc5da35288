"""What ends a training or takes it back: steps that are skipped, spikes of the loss, bad batches."""
import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loop import TRAIN, Numbers, go, kill, lines, step_fn

from train.loop import Interrupted, fit
from unitok import config as c
from unitok.checkpoint import Checkpoints
from unitok.metrics import JsonlWriter, Writers
from unitok.optim import optimizer
from unitok.sequence import Batch
from unitok.steps import Language, decoder_state, decoder_step, unless_broken


def skipping(*bad):
  """step_fn that skips the steps that follow these."""
  def step(state, batch, key):
    new, metrics = step_fn(state, batch, key)
    fine = ~jnp.isin(state.step, jnp.array(bad))
    new = unless_broken(fine, new, state)._replace(step=state.step + 1)
    return new, {**metrics, "loss": jnp.where(fine, metrics["loss"], jnp.nan), "skipped": 1.0 - fine}
  return step


def test_skipped_steps_are_counted(tmp_path, capsys):
  """The others' means are as if they were not there; the count in a row starts anew with each good step, and a run that
  goes on counts on."""
  train = dataclasses.replace(TRAIN, skip_at_most=2, save_every=6)
  go(tmp_path, Numbers(), train, step_fn=skipping(2, 4, 5, 7))
  found = lines(tmp_path)
  assert [line["skipped"] for line in found] == [0, 1, 2, 1, 0] and "1 skipped" not in capsys.readouterr().out
  assert [line.get("loss/caption") for line in found] == [1.5, 4.0, None, 7.0, 9.5]
  assert Checkpoints(tmp_path / "model").latest() == 10
  (tmp_path / "on").mkdir()
  with pytest.raises(Interrupted):
    go(tmp_path / "on", Numbers({5: kill()}), train, step_fn=skipping(4, 5, 6))
  with pytest.raises(ValueError, match="at step 7, nor at the 2 before it; the last good checkpoint is step 6"):
    go(tmp_path / "on", Numbers(), train, step_fn=skipping(4, 5, 6))


def crash():
  raise RuntimeError("power")


class Spiked(Numbers):
  """Numbers whose batches of these numbers are bad: a thousand times as large. `left_out`: those that never come."""

  def __init__(self, bad=(), left_out=(), at=None):
    super().__init__(at)
    self.bad, self.left_out = bad, left_out

  def __next__(self):
    while self.step + 1 in self.left_out:
      self.step += 1
    batch = super().__next__()
    return batch * (1e3 if self.step in self.bad else 1)


SPIKES = dataclasses.replace(TRAIN, steps=12, save_every=3, log_every=1, spike_deviations=50.0, spike_window=3)


@pytest.mark.parametrize("bad, left_out", [
    pytest.param((8,), (7, 8), marks=pytest.mark.slow), pytest.param((9,), (7, 8, 9), marks=pytest.mark.slow),
    ((12,), (10, 11, 12)), ((8, 10), (7, 8, 9, 10)), ((7,), (7,))])
def test_spike(tmp_path, capsys, bad, left_out):
  """The run ends as one without the batches since the checkpoint, also where a step is settled late or the spike comes
  again; a run stopped before or behind it does the same."""
  names = ("without", "with", "stopped")
  folders = [tmp_path / name for name in names]
  for folder in folders:
    folder.mkdir()
  want = go(folders[0], Spiked(left_out=left_out), SPIKES)
  assert "passed over" not in capsys.readouterr().out
  batches = Spiked(bad)
  got = go(folders[1], batches, SPIKES)
  said = capsys.readouterr().out
  assert f"of step {bad[0]} is above" in said and f"back to step {left_out[0] - 1}; the" in said
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert batches.seen == list(range(1, 13 + len(left_out)))
  untimed = lambda folder: [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines(folder)]
  passed = [{k: v for k, v in line.items() if k != "passed_over"} for line in untimed(folders[1])]
  assert passed == untimed(folders[0])
  assert {line["step"]: line["passed_over"] for line in lines(folders[1]) if "passed_over" in line} == {
      left_out[0]: len(left_out) if len(bad) == 1 else 2}
  for at in (bad[0] - 1, bad[0], bad[0] + 1):      # a crash goes on from the checkpoint, before or behind the spike
    with pytest.raises(RuntimeError):
      go(folders[2], Spiked(bad, at={at: crash}), SPIKES)
    got = go(folders[2], Spiked(bad), SPIKES)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert untimed(folders[2]) == untimed(folders[1])
    shutil.rmtree(folders[2])
    folders[2].mkdir()
  with pytest.raises(Interrupted):                 # a stop saves the state that went back, and the place behind it
    go(folders[2], Spiked(bad, at={max(bad) + 1: kill()}), SPIKES)
  jax.tree.map(np.testing.assert_array_equal, go(folders[2], Spiked(bad), SPIKES), want)


def test_spike_without_a_way_back(tmp_path, capsys):
  """Before the first checkpoint the run goes on, after spike on spike it stops with one line."""
  go(tmp_path, Spiked((5,)), dataclasses.replace(SPIKES, save_every=99))
  assert "back to" not in capsys.readouterr().out
  (tmp_path / "more").mkdir()
  with pytest.raises(ValueError, match="model: spikes of the loss have led back to step 6 3 times, now at step 7 again; the "
                                       "last good checkpoint is step 6 in .*model.train.learning_rate"):
    go(tmp_path / "more", Spiked(range(7, 99)), SPIKES)


class Documents(Numbers):
  """A Batch whose every target is id 3; in the one of number `broken` a weight is not a number, in that of number `strange`
  all targets are id 7, which no other has."""

  def __init__(self, broken, strange):
    super().__init__()
    self.broken, self.strange = broken, strange

  def __next__(self):
    super().__next__()
    order = np.tile(np.arange(8, dtype=np.int32), (2, 1))
    weights = np.full((2, 8), np.nan if self.step == self.broken else 1.0, np.float32)
    return Batch(order, np.full_like(order, 7 if self.step == self.strange else 3), weights, order, order,
                 np.full_like(order, 2**30), np.ones_like(order), 0 * order, np.repeat(order[..., None], 3, -1))


def test_a_decoder_meets_bad_batches(tmp_path, capsys):
  """One that is not a number is skipped, one that makes the loss jump is gone back from and passed over."""
  train = c.Train(steps=24, batch_size=2, learning_rate=3e-2, warmup_steps=0, log_every=1, save_every=6, spike_deviations=8.0,
                  spike_window=8)
  options = c.Decoder(layers=1, width=16, heads=2, kv_heads=1, hidden=16, grid_embedding=0, train=train)
  language, tx = Language(options, 10, ("text/text",)), optimizer(train)
  batches = Documents(broken=5, strange=20)
  with Checkpoints(tmp_path / "model", 2) as checkpoints:
    state = fit(state=decoder_state(language, tx, jax.random.key(0)), batches=batches, train=train, checkpoints=checkpoints,
                step_fn=functools.partial(decoder_step, language, tx), key=jax.random.key(1), examples_per_step=2,
                title="model", writer=Writers([JsonlWriter(tmp_path / "metrics.jsonl", "model")]))
  found = lines(tmp_path)
  assert [line["step"] for line in found if line["skipped"]] == [5] and "loss" not in found[4]
  assert [(line["step"], line["passed_over"]) for line in found if "passed_over" in line] == [(19, 2)]
  assert "of step 20 is above" in capsys.readouterr().out and batches.step == 26 and state.step == 24
  assert [line["step"] for line in found] == list(range(1, 25)) and max(line["loss"] for line in found[12:]) < 0.1


@pytest.mark.parametrize("field, value", [("skip_at_most", -1), ("spike_deviations", -1.0), ("spike_window", 1)])
def test_options_of_the_guard(tmp_path, field, value):
  with pytest.raises(ValueError, match=f"model.train.{field}: {value} must be"):
    go(tmp_path, Numbers(), dataclasses.replace(TRAIN, **{field: value}))
