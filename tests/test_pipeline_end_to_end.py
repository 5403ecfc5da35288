"""All stages on a tiny config: the loss falls, a resumed decoder is the uninterrupted one, what is drawn has its form."""
import dataclasses
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from train import decoder, evaluate, image_tokenizer, loop, pipeline, samples, seconds, stage
from train.loop import Interrupted
from unitok import config as c
from unitok.checkpoint import load_part
from unitok.commands import describe
from unitok.data.pipeline import task_names
from unitok.evaluation.report import read_metrics
from unitok.evaluation.statistics import look_up
from unitok.metrics import open_writers
from unitok.model import Model
from unitok.models.precision import choose
from unitok.optim import optimizer
from unitok.run import read_vocabulary
from unitok.steps import Language, decoder_state

STEPS = 30
CONFIG = c.Config(
    name="tiny", minutes=30, data=c.Scenes(image_size=24, train_examples=128, val_examples=12), text=c.Text(vocab_size=300),
    image_tokenizer=c.ImageTokenizer(
        widths=(16,), blocks=(1,), patch=6, quantizer=c.Quantizer(codebook_size=32, code_dim=4),
        train=c.Train(steps=60, batch_size=8, warmup_steps=5, learning_rate=4e-3, log_every=5, save_every=60, sample_every=30)),
    decoder=c.Decoder(layers=1, width=32, heads=2, kv_heads=1, hidden=64, row_length=128, train=c.Train(
        steps=STEPS, batch_size=4, warmup_steps=3, learning_rate=1e-2, log_every=5, save_every=50, sample_every=15)),
    evaluation=c.Evaluation(examples=12, batch_size=16, show=4))

KEYS = ["image_tokenizer.psnr_db", "image_tokenizer.codebook_usage", "image_tokenizer.perplexity",
        "decoder.nats_per_token.text", "decoder.nats_per_token.image",
        *[f"text_to_image.{score}{suffix}{end}" for score in ("accuracy", "attribute_accuracy")
          for suffix in ("", "_heldout", "_empty_prompt") for end in ("", "_n", "_low", "_high")],
        *[f"{name}{end}" for name in ("caption.exact_match", "infill.accuracy", "infill.accuracy_uncaptioned",
                                      "parser.accuracy_on_originals", "parser.accuracy_on_reconstructions")
          for end in ("", "_n", "_low", "_high")],
        *[f"seconds.{name}" for name in (*pipeline.STAGES, "evaluate", "total")]]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs") / "tiny"
  stage.open_workdir(folder, CONFIG)
  pipeline.run(CONFIG, folder)
  return folder


def state_of(workdir):
  """Everything the newest checkpoint of the decoder holds."""
  vocabulary = read_vocabulary(workdir)
  model = Language(CONFIG.decoder, vocabulary.size, tuple(task_names(CONFIG.decoder, vocabulary)), choose("auto"))
  shapes = jax.eval_shape(lambda: decoder_state(model, optimizer(CONFIG.decoder.train), jax.random.key(0)))
  parts = {name: load_part(workdir / "decoder", name, getattr(shapes, name)) for name in ("params", "opt_state", "extra")}
  return {name: value for name, (value, _, _) in parts.items()}, parts["params"][1]


def test_metrics(workdir):
  metrics = json.loads((workdir / "metrics.json").read_text())
  for key in KEYS:
    assert look_up(metrics, key) is not None, key
  assert metrics["parser"]["accuracy_on_originals_n"] == metrics["text_to_image"]["accuracy_n"] == 12
  assert metrics["sampling"]["samples_a_prompt"] == 1
  stages = {name: value for name, value in metrics["seconds"].items() if name != "total"}
  assert metrics["seconds"]["total"] == pytest.approx(sum(stages.values()), abs=0.01)
  assert "NaN" not in (workdir / "metrics.json").read_text()


def test_minutes(workdir, tmp_path, monkeypatch, capsys):
  """The decoder gets the steps that the config's minutes leave room for, and a run that goes on knows them."""
  assert json.loads((workdir / "steps.json").read_text()) == {"decoder": STEPS}, "all of them fit"
  slow = tmp_path / "slow"
  shutil.copytree(workdir, slow, ignore=shutil.ignore_patterns("decoder", "steps.json", "report"))
  spent = sum(seconds.read(workdir).values())
  monkeypatch.setattr(loop, "seconds_a_step", lambda *a: (0.0, (60 * 28.5 - spent) / 7.9))
  monkeypatch.setattr(evaluate, "run", lambda *a: {})
  pipeline.run(CONFIG, slow)
  assert describe(str(slow))["decoder"]["step"] == describe(str(slow))["decoder"]["of"] == 7
  capsys.readouterr()
  decoder.run(CONFIG, slow)
  assert "already trained to step 7" in capsys.readouterr().out
  with pytest.raises(ValueError, match="minutes: -1 must be 0"):
    pipeline.run(dataclasses.replace(CONFIG, minutes=-1), slow)


def test_losses_fell(workdir):
  lines = read_metrics(workdir)
  for stage_name, name in (("image_tokenizer", "loss"), ("decoder", "loss"), ("decoder", "loss/text_to_image/image"),
                      ("decoder", "loss/image_to_text/text"), ("decoder", "loss/infill/image")):
    values = [line[name] for line in lines[stage_name] if name in line]
    assert values[-1] < 0.9 * values[0], (stage_name, name, values)


def test_report(workdir):
  text = (workdir / "report" / "index.html").read_text()
  for title in ("Drawn from words", "Combinations training never showed", "Holes, with the caption known", "Described",
                "Through the codes and back", "Over the training", "Learning", "Codebook"):
    assert f"<h2>{title}</h2>" in text, title
  assert {f"decoder_{step:06d}.png" for step in (15, 30)} <= {p.name for p in (workdir / "report" / "samples").iterdir()}
  assert "step 15<" in text and "step 30<" in text


def test_legal_form(workdir):
  """A picture is always its whole grid of picture codes; a caption is text and ends."""
  model = Model.open(workdir)
  assert model.step == STEPS
  decoded, drawn, ids = model.image.decode, [], []
  model.image.decode = lambda codes: drawn.append(np.asarray(codes)) or decoded(codes)
  draw = model.sampler.draw
  model.sampler.draw = lambda *a, **k: ids.append(draw(*a, **k)) or ids[-1]
  sampling = c.Sampling(temperature=1.5, guidance_scale=2.0)
  pictures = model.generate(["a small red circle at the top", "anything at all, 123 ☃", ""], sampling, seed=3)
  assert pictures.shape == (3, 24, 24, 3) and pictures.dtype == np.uint8
  assert drawn[0].shape == (3, 4, 4) and 0 <= drawn[0].min() and drawn[0].max() < 32
  captions = model.caption(pictures, c.Sampling(temperature=1.5), seed=3, limit=20)
  text, end = model.vocabulary.allowed("text"), model.vocabulary.special("[eos]")
  assert len(captions) == 3 and all(isinstance(one, str) for one in captions)
  for one in ids[1]:
    assert text[one[:-1]].all() and (one[-1] == end or text[one[-1]]) and len(one) <= 21


def test_resumed_is_uninterrupted(workdir, tmp_path):
  """Stopped by Ctrl-C after step 12 and gone on with: the same weights, moments and averages to the last bit, and lines."""
  other = tmp_path / "stopped"
  shutil.copytree(workdir, other, ignore=shutil.ignore_patterns("decoder", "report"))
  open_writers(CONFIG, other, "decoder").resume(0)      # leaves out the decoder's lines

  def stop(model, vocabulary, step, params):
    os.kill(os.getpid(), signal.SIGINT)
  train = dataclasses.replace(CONFIG.decoder.train, sample_every=12)
  config = dataclasses.replace(CONFIG, decoder=dataclasses.replace(CONFIG.decoder, train=train))
  with pytest.raises(Interrupted) as stopped:
    decoder.run(config, other, stop)
  assert stopped.value.code == 130 and state_of(other)[1] == 13
  decoder.run(CONFIG, other)
  (whole, end), (resumed, also) = state_of(workdir), state_of(other)
  assert end == also == STEPS
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  plain = lambda folder: [{k: v for k, v in line.items() if k != "examples_per_second"} for line in read_metrics(folder)["decoder"]]
  last = [line for line in plain(other) if line["step"] >= 20]      # means over the steps since the line before
  assert last == [line for line in plain(workdir) if line["step"] >= 20]


def test_finished_stages_are_kept(workdir, monkeypatch, capsys):
  """The same command again trains nothing, says so, and its seconds add up."""
  before, files = seconds.read(workdir), sorted(p.name for p in (workdir / "decoder").iterdir())
  monkeypatch.setattr(evaluate, "run", lambda config, folder: {"evaluated": True})
  assert pipeline.run(CONFIG, workdir) == {"evaluated": True}
  said = capsys.readouterr().out
  assert "kept from before" in said and said.count("already trained to step") == 2 and "[5/5] evaluate" in said
  after = seconds.read(workdir)
  assert all(after[name] >= before[name] for name in pipeline.STAGES)
  assert after["decoder"] < before["decoder"] + 10 and after["evaluate"] == before["evaluate"]
  assert sorted(p.name for p in (workdir / "decoder").iterdir()) == files


def test_killed_behind_the_last_checkpoints(workdir, tmp_path, capsys):
  """What lay between a stage's last checkpoint and its end is made up for, the same, and once."""
  other = tmp_path / "killed"
  shutil.copytree(workdir, other)
  lost = [other / "report" / "samples" / name for name in ("image_tokenizer_000060.png", "decoder_000030.png",
                                                           "decoder_000030.json")]
  content = [path.read_bytes() for path in lost]
  for path in lost:
    path.unlink()
  lines = (other / "metrics.jsonl").read_text().splitlines()
  (other / "metrics.jsonl").write_text("\n".join(line for line in lines if "val/psnr_db" not in line) + '\n{"sta')
  capsys.readouterr()

  def again():
    image_tokenizer.run(CONFIG, other)
    decoder.run(CONFIG, other)
    return {path: path.stat().st_mtime_ns for path in other.rglob("*") if path.is_file()}
  times = again()
  said = capsys.readouterr().out
  assert said.count("already trained to step") == 2 and said.count("validation PSNR") == 1
  assert [path.read_bytes() for path in lost] == content
  assert sorted((other / "metrics.jsonl").read_text().splitlines()) == sorted(lines)
  assert again() == times and "validation PSNR" not in capsys.readouterr().out


def test_nothing_to_draw_behind_the_last_checkpoint(workdir, monkeypatch):
  """A decoder without pictures has no samples to lack, and a caller who draws itself none either."""
  monkeypatch.setattr(decoder, "load_decoder", None)
  monkeypatch.setattr(samples, "picture_path", lambda folder, step: folder / "nothing")
  captions = dataclasses.replace(CONFIG, decoder=dataclasses.replace(CONFIG.decoder, tasks=dict(image_to_text=1.0)))
  decoder.run(captions, workdir)
  decoder.run(CONFIG, workdir, lambda *_: None)
  with pytest.raises(TypeError):
    decoder.run(CONFIG, workdir)


def test_seconds(tmp_path):
  with pytest.raises(RuntimeError), seconds.timed(tmp_path, "decoder"):
    raise RuntimeError
  seconds.add(tmp_path, "decoder", 2.0)
  seconds.add(tmp_path, "evaluate", 5.0)
  seconds.add(tmp_path, "evaluate", 3.0, anew=True)
  got = seconds.with_total(seconds.read(tmp_path))
  assert 2.0 <= got["decoder"] < 2.1 and got["evaluate"] == 3.0 and got["total"] == pytest.approx(got["decoder"] + 3)
  (tmp_path / "seconds.json").write_text("{")
  assert seconds.read(tmp_path) == {} == seconds.read(tmp_path / "nowhere")


def test_prompts():
  assert samples.prompts(CONFIG) == [samples.open_source(CONFIG.data, "val")[n].captions[0] for n in range(8)]
  asked = dataclasses.replace(CONFIG, evaluation=c.Evaluation(prompts=("a", "b")))
  assert samples.prompts(asked) == ["a", "b"]
