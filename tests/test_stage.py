"""Entry points: the command line, the workdir, one-line errors; the text tokenizer and encode stages."""
import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_run
from PIL import Image

import train.decoder
import train.encode
import train.text_tokenizer
from train import stage
from unitok import config as c
from unitok.data.shards import CodeShards, read_manifest
from unitok.modalities.image import ImageModality
from unitok.run import load_decoder, read_vocabulary

ROOT = Path(__file__).resolve().parents[1]
CONFIG = c.Config(name="test", data=c.Scenes(train_examples=12, val_examples=5, image_size=16), text=c.Text(vocab_size=300))


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / "small.py"
  path.write_text("from unitok.config import Config, Scenes\ndef get_config():\n  return Config(name='small', data=Scenes(image_size=16))\n")
  return str(path)


def test_parse(config_file):
  config, workdir, debug = stage.parse(["--workdir", "w", f"--config={config_file}", "--debug", "--data.image_size", "24",
                                        "--decoder.train.steps=7"])
  assert (config.name, config.data.image_size, config.decoder.train.steps, workdir, debug) == ("small", 24, 7, "w", True)
  assert stage.parse(["--config", config_file, "--workdir=w"])[2] is False


@pytest.mark.parametrize("argv, says", [
    (["--workdir", "w"], "--config is missing; usage: python -m"),
    (["--config", "FILE"], "--workdir is missing; usage"),
    (["--config", "FILE", "--workdir"], "--workdir: needs a value"),
    (["--config", "--workdir", "w"], "--config: needs a value"),
    (["--config", "none.py", "--workdir", "w"], "none.py: no such file"),
    (["--config", "FILE", "--workdir", "w", "--data.pth", "x"], "--data.pth: no such config field; did you mean"),
    (["--config", "FILE", "--workdir", "w", "--decoder.layers", "many"], "command line: .*decoder.layers"),
    (["--config", "FILE", "--workdir", "w", "stray"], "command line: .*stray"),
])
def test_bad_command_line(config_file, capsys, argv, says):
  argv = [config_file if word == "FILE" else word for word in argv]
  with pytest.raises(SystemExit) as stop:
    stage.main(lambda config, workdir: None, argv)
  line = capsys.readouterr().err
  assert stop.value.code == 2 and line.startswith("unitok: ") and line.count("\n") == 1 and re.search(says, line), line


def test_workdir(tmp_path):
  folder = stage.open_workdir(tmp_path / "a" / "run", CONFIG)
  assert c.from_json(json.loads((folder / "config.json").read_text())) == CONFIG
  assert [p.name for p in folder.iterdir()] == ["config.json"]
  stage.open_workdir(folder, dataclasses.replace(CONFIG, data=c.ImageFolder(path="typed wrong")))   # nothing was made by it
  stage.open_workdir(folder, CONFIG)
  (folder / "text_tokenizer").mkdir()
  free = dataclasses.replace(CONFIG, sampling=c.Sampling(top_k=5), data=dataclasses.replace(CONFIG.data, on_bad="skip"))
  stage.open_workdir(folder, free)
  other = dataclasses.replace(CONFIG, decoder=c.Decoder(layers=9))
  (folder / "decoder" / "3").mkdir(parents=True)
  with pytest.raises(ValueError, match=r"run: made with another config \(decoder.layers: 4 -> 9\); use another --workdir"):
    stage.open_workdir(folder, other)
  assert c.from_json(json.loads((folder / "config.json").read_text())) == CONFIG
  (folder / "config.json").write_text('{"name": ')
  with pytest.raises(ValueError, match="config.json: cannot be read"):
    stage.open_workdir(folder, CONFIG)
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="is a file; name a folder"):
    stage.open_workdir(tmp_path / "file", CONFIG)


def with_decoder(config, **changes):
  return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **changes))


@pytest.mark.parametrize("fields, says", [
    (["--decoder.heads", "3"], "decoder.heads: width 256 over 3 heads"),
    (["--decoder.heads", "0"], "decoder.heads: 0 must be 1 or more"),
    (["--data.image-size", "17"], "data.image_size: 17 is no multiple of the tokenizer's 4 pixels a code"),
    (["--decoder.objectives.caption-drop", "2"], "decoder.objectives.caption_drop: 2.0 must be in 0 .. 1"),
    *(([f"--{part}.train.{name}", "0"], f"{part}.train.{name}: 0 must be 1 or more")
      for part in ("decoder", "image_tokenizer") for name in ("steps", "log_every", "save_every", "sample_every", "keep_last")),
])
def test_fields_of_later_stages(config_file, tmp_path, capsys, fields, says):
  """Are told at once, and the folder is not made."""
  with pytest.raises(SystemExit):
    stage.main(lambda config, workdir: None, ["--config", config_file, "--workdir", str(tmp_path / "w"), *fields])
  line = capsys.readouterr().err
  assert line.startswith(f"unitok: {says}") and line.count("\n") == 1 and not (tmp_path / "w").exists()


def test_unknown_task(tmp_path):
  with pytest.raises(ValueError, match="decoder.tasks: no objective 'tekst'; legal: text_to_image"):
    stage.open_workdir(tmp_path / "w", with_decoder(CONFIG, tasks=dict(tekst=1.0)))
  assert not (tmp_path / "w").exists()


def test_decoder_may_change_until_it_is_trained(tmp_path, capsys):
  """But for what the stages before it went by; the steps that `minutes` had room for are then measured anew."""
  folder = stage.open_workdir(tmp_path, CONFIG)
  size_tokens = c.Objectives(size_tokens=True)
  kept = lambda: c.from_json(json.loads((folder / "config.json").read_text()))
  for done, change, refused in (
      ("text_tokenizer", dict(row_length=200, objectives=size_tokens, tasks=dict(text=1.0)), None),
      ("text_tokenizer", dict(tasks=dict(text=1.0, question=0.1)), "decoder.tasks: {'text_to_image': 0.5, .* -> "),
      ("vocab.json", dict(layers=2, tasks=dict(text=1.0)), None),
      ("vocab.json", dict(objectives=size_tokens), "decoder.objectives.size_tokens: False -> True"),
      ("decoder/tmp.3", dict(layers=1), None),
      ("decoder/3", dict(layers=2), "decoder.layers: 4 -> 2")):
    (folder / done).mkdir(parents=True, exist_ok=True)
    (folder / "steps.json").write_text('{"decoder": 7, "image_tokenizer": 5}')
    new = with_decoder(CONFIG, **change)
    if refused:
      with pytest.raises(ValueError, match=rf"made with another config \({refused}.*\); use another --workdir"):
        stage.open_workdir(folder, new)
      assert kept() == CONFIG
    else:
      stage.open_workdir(folder, new)
      assert kept() == new and "no decoder is trained yet" in capsys.readouterr().out
      assert json.loads((folder / "steps.json").read_text()) == {"image_tokenizer": 5}
      stage.open_workdir(folder, CONFIG)      # and back
      capsys.readouterr()
    with pytest.raises(ValueError, match=r"another config \(data.image_size: 16 -> 32\)"):
      stage.open_workdir(folder, dataclasses.replace(new, data=dataclasses.replace(CONFIG.data, image_size=32)))


def test_a_row_that_is_too_short(tmp_path, tmp_path_factory):
  """The remedy that the decoder's stage names works in the same workdir: tokenizers and codes stay."""
  short = with_decoder(small_run.CONFIG, row_length=20)
  stays = shutil.ignore_patterns("decoder", "report", "metrics.jsonl")
  folder = shutil.copytree(small_run.made(tmp_path_factory), tmp_path / "run", ignore=stays)
  (folder / "config.json").write_text(json.dumps(c.to_json(short)))
  before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
  config, told = short, []
  while not stage.has_decoder(folder):
    try:
      train.decoder.run(config, stage.open_workdir(folder, config))
    except ValueError as error:
      told.append(re.search(r"decoder.row_length is (\d+); raise it to (\d+)", str(error)).groups())
      config = with_decoder(config, row_length=int(told[-1][1]))
  assert 1 <= len(told) <= len(config.decoder.tasks) and told[0][0] == "20"
  assert load_decoder(folder).config == config
  assert [path.name for path, time in before.items() if path.stat().st_mtime_ns != time] == ["config.json"]


@pytest.mark.parametrize("tasks", [{"image_to_text": 1.0}, {"text_to_image": 1.0}])
def test_weights_are_gathered_for_drawing_alone(tmp_path, tmp_path_factory, monkeypatch, tasks):
  """A run that learns to draw nothing gives the loop nothing to call."""
  given, stays = [], shutil.ignore_patterns("decoder")
  folder = shutil.copytree(small_run.made(tmp_path_factory), tmp_path / "run", ignore=stays)
  monkeypatch.setattr(train.decoder, "fit", lambda **options: given.append(options["on_sample"]))
  train.decoder.run(with_decoder(small_run.CONFIG, tasks=tasks), folder)
  assert (given[0] is None) == ("text_to_image" not in tasks)


def test_too_few_readers_are_told(monkeypatch, capsys):
  """In a line of the first process, where others' rows are packed in vain."""
  monkeypatch.setattr(train.decoder.jax, "process_count", lambda: 4)
  train.decoder.tell_readers(4)
  assert not capsys.readouterr().out
  train.decoder.tell_readers(2)
  said = capsys.readouterr().out
  assert said.startswith("decoder: decoder.readers is 2, for 4 processes, so each packs rows") and said.count("\n") == 1
  monkeypatch.setattr(train.decoder, "first", lambda: False)
  train.decoder.tell_readers(2)
  assert not capsys.readouterr().out


def test_stopped_while_jax_is_imported(tmp_path):
  """Ctrl-C in the first seconds of a run ends as at any other time."""
  (tmp_path / "jax.py").write_text("import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
                                   "signal.raise_signal(signal.SIGINT)\n")
  path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
  done = subprocess.run([sys.executable, "-m", "train.pipeline", "--config", "none.py", "--workdir", str(tmp_path / "w")],
                        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60)
  assert (done.returncode, done.stderr) == (130, "unitok: stopped; the same command goes on from here\n")


def test_workdir_of_a_config_with_sizes(tmp_path):
  """The second command on a workdir is as welcome as the first."""
  config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, sizes=((16, 32), (32, 16))))
  for _ in range(2):
    stage.open_workdir(tmp_path / "run", config)


@pytest.mark.parametrize("error, code, says", [
    (ValueError("decoder.layers: 0\n  is too few"), 2, "unitok: decoder.layers: 0 is too few"),
    (KeyboardInterrupt(), 130, "unitok: stopped; the same command goes on"),
    (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "unitok: /x/y: the disk is full; .* make room"),
    (RuntimeError("write: No space left on device [28]"), 2, "unitok: the disk is full"),
    (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "unitok: /x: permission denied"),
])
def test_errors_end_in_one_line(config_file, tmp_path, capsys, error, code, says):
  def run(config, workdir):
    raise error
  argv = ["--config", config_file, "--workdir", str(tmp_path / "w")]
  with pytest.raises(SystemExit) as stop:
    stage.main(run, argv)
  line = capsys.readouterr().err
  assert stop.value.code == code and re.match(says, line) and line.count("\n") == 1
  if code == 2:
    with pytest.raises(type(error)):
      stage.main(run, [*argv, "--debug"])


def test_a_bug_keeps_its_traceback(config_file, tmp_path):
  with pytest.raises(KeyError):
    stage.main(lambda config, workdir: {}["x"], ["--config", config_file, "--workdir", str(tmp_path / "w")])


def test_help(capsys):
  with pytest.raises(SystemExit) as stop:
    stage.main(lambda config, workdir: None, ["--help"])
  shown = capsys.readouterr().out
  assert not stop.value.code and "usage: python -m" in shown and "--decoder.row-length" in shown.replace("_", "-")


def cells(pixels):
  return pixels[:, ::4, ::4].astype(np.int32).sum(-1) // 12


@pytest.fixture
def fake_image(monkeypatch):
  calls = []
  def load(workdir):
    return ImageModality(lambda p: (calls.append(len(p)), cells(p))[1], None, (4, 4), 4, 64, load.fingerprint)
  load.fingerprint, load.calls = "one", calls
  monkeypatch.setattr(train.encode, "load_image_tokenizer", load)
  return load


def test_stages(tmp_path, capsys, fake_image):
  """Both stages, twice: the second time all is kept; other tokenizers and settings are refused."""
  tokenizer = train.text_tokenizer.run(CONFIG, tmp_path)
  vocabulary = train.encode.run(CONFIG, tmp_path)
  assert [b.name for b in vocabulary.blocks] == ["special", "text", "image"]
  assert vocabulary.block("text").size == tokenizer.size and vocabulary.block("image").size == 64
  assert read_vocabulary(tmp_path) == vocabulary
  assert vocabulary.fingerprints == {"text": tokenizer.fingerprint, "image": "one"}
  lengths = {split: len(CodeShards(tmp_path / "codes" / split)) for split in ("train", "val", "heldout")}
  assert lengths == {"train": 12, "val": 5, "heldout": 5}
  assert "12 records" in capsys.readouterr().out
  calls = len(fake_image.calls)
  assert train.text_tokenizer.run(CONFIG, tmp_path).fingerprint == tokenizer.fingerprint
  assert train.encode.run(CONFIG, tmp_path) == vocabulary and len(fake_image.calls) == calls
  assert "kept from before" in capsys.readouterr().out
  fake_image.fingerprint = "two"
  with pytest.raises(ValueError, match="vocab.json: of other tokenizers"):
    train.encode.run(CONFIG, tmp_path)
  (tmp_path / "vocab.json").unlink()
  with pytest.raises(ValueError, match="made by the image tokenizer one, not by two"):
    train.encode.run(CONFIG, tmp_path)
  with pytest.raises(ValueError, match="text_tokenizer: was made with options .*; remove"):
    train.text_tokenizer.run(dataclasses.replace(CONFIG, text=c.Text(vocab_size=400)), tmp_path)


def test_another_runs_tokenizer(tmp_path):
  """--init.from takes its text tokenizer, so that the decoder's ids keep their meaning."""
  old = train.text_tokenizer.run(CONFIG, tmp_path / "old")
  tuned = dataclasses.replace(CONFIG, data=c.Scenes(train_examples=3), init=c.Init(source=str(tmp_path / "old")))
  assert train.text_tokenizer.run(tuned, tmp_path / "new").fingerprint == old.fingerprint
  assert train.text_tokenizer.run(tuned, tmp_path / "new").fingerprint == old.fingerprint
  train.text_tokenizer.run(dataclasses.replace(CONFIG, text=c.Text(vocab_size=310)), tmp_path / "third")
  with pytest.raises(ValueError, match="third.*was made with sha256"):
    train.text_tokenizer.run(tuned, tmp_path / "third")
  missing = dataclasses.replace(tuned, init=c.Init(source=str(tmp_path / "none")))
  with pytest.raises(ValueError, match="none/text_tokenizer: no text tokenizer"):
    train.text_tokenizer.run(missing, tmp_path / "fourth")


def test_fewer_captions(tmp_path):
  """max_captions takes some records from everywhere, not the first ones."""
  counts = {"captions": 0}
  few = dataclasses.replace(CONFIG, data=c.Scenes(train_examples=500), text=c.Text(max_captions=20))
  found = list(train.text_tokenizer.chosen(few, counts))
  assert len(found) == counts["captions"] == 20
  source = train.text_tokenizer.open_source(few.data, "train")
  first = {text for i in range(50) for text in source[i].captions}
  assert not set(found) <= first


def test_pictures_alone_and_bad_ones(tmp_path, capsys, fake_image):
  """A folder without text gets a tokenizer of bytes; a broken picture stops, or is left out and named."""
  folder = tmp_path / "pictures"
  folder.mkdir()
  for n in range(6):
    Image.fromarray(np.full((16, 16, 3), 40 * n, np.uint8)).save(folder / f"{n}.png")
  (folder / "3.png").write_bytes(b"no picture")
  config = dataclasses.replace(CONFIG, data=c.ImageFolder(path=str(folder), image_size=16))
  work = tmp_path / "work"
  assert train.text_tokenizer.run(config, work).size == 257
  assert "bytes alone" in capsys.readouterr().out
  with pytest.raises(ValueError, match="3.png"):
    train.encode.run(config, work)
  assert read_manifest(work / "codes" / "train")["records"] == 3 and not (work / "vocab.json").exists()
  skipping = dataclasses.replace(config, data=dataclasses.replace(config.data, on_bad="skip"))
  assert c.difference(config, skipping) is None   # the same workdir goes on
  train.encode.run(skipping, work)
  shards = CodeShards(work / "codes" / "train")
  assert [shards[i].key for i in range(len(shards))] == ["0.png", "1.png", "2.png", "4.png", "5.png"]
  assert [one["where"] for one in shards.manifest["skipped"]] == ["3.png"] and set(shards.manifest["skipped"][0]) == {"where", "problem", "remedy"}
  assert "1 left out" in capsys.readouterr().out
