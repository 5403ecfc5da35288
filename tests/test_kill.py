"""Killed at random moments and started again, a training ends where an uninterrupted one does, to the last bit."""
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import small_run

from unitok import config as c
from unitok.checkpoint import Checkpoints, load_part
from unitok.data.pipeline import task_names
from unitok.models.precision import choose
from unitok.optim import optimizer
from unitok.run import read_vocabulary
from unitok.steps import Language, Tokenizer, decoder_state, tokenizer_state

ROOT = Path(__file__).resolve().parents[1]
STEPS = 240
TRAIN = dataclasses.replace(small_run.TRAIN, steps=STEPS, save_every=3, sample_every=10 * STEPS)
CONFIG = dataclasses.replace(
    small_run.CONFIG, image_tokenizer=dataclasses.replace(small_run.CONFIG.image_tokenizer, train=TRAIN),
    # no drawing at the end: it would only take time
    decoder=dataclasses.replace(small_run.CONFIG.decoder, train=TRAIN,
                                tasks=dict(image_to_text=0.4, infill=0.4, text=0.2)))
PATIENCE = 240


def new_workdir(stage: str, folder: Path, tmp_path_factory) -> Path:
  """A folder in which only `stage` is left to do."""
  if stage == "decoder":
    stays = shutil.ignore_patterns("decoder", "image_tokenizer", "report", "config.json", "metrics.jsonl")
    shutil.copytree(small_run.made(tmp_path_factory), folder, ignore=stays)
  else:
    folder.mkdir()
  (folder / "config.json").write_text(json.dumps(c.to_json(CONFIG)))
  (folder / "config.py").write_text("import json\nfrom pathlib import Path\n\nfrom unitok.config import from_json\n\n\n"
                                    "def get_config():\n"
                                    "  return from_json(json.loads(Path(__file__).with_name('config.json').read_text()))\n")
  return folder


def start(stage: str, workdir: Path) -> subprocess.Popen:
  with (workdir / "said.txt").open("a") as said:
    return subprocess.Popen([sys.executable, "-m", f"train.{stage}", "--config", str(workdir / "config.py"), "--workdir",
                             str(workdir)], cwd=ROOT, stdout=said, stderr=said)


def finish(stage: str, workdir: Path):
  process = start(stage, workdir)
  try:
    assert process.wait(PATIENCE) == 0, (workdir / "said.txt").read_text()[-3000:]
  finally:
    process.kill()


def saved(workdir: Path, stage: str) -> int:
  """The newest whole checkpoint's step, 0 without one."""
  return max([int(p.name) for p in (workdir / stage).glob("*") if p.name.isdigit()], default=0)


def unfinished(workdir: Path, stage: str) -> bool:
  return any(not p.name.isdigit() for p in (workdir / stage).glob("*"))


def stop(stage: str, workdir: Path, number: int, delay: float, while_saving: bool = False, at_once: bool = False) -> int:
  """Starts, and sends a signal `delay` seconds after the first new checkpoint, or right inside a save, or after the start
  -> exit code."""
  process, before, end = start(stage, workdir), saved(workdir, stage), time.monotonic() + PATIENCE
  try:
    while not at_once and saved(workdir, stage) == before:
      assert process.poll() is None and time.monotonic() < end, (workdir / "said.txt").read_text()[-3000:]
      time.sleep(0.002)
    time.sleep(delay)
    while while_saving and process.poll() is None and not unfinished(workdir, stage):
      time.sleep(0.0005)
    process.send_signal(number)
    return process.wait(PATIENCE)
  finally:
    process.kill()
    process.wait()


def everything(stage: str, workdir: Path) -> dict:
  """All parts of the newest checkpoint, which is the last step's."""
  if stage == "decoder":
    vocabulary = read_vocabulary(workdir)
    model = Language(CONFIG.decoder, vocabulary.size, tuple(task_names(CONFIG.decoder, vocabulary)), choose("auto"))
    build = lambda: decoder_state(model, optimizer(TRAIN), jax.random.key(0))
  else:
    tokenizer = Tokenizer(CONFIG.image_tokenizer, choose("auto", mixed=False))
    build = lambda: tokenizer_state(tokenizer, optimizer(TRAIN), jax.random.key(0))
  shapes, parts = jax.eval_shape(build), {}
  for name in ("params", "opt_state", "extra"):
    parts[name], step, _ = load_part(workdir / stage, name, getattr(shapes, name))
    assert step == STEPS
  with Checkpoints(workdir / stage) as checkpoints:
    assert checkpoints.latest() == STEPS
  return parts


def lines(workdir: Path) -> list[dict]:
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def untimed(workdir: Path) -> list[dict]:
  return [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines(workdir)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """whole(stage): the folder of an uninterrupted training."""
  made = {}

  def one(stage: str) -> Path:
    if stage not in made:
      made[stage] = new_workdir(stage, tmp_path_factory.mktemp("whole") / stage, tmp_path_factory)
      finish(stage, made[stage])
    return made[stage]
  return one


def check(stage: str, workdir: Path, want: Path):
  """Weights, moments, averages and every line are those of `want`."""
  jax.tree.map(np.testing.assert_array_equal, everything(stage, workdir), everything(stage, want))
  steps = [line["step"] for line in lines(workdir) if "loss" in line]
  assert steps == list(range(1, STEPS + 1)), "each logged step once, in order"
  assert untimed(workdir) == untimed(want)
  assert not unfinished(workdir, stage), "what a kill left half written is cleared away"


@pytest.mark.slow
@pytest.mark.parametrize("stage, seed, kills", [
    ("decoder", 0, dict(running=9, saving=7, starting=4)), ("image_tokenizer", 1, dict(running=3, saving=2, starting=0))])
def test_killed_again_and_again(stage, seed, kills, whole, tmp_path, tmp_path_factory):
  """Kills at random moments: of the training, while a checkpoint is being written, while it starts and restores."""
  rng = random.Random(seed)
  workdir = new_workdir(stage, tmp_path / stage, tmp_path_factory)
  moments, kept, halves = [moment for moment, count in kills.items() for _ in range(count)], [0], 0
  for moment in rng.sample(moments, len(moments)):
    delay = rng.uniform(0, 8) if moment == "starting" else rng.uniform(0, 0.1)
    code = stop(stage, workdir, signal.SIGKILL, delay, moment == "saving", moment == "starting")
    assert code == -signal.SIGKILL, f"it was through before it was killed, after checkpoints {kept}"
    last = saved(workdir, stage)
    assert last > kept[-1] or last == kept[-1] and moment == "starting", "each start goes on from the last checkpoint"
    kept.append(last)
    halves += unfinished(workdir, stage)
  assert kept[-1] < STEPS and halves, "no kill fell into a save"
  finish(stage, workdir)
  check(stage, workdir, whole(stage))


@pytest.mark.slow
def test_terminated_and_gone_on_with(whole, tmp_path, tmp_path_factory):
  """SIGTERM: the step at hand is saved, the exit code is 143, one line says how to go on."""
  workdir = new_workdir("decoder", tmp_path / "decoder", tmp_path_factory)
  assert stop("decoder", workdir, signal.SIGTERM, 0.02, False) == 143
  step, said = saved(workdir, "decoder"), (workdir / "said.txt").read_text()
  assert 0 < step < STEPS and f"decoder: stopped at step {step} of {STEPS}, saved in" in said
  assert "Traceback" not in said and not unfinished(workdir, "decoder")
  assert [line["step"] for line in lines(workdir)] == list(range(1, step + 1))
  finish("decoder", workdir)
  check("decoder", workdir, whole("decoder"))
