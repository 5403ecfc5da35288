"""The loop: stopped and resumed = uninterrupted, signals, what is not finite, the lines it writes, batches of pictures."""
import dataclasses
import itertools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from train import image_tokenizer
from train.image_tokenizer import Pictures, frozen_part
from train import loop
from train.loop import Interrupted, describe, fit, signals, within
from unitok import config as c
from unitok.checkpoint import Checkpoints
from unitok.data.record import BadRecord, Record
from unitok.metrics import JsonlWriter, Mean, Writers, open_writers
from unitok.run import load_image_tokenizer, with_steps
from unitok.steps import TrainState, unless_broken

TRAIN = c.Train(steps=10, batch_size=2, log_every=2, save_every=4, sample_every=5)


class Numbers:
  """Endless batches f32[2]; `at[n]()` is called when batch n is asked for."""

  def __init__(self, at=None):
    self.step, self.at, self.seen = 0, at or {}, []

  def __next__(self):
    self.at.get(self.step, lambda: None)()
    self.step += 1
    self.seen.append(self.step)
    return np.full(2, self.step, np.float32)

  def get_state(self):
    return {"step": self.step}

  def set_state(self, state):
    self.step = state["step"]


def step_fn(state, batch, key):
  """Weights that remember batches and keys."""
  w = state.params["w"] * 0.9 + batch + jax.random.normal(key, (2,))
  return (TrainState(state.step + 1, {"w": w}, {"m": state.opt_state["m"] + w}, {"average": 0.5 * state.extra["average"] + w}),
          {"loss": w.mean(), "loss/caption": Mean(batch.sum(), jnp.float32(2)), "loss/rare": Mean(0 * w[0], 0 * w[0])})


def go(folder, batches, train=TRAIN, step_fn=step_fn, **options):
  state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(2)}, {"m": jnp.zeros(2)}, {"average": jnp.zeros(2)})
  with Checkpoints(folder / "model", 2) as checkpoints:
    return fit(state=state, step_fn=step_fn, batches=batches, train=train, checkpoints=checkpoints,
               writer=Writers([JsonlWriter(folder / "metrics.jsonl", "model")]), key=jax.random.key(1),
               examples_per_step=2, title="model", **options)


def lines(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def kill(number=signal.SIGTERM):
  return lambda: os.kill(os.getpid(), number)


def test_within(tmp_path, monkeypatch, capsys):
  """A stage that would take longer gets fewer steps, measured once: a run that goes on keeps them."""
  def config(steps=100):
    return c.Config(decoder=c.Decoder(train=c.Train(steps=steps, batch_size=2)))

  mesh, timed = loop.make_mesh(), []
  state = lambda: TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(2)}, {"m": jnp.zeros(2)}, {"average": jnp.zeros(2)})
  trial = lambda: (state(), step_fn, (np.ones(2, np.float32) for _ in itertools.count()), mesh)
  once, each = loop.seconds_a_step(*trial())
  assert 0 < each < once
  monkeypatch.setattr(loop, "seconds_a_step", lambda *a: timed.append(1) or (10.0, 0.5))

  def steps(seconds, *a):
    within(seconds, config(*a), tmp_path, "decoder", trial)
    return with_steps(config(*a), tmp_path).decoder.train.steps

  assert steps(70) == 100 and json.loads((tmp_path / "steps.json").read_text()) == {"decoder": 100}
  (tmp_path / "steps.json").unlink()
  assert steps(40.4) == 60 and "500 ms a step, so 60 of 100 steps fit into the 30 s left" in capsys.readouterr().out
  assert steps(40.4, 1000) == 60 and steps(1000.0) == 60 and len(timed) == 2
  with pytest.raises(ValueError, match="minutes: 0 s are left for the decoder, a step takes 0.50 s; allow more"):
    within(3.0, config(), tmp_path / "new", "decoder", trial)
  with pytest.raises(ValueError, match="decoder.train.batch_size: 0 rows do not divide"):
    within(3.0, c.override(config(), ["--decoder.train.batch_size", "0"]), tmp_path / "new", "decoder", trial)
  assert not (tmp_path / "new").exists()
  (tmp_path / "steps.json").write_text('{"decoder": "many"}')
  with pytest.raises(ValueError, match="steps.json: damaged; remove it"):
    steps(40.4)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_and_resumed_is_uninterrupted(tmp_path, capsys, number, code):
  whole, batches = tmp_path / "whole", Numbers()
  whole.mkdir()
  want = go(whole, batches)
  assert batches.seen == list(range(1, 11))
  with pytest.raises(Interrupted) as stopped:
    go(tmp_path, Numbers({6: kill(number)}))
  assert stopped.value.code == code
  assert "stopped at step 7 of 10" in capsys.readouterr().err
  assert Checkpoints(tmp_path / "model").latest() == 7
  batches = Numbers()
  got = go(tmp_path, batches)
  assert batches.seen == [8, 9, 10]
  jax.tree.map(np.testing.assert_array_equal, got, want)
  untimed = [[{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines(f)] for f in (whole, tmp_path)]
  assert [line["step"] for line in untimed[1]] == [2, 4, 6, 8, 10]
  assert untimed[0][4] == untimed[1][4] and untimed[0][:3] == untimed[1][:3]


def test_signal_handlers_are_put_back():
  before = signal.getsignal(signal.SIGTERM)
  with signals() as caught:
    assert caught() == 0
    kill()()
    assert caught() == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt):
      kill()()
  assert signal.getsignal(signal.SIGTERM) is before


def test_crashed_and_resumed(tmp_path):
  """A crash between checkpoints: the last one is gone on from, and the lines after it are written once."""
  def crash():
    raise RuntimeError("power")
  with pytest.raises(RuntimeError):
    go(tmp_path, Numbers({7: crash}))
  assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"stage": "other", "step": 99}\n{"stage": "mod')
  batches = Numbers()
  go(tmp_path, batches)
  assert batches.seen[0] == 5
  assert [(line["stage"], line["step"]) for line in lines(tmp_path)] == [
      ("model", 2), ("model", 4), ("other", 99), ("model", 6), ("model", 8), ("model", 10)]


@pytest.mark.parametrize("met", [4, 6])
def test_bad_record_met_on_the_way(tmp_path, met):
  """What was learned before it stays; mended, the run ends as one that never met it."""
  def bad():
    raise BadRecord("6.png", "is truncated", "copy it again")
  (tmp_path / "whole").mkdir()
  want = go(tmp_path / "whole", Numbers())
  for _ in range(2):      # the second time nothing new is learned
    with pytest.raises(BadRecord, match="6.png: is truncated"):
      go(tmp_path, Numbers({met: bad}))
    assert Checkpoints(tmp_path / "model").latest() == met
  batches = Numbers()
  got = go(tmp_path, batches)
  assert batches.seen == list(range(met + 1, 11))
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 8, 10]


def test_bad_record_met_at_once(tmp_path):
  """No checkpoint of weights that have learned nothing."""
  def bad():
    raise BadRecord("0.png", "is truncated", "copy it again")
  with pytest.raises(BadRecord):
    go(tmp_path, Numbers({0: bad}))
  assert Checkpoints(tmp_path / "model").latest() is None


def test_bad_picture_met_on_the_way(tmp_path):
  """With the tokenizer's own batches: the bad picture put right, the weights are those of a run without it."""
  def mean(state, pictures, key):
    return step_fn(state, pictures.astype(np.float32).mean((1, 2, 3)), key)

  def train(folder, source):
    pictures = Pictures(source, 4, 2, seed=0)
    try:
      return go(folder, pictures, step_fn=mean)
    finally:
      pictures.close()
  (tmp_path / "whole").mkdir()
  want = train(tmp_path / "whole", Source())
  last = Pictures(Source(), 4, 2, seed=0).indices(5)[-1]      # the last of the first epoch's
  with pytest.raises(BadRecord, match=f"{last}.png"):
    train(tmp_path, Source(bad=(last,)))
  assert Checkpoints(tmp_path / "model").latest() == 5
  jax.tree.map(np.testing.assert_array_equal, train(tmp_path, Source()), want)


@pytest.mark.parametrize("name", ["steps", "log_every", "save_every", "sample_every"])
def test_numbers_of_steps(tmp_path, name):
  with pytest.raises(ValueError, match=f"model.train.{name}: 0 must be 1 or more"):
    go(tmp_path, Numbers(), dataclasses.replace(TRAIN, **{name: 0}))


def test_lines_are_means_of_the_interval(tmp_path):
  go(tmp_path, Numbers())
  assert [line["loss/caption"] for line in lines(tmp_path)] == [1.5, 3.5, 5.5, 7.5, 9.5]
  assert "loss/rare" not in lines(tmp_path)[0], "nothing was counted"
  assert {"stage", "step", "loss", "examples_per_second"} <= lines(tmp_path)[1].keys()


def test_each_step_has_a_key_of_its_own(tmp_path):
  def draw(state, batch, key):
    new, _ = step_fn(state, batch, key)
    return new, {"loss": jax.random.normal(key)}
  go(tmp_path, Numbers(), c.Train(steps=3, batch_size=2, log_every=1), step_fn=draw)
  want = [jax.random.normal(jax.random.fold_in(jax.random.key(1), n)) for n in range(3)]
  np.testing.assert_allclose([line["loss"] for line in lines(tmp_path)], want, rtol=1e-6)


def test_samples(tmp_path):
  seen = []
  go(tmp_path, Numbers(), on_sample=lambda step, state: seen.append((step, int(state.step))))
  assert seen == [(5, 5), (10, 10)]


@pytest.mark.parametrize("where, what", [
    ("loss", "no finite loss and gradient at step 9, nor at the 2 before it"), ("weights", "a weight is no longer finite at step 8")])
def test_not_finite(tmp_path, where, what):
  """Stops with one line; what is not finite is never saved."""
  def breaking(state, batch, key):
    new, metrics = step_fn(state, batch, key)
    bad = jnp.where(state.step >= 6, jnp.nan, 0.0)
    if where == "loss":
      return unless_broken(state.step < 6, new, state), {**metrics, "loss": metrics["loss"] + bad}
    return new._replace(params={"w": new.params["w"] + bad}), {**metrics, "loss": jnp.float32(1)}
  train = dataclasses.replace(TRAIN, skip_at_most=2, save_every=4 if where == "weights" else 6)
  last = 4 if where == "weights" else 6
  with pytest.raises(ValueError, match=f"model: {what}; the last good checkpoint is step {last} in .*model.train.learning_rate"):
    go(tmp_path, Numbers(), train, step_fn=breaking)
  assert Checkpoints(tmp_path / "model").latest() == last


def test_batch_must_divide(tmp_path):
  with pytest.raises(ValueError, match="model.train.batch_size: 0 rows"):
    go(tmp_path, Numbers(), c.Train(batch_size=0))


def test_describe():
  assert describe({"loss": 1.2345, "loss/a/image": 1.0, "psnr_db": 20.04, "x": 3.0}) == "loss 1.234 (a/image 1.00), 20.0 dB"


def test_jsonl_of_what_is_not_finite(tmp_path):
  JsonlWriter(tmp_path / "m.jsonl", "s").write(1, {"a": float("nan"), "b": 1.0})
  assert json.loads((tmp_path / "m.jsonl").read_text()) == {"stage": "s", "step": 1, "a": None, "b": 1.0}


@pytest.mark.parametrize("name, module", [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_writer_that_is_not_installed(tmp_path, monkeypatch, name, module):
  monkeypatch.setitem(__import__("sys").modules, module, None)
  with pytest.raises(ValueError, match=rf"{name}: {module} is not installed; pip install 'unitok\[{name}\]'"):
    open_writers(c.Config(**{name: True}), tmp_path, "s")


class Source:
  """Twelve pictures whose every byte is their number; `bad` ones raise, `empty` ones have no picture."""

  def __init__(self, bad=(), empty=(), n=12):
    self.bad, self.empty, self.n, self.reads = bad, empty, n, []

  def __len__(self):
    return self.n

  def __getitem__(self, index):
    self.reads.append(index)
    if index in self.bad:
      raise BadRecord(f"{index}.png", "is truncated", "copy it again")
    return Record(str(index), None if index in self.empty else np.full((4, 4, 3), index, np.uint8), ())


def numbers(pictures: Pictures, batches: int) -> list[int]:
  return np.concatenate([next(pictures)[:, 0, 0, 0] for _ in range(batches)]).tolist()


def test_pictures_epochs():
  """Each epoch has every picture once, in another order; batches run over its end; each is decoded once or so."""
  source = Source()
  pictures = Pictures(source, 4, 8, seed=0)
  seen = numbers(pictures, 6)
  pictures.close()
  epochs = [seen[n:n + 12] for n in range(0, 48, 12)]
  assert all(sorted(epoch) == list(range(12)) for epoch in epochs) and epochs[0] != epochs[1]
  other = Pictures(Source(), 4, 8, seed=1)
  assert numbers(other, 3) != seen[:24]
  other.close()


def test_pictures_resume():
  pictures = Pictures(Source(), 4, 5, seed=0)
  numbers(pictures, 3)
  state = json.loads(json.dumps(pictures.get_state()))
  want = numbers(pictures, 4)
  pictures.set_state(state)
  assert numbers(pictures, 4) == want
  pictures.close()


def test_pictures_beyond_the_cache(monkeypatch):
  whole = Pictures(Source(), 4, 5, seed=0)
  monkeypatch.setattr(image_tokenizer, "CACHE_BYTES", 4 * 4 * 3 * 3)
  part = Pictures(Source(), 4, 5, seed=0)
  assert len(part.cache) == 3 and numbers(part, 6) == numbers(whole, 6)
  whole.close(), part.close()


def test_bad_pictures():
  """skip: left out and counted, the batches stay full and exact; stop: the first one is told."""
  pictures = Pictures(Source(bad=(3, 4), empty=(7,)), 4, 6, seed=0, on_bad="skip")
  seen = numbers(pictures, 4)
  pictures.close()
  assert set(seen) == set(range(12)) - {3, 4, 7} and set(pictures.bad) == {3, 4}
  again = Pictures(Source(bad=(3, 4), empty=(7,)), 4, 6, seed=0, on_bad="skip")
  again.set_state({"step": 2})
  assert numbers(again, 2) == seen[12:]
  again.close()
  pictures = Pictures(Source(bad=(3,)), 4, 6, seed=0)
  with pytest.raises(BadRecord, match="3.png: is truncated"):
    numbers(pictures, 3)
  pictures.close()


def test_no_pictures():
  with pytest.raises(ValueError, match="has no records"):
    Pictures(Source(n=0), 4, 2, seed=0)
  pictures = Pictures(Source(bad=range(12)), 4, 2, seed=0, on_bad="skip")
  with pytest.raises(ValueError, match="no usable picture, the first because .*truncated"):
    next(pictures)
  pictures.close()


def test_frozen_part():
  params = {"encoder": {"kernel": 1, "bias": 2}, "painter": {"kernel": 3}}
  frozen, whole = frozen_part(("image_tokenizer/encoder", "decoder/layers"), params, "image_tokenizer")
  assert frozen == {"encoder": {"kernel": True, "bias": True}, "painter": {"kernel": False}} and not whole
  assert frozen_part(("image_tokenizer",), params, "image_tokenizer")[1]
  assert frozen_part(("decoder/layers",), params, "image_tokenizer") == (None, False)
  with pytest.raises(ValueError, match="'codebook' matches no parameter"):
    frozen_part(("codebook",), params, "image_tokenizer")


def tiny(**options) -> c.Config:
  train = c.Train(steps=6, batch_size=4, log_every=2, save_every=4, sample_every=3, warmup_steps=1)
  tokenizer = c.ImageTokenizer(widths=(8,), blocks=(1,), patch=4, train=train,
                               quantizer=c.Quantizer(codebook_size=16, code_dim=4))
  return c.Config(data=c.Scenes(image_size=16, train_examples=12, val_examples=9), image_tokenizer=tokenizer, **options)


def stage(config, workdir):
  workdir.mkdir(exist_ok=True)
  (workdir / "config.json").write_text(json.dumps(c.to_json(config)))
  image_tokenizer.run(config, workdir)
  return load_image_tokenizer(workdir)


def test_image_tokenizer_stage(tmp_path, capsys):
  """The stage leaves metrics, strips and a tokenizer; another run starts from it; all frozen, it is the same one."""
  first = stage(tiny(), tmp_path / "a")
  told = capsys.readouterr().out
  assert "validation PSNR" in told and "of 16 codes in use" in told
  found = lines(tmp_path / "a")
  assert [line["step"] for line in found] == [2, 4, 6, 6] and {line["stage"] for line in found} == {"image_tokenizer"}
  assert {"psnr_db", "codebook_usage", "codebook_perplexity"} <= found[0].keys()
  assert {"val/psnr_db", "val/codebook_usage"} <= found[-1].keys()
  strips = sorted((tmp_path / "a" / "report" / "samples").iterdir())
  assert [p.name for p in strips] == ["image_tokenizer_000003.png", "image_tokenizer_000006.png"]
  assert Image.open(strips[0]).size == (8 * 16, 2 * 16)
  stage(tiny(), tmp_path / "a")
  assert "already trained to step 6" in capsys.readouterr().out

  source = str(tmp_path / "a")
  assert stage(tiny(init=c.Init(source, ("image_tokenizer",))), tmp_path / "b").fingerprint == first.fingerprint
  assert [p.name for p in (tmp_path / "b" / "report" / "samples").iterdir()] == ["image_tokenizer_000006.png"]
  further = stage(tiny(init=c.Init(source, ("image_tokenizer/quantizer", "image_tokenizer/encoder"))), tmp_path / "c")
  pixels = np.stack([np.full((16, 16, 3), n, np.uint8) for n in (0, 99, 255)])
  np.testing.assert_array_equal(further.encode(pixels), first.encode(pixels))
  assert further.fingerprint != first.fingerprint

  with pytest.raises(ValueError, match="but there is nothing to start from; set --init.from"):
    stage(tiny(init=c.Init("", ("image_tokenizer",))), tmp_path / "d")
  wide = tiny(init=c.Init(source))
  wide = c.from_json({**c.to_json(wide), "image_tokenizer": {**c.to_json(wide)["image_tokenizer"], "widths": [12]}})
  with pytest.raises(ValueError, match=r"init.from: checkpoint .*/6: extra/average/encoder/.* is float32\[.*\] there"):
    stage(wide, tmp_path / "e")


def test_image_tokenizer_with_a_judge(tmp_path, capsys, monkeypatch):
  """It is in the checkpoint, so that a resumed run is the uninterrupted one, and no part of the tokenizer that is used;
  the held-out PSNR that it costs is told."""
  losses = c.PictureLosses(adversarial=1.0, judge_start=2, judge_width=4, judge_layers=1, psnr_margin=-50.0)
  judged = lambda steps: c.from_json({**c.to_json(tiny()), "image_tokenizer": {
      **c.to_json(tiny())["image_tokenizer"], "losses": dataclasses.asdict(losses),
      "train": dataclasses.asdict(dataclasses.replace(tiny().image_tokenizer.train, steps=steps, final_share=1.0, sample_every=2))}})
  whole = stage(judged(6), tmp_path / "a")
  told = capsys.readouterr().out
  assert "step 6: the judge has cost" in told and "losses.psnr_margin -50" in told
  watched = [line["step"] for line in lines(tmp_path / "a") if "watched/psnr_db" in line]
  assert watched == [2, 4, 6]
  assert whole.fingerprint != stage(tiny(), tmp_path / "b").fingerprint
  stage(judged(4), tmp_path / "c")
  assert stage(judged(6), tmp_path / "c").fingerprint == whole.fingerprint
