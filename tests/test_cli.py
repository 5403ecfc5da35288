"""The `unitok` command: what it prints and writes, and how errors end."""
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small_run
from etils.epath import backend, gpath
from PIL import Image

from unitok import cli, commands
from unitok.commands import keep_programs
from unitok.data import drawings, shards
from unitok.data.shards import CodeShards as shards_of
from unitok.data.sources import open_source

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = [f"jax_{name}" for name in ("compilation_cache_dir", "persistent_cache_min_compile_time_secs",
                                       "persistent_cache_min_entry_size_bytes")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return str(small_run.made(tmp_path_factory))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Three picture files: of the model's size, larger, and wide."""
  place, source = tmp_path_factory.mktemp("pictures"), open_source(small_run.CONFIG.data, "val")
  out = []
  for name, picture in (("one", source[0].image), ("two", source[1].image.repeat(2, 0).repeat(2, 1)),
                        ("three", np.tile(source[2].image, (1, 2, 1)))):
    Image.fromarray(picture).save(place / f"{name}.png")
    out.append(str(place / f"{name}.png"))
  return out


def call(capsys, *argv) -> dict:
  """What `--json` says."""
  assert cli.main([*map(str, argv), "--json"]) == 0
  said = capsys.readouterr()
  assert said.out.count("\n") == 1
  return json.loads(said.out)


def picture(path) -> np.ndarray:
  with Image.open(path) as image:
    assert image.mode == "RGB"
    return np.asarray(image)


def processor_seconds() -> float:
  """What this process's finished children have used so far."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def test_help_is_quick_and_without_jax():
  """Under a second of the processor's time, the best of three: the clock also counts what runs beside the tests."""
  took = []
  for _ in range(3):
    start = processor_seconds()
    done = subprocess.run([sys.executable, "-m", "unitok.cli", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    took.append(processor_seconds() - start)
  assert done.returncode == 0 and all(cls.__name__.lower() in done.stdout for cls in cli.COMMANDS)
  assert min(took) < 1, took
  program = "import sys, unitok.cli\ntry: unitok.cli.main(['generate', '--help'])\nexcept SystemExit: pass\n" \
            "sys.exit(str({'jax', 'flax', 'grain', 'orbax'} & set(sys.modules)) if 'jax' in sys.modules else 0)"
  assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60).returncode == 0


def test_generate(capsys, folder, tmp_path):
  """A file a prompt, numbered and named by it, and a sheet of all; the seed and the settings are said."""
  (tmp_path / "prompts.txt").write_text("a blue square\n\n  two rings \n", encoding="utf-8")
  out = tmp_path / "new" / "folder"
  said = call(capsys, "generate", "--model", folder, "A red circle!", "--prompts", tmp_path / "prompts.txt", "--out", out,
              "--seed", 7, "--temperature", 0.9, "--top-k", 5, "--top-p", 0.95, "--text-attention", 0.5)
  assert [x["prompt"] for x in said["outputs"]] == ["A red circle!", "a blue square", "two rings"]
  assert [Path(x["file"]).name for x in said["outputs"]] == ["0_a_red_circle.png", "1_a_blue_square.png", "2_two_rings.png"]
  assert {picture(x["file"]).shape for x in said["outputs"]} == {(16, 16, 3)}
  assert said["seed"] == 7 and said["step"] == 3 and said["seconds"] > 0 and said["model"] == folder
  assert said["sampling"] == {"temperature": 0.9, "top_k": 5, "top_p": 0.95, "min_p": 0.0,
                              "repetition_penalty": 1.0, "guidance_scale": 1.0, "image_guidance_scale": 1.0,
                              "guidance_schedule": "constant", "guidance_interval": [0.0, 1.0], "strategy": "", "window": 0,
                              "guesses": "above", "group_sizes": "cosine", "group_order": "random", "passes": 0,
                              "choice_temperature": 4.5, "row_window": 0, "text_attention": 0.5}
  assert min(picture(said["grid"]).shape[:2]) > 2 * 96
  assert sorted(p.name for p in out.iterdir()) == ["0_a_red_circle.png", "1_a_blue_square.png", "2_two_rings.png", "grid.png"]
  wide = call(capsys, "generate", "--model", folder, "a", "--size", 8, 24, "--out", tmp_path / "wide")
  assert picture(wide["outputs"][0]["file"]).shape == (8, 24, 3)
  assert wide["notes"] == ["--size 8 24: larger than the 16 x 16 (height x width) that the model learned from"]
  assert "notes" not in said


def test_generate_several(capsys, folder, tmp_path):
  """Three pictures of each prompt, named in their order; a row of the sheet each."""
  said = call(capsys, "generate", "--model", folder, "a red ring", "b", "--samples", 3, "--out", tmp_path)
  assert [Path(x["file"]).name for x in said["outputs"]] == [
      *(f"0_a_red_ring_{n}.png" for n in range(3)), *(f"1_b_{n}.png" for n in range(3))]
  assert [x["rank"] for x in said["outputs"]] == [0, 1, 2] * 2
  nats = [x["log_likelihood"] for x in said["outputs"]]
  assert nats[:3] == sorted(nats[:3], reverse=True) and max(nats) < 0
  assert (tmp_path / "grid.png").exists()
  assert cli.main(["generate", "--model", str(folder), "a", "--samples", "0", "--out", str(tmp_path / "none")]) == 2
  assert "unitok: samples: 0 of each prompt, must be 1 or more" in capsys.readouterr().err
  assert not (tmp_path / "none").exists()


def test_caption(capsys, folder, files):
  said = call(capsys, "caption", "--model", folder, *files, "--limit", 5)
  assert [x["file"] for x in said["outputs"]] == files and all(isinstance(x["caption"], str) for x in said["outputs"])
  assert said["sampling"]["temperature"] == 0
  assert cli.main(["caption", "--model", folder, *files, "--limit", "5"]) == 0       # a pipe gets plain lines
  lines = capsys.readouterr().out.splitlines()
  assert [line.split("\t")[0] for line in lines] == files


def test_detect(capsys, tmp_path_factory, files):
  """An object a line: its file, its name, its box."""
  folder = small_run.made(tmp_path_factory, small_run.VERSATILE)
  capsys.readouterr()      # what the stages said, where it was made just now
  asked = ["detect", "--model", str(folder), *files, "--temperature", "1", "--limit", "9", "--name-limit", "2"]
  said = call(capsys, *asked)
  assert [x["file"] for x in said["outputs"]] == files and said["sampling"]["temperature"] == 1
  boxes = [(x["file"], one) for x in said["outputs"] for one in x["objects"]]
  assert boxes and all(len(x["objects"]) <= 9 for x in said["outputs"])
  assert cli.main(asked) == 0
  lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
  assert [line[0] for line in lines] == [file for file, _ in boxes]
  for (_, _, box), (_, one) in zip(lines, boxes):
    np.testing.assert_allclose([float(x) for x in box.split()], one["box"], atol=6e-4)


def test_infill(capsys, folder, files, tmp_path):
  """A box, and the same box as a picture; each picture keeps its own pixels outside."""
  said = call(capsys, "infill", "--model", folder, files[0], "--mask", "4,4,5,6", "--prompt", "a red ring", "--out", tmp_path)
  assert said["prompt"] == "a red ring" and "grid" not in said
  one, filled = picture(files[0]), picture(tmp_path / "one_filled.png")
  mask = np.zeros((16, 16), np.uint8)
  mask[4:10, 4:9] = 255
  assert np.array_equal(filled[mask == 0], one[mask == 0]) and not np.array_equal(filled, one)
  Image.fromarray(mask).save(tmp_path / "mask.png")
  call(capsys, "infill", "--model", folder, files[0], "--mask", tmp_path / "mask.png", "--prompt", "a red ring", "--out", tmp_path / "b")
  assert np.array_equal(picture(tmp_path / "b" / "one_filled.png"), filled)
  said = call(capsys, "infill", "--model", folder, *files[:2], "--mask", "4,4,5,6", "--no-keep-original", "--out", tmp_path)
  assert len(said["outputs"]) == 2 and Path(said["grid"]).is_file()


@pytest.fixture(scope="module")
def versatile(tmp_path_factory):
  return str(small_run.made(tmp_path_factory, small_run.VERSATILE))


def test_answer(capsys, versatile, files):
  """The question of each picture; those of another size are said to be resized."""
  capsys.readouterr()      # what the stages said, where it was made just now
  asked = ["answer", "--model", versatile, "--question", "where is it?", *files, "--limit", "5"]
  said = call(capsys, *asked)
  assert [x["file"] for x in said["outputs"]] == files and said["question"] == "where is it?"
  assert said["notes"] == [f"{files[1]} (32 x 32), {files[2]} (32 x 16): taken as 16 x 16 pixels (data.resize: crop)"]
  assert cli.main(asked) == 0
  lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
  assert [line[0] for line in lines] == files and lines[0][1] == commands._line(said["outputs"][0]["answer"])


def test_extend(capsys, versatile, files, tmp_path):
  """Past the sides of the squares, or of pictures as they are."""
  said = call(capsys, "extend", "--model", versatile, *files[:2], "--right", 8, "--top", 4, "--prompt", "a", "--out", tmp_path)
  assert (said["right"], said["top"], said["left"]) == (8, 4, 0) and Path(said["grid"]).is_file()
  one = picture(tmp_path / "one_extended.png")
  assert one.shape == (20, 24, 3) and np.array_equal(one[4:, :16], picture(files[0]))
  call(capsys, "extend", "--model", versatile, files[2], "--right", 8, "--own-size", "--out", tmp_path)
  assert np.array_equal(picture(tmp_path / "three_extended.png")[:, :32], picture(files[2]))


def test_vary(capsys, versatile, files, tmp_path):
  """As many variations of each as said, numbered; a share of none is the reconstruction."""
  said = call(capsys, "vary", "--model", versatile, *files[:2], "--share", 0.25, "--samples", 2, "--out", tmp_path)
  names = [f"{stem}_varied_{n}.png" for stem in ("one", "two") for n in range(2)]
  assert [Path(x["file"]).name for x in said["outputs"]] == names and Path(said["grid"]).is_file()
  one, other = (picture(tmp_path / name) for name in names[:2])
  assert one.shape == (16, 16, 3) and not np.array_equal(one, other)
  call(capsys, "vary", "--model", versatile, files[0], "--share", 0, "--out", tmp_path)
  call(capsys, "reconstruct", "--model", versatile, files[0], "--out", tmp_path)
  assert np.array_equal(picture(tmp_path / "one_varied.png"), picture(tmp_path / "one_reconstructed.png"))


def test_enlarge(capsys, versatile, files, tmp_path):
  """Files, or what is drawn for a prompt, at twice the sides."""
  said = call(capsys, "enlarge", "--model", versatile, *files[:2], "--prompt", "a red ring", "--passes", 2, "--out", tmp_path)
  assert picture(tmp_path / "one_enlarged.png").shape == (32, 32, 3) and Path(said["grid"]).is_file()
  said = call(capsys, "generate", "--model", versatile, "a red ring", "--enlarge", "--passes", 2, "--samples", 2,
              "--out", tmp_path / "new")
  assert [picture(x["file"]).shape for x in said["outputs"]] == [(32, 32, 3)] * 2


def test_commands_of_the_readme():
  """The table has every command, and none that there is not."""
  told = set(re.findall(r"^\| `unitok ([a-z]+)", (ROOT / "README.md").read_text(), re.M))
  assert told == {cls.__name__.lower() for cls in cli.COMMANDS}


def test_complete(capsys, folder):
  said = call(capsys, "complete", "--model", folder, "a red", "two", "--limit", 5)
  assert all(x["completed"].startswith(x["text"]) for x in said["outputs"])


def test_reconstruct(capsys, folder, files, tmp_path):
  """Pictures of other sizes come as the run's config resizes them."""
  said = call(capsys, "reconstruct", "--model", folder, *files, files[0], "--out", tmp_path)
  assert [Path(x["file"]).name for x in said["outputs"]] == [
      "one_0_reconstructed.png", "two_reconstructed.png", "three_reconstructed.png", "one_3_reconstructed.png"]
  assert all(picture(x["file"]).shape == (16, 16, 3) and 0 < x["psnr_db"] < 60 for x in said["outputs"])


def test_info(capsys, folder, tmp_path):
  """A finished run, and one that has only begun."""
  said = call(capsys, "info", folder)
  assert (said["source"], said["image_size"], said["text_tokenizer"]) == ("scenes", 16, {"pieces": 300})
  assert said["image_tokenizer"] | {"parameters": 0} == {"step": 3, "of": 3, "parameters": 0, "codebook_size": 32, "codes_a_picture": 16}
  assert said["codes"] == {"train": 48, "val": 9, "heldout": 9} and said["decoder"]["step"] == 3
  assert said["decoder"]["vocabulary"] == {"special": 64, "text": 300, "image": 32} and said["decoder"]["parameters"] > 10_000
  (tmp_path / "config.json").write_text((Path(folder) / "config.json").read_text())
  said = call(capsys, "info", tmp_path)
  assert said["decoder"] is said["codes"] is said["text_tokenizer"] is said["image_tokenizer"] is said["metrics"] is None
  assert cli.main(["info", str(tmp_path)]) == 0
  assert "decoder\tnot there yet" in capsys.readouterr().out.splitlines()
  for damaged in ('{"parser": ', "3"):
    (tmp_path / "metrics.json").write_text(damaged)
    assert cli.main(["info", str(tmp_path)]) == 2
    assert f"{tmp_path / 'metrics.json'}: damaged; run python -m train.evaluate again" in capsys.readouterr().err


class Bucket(backend._OsPathBackend):
  """A folder where gs://bucket is asked for."""

  def __init__(self, folder):
    self.at = lambda path: os.fspath(path).replace("gs://bucket", str(folder))

  def exists(self, path):
    return super().exists(self.at(path))

  def open(self, path, mode):
    return super().open(self.at(path), mode)


def test_a_run_in_a_bucket(capsys, folder, tmp_path, monkeypatch):
  """Its files are asked for by the address that was given."""
  stays = shutil.ignore_patterns("decoder", "image_tokenizer", "report")      # what Orbax reads
  run = shutil.copytree(folder, tmp_path / "run", ignore=stays)
  (run / "metrics.json").write_text('{"found": 1}')
  monkeypatch.setattr(gpath.PosixGPath, "_backend", Bucket(tmp_path))
  said = call(capsys, "info", "gs://bucket/run")
  assert (said["metrics"], said["text_tokenizer"], said["codes"]["val"]) == ({"found": 1}, {"pieces": 300}, 9)
  asked = []
  monkeypatch.setattr(shards, "CodeShards", lambda place: asked.append(str(place)) or shards_of(run / "codes" / "val"))
  call(capsys, "explain", "--objective", "text", "--model", "gs://bucket/run")
  assert asked == ["gs://bucket/run/codes/val"]


def test_validate(capsys, files, tmp_path):
  """Every bad record with its remedy, exit 1; a good source, exit 0; any field of the source."""
  good, bad = tmp_path / "good", tmp_path / "bad"
  for place in (good, bad):
    place.mkdir()
    for n, file in enumerate(files):
      (place / f"{n}.png").write_bytes(Path(file).read_bytes())
  assert cli.main(["validate", str(good)]) == 0
  assert capsys.readouterr().out == f"{good}: 3 records, 0 bad\n"
  (bad / "0.png").write_bytes(b"")
  (bad / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\nnonsense\n{"file_name": "1.png", "text": "b"}\n')
  assert cli.main(["validate", str(good), str(bad), "--json"]) == 1
  said = json.loads(capsys.readouterr().out)["outputs"]
  assert said[0]["bad"] == [] and {Path(b["where"].split(" ")[0]).name.split(":")[0] for b in said[1]["bad"]} == {"0.png", "metadata.jsonl"}
  assert all(b["problem"] and b["remedy"] for b in said[1]["bad"])
  assert cli.main(["validate", "--data.val-share", "0.01", str(good), "--data.background", "0", "0", "0", "--json"]) == 0
  assert json.loads(capsys.readouterr().out)["outputs"][0]["records"] == {"train": 3, "val": 0, "heldout": 0, "test": 0}
  for split in ("train", "val", "test"):      # test is read too, though no stage does
    shutil.copytree(good, tmp_path / "split" / split)
  assert cli.main(["validate", str(tmp_path / "split")]) == 0 and capsys.readouterr().out.endswith(": 9 records, 0 bad\n")
  (tmp_path / "c.py").write_text(f"from unitok.config import *\ndef get_config():\n  return Config(data=ImageFolder(path={str(good)!r}))\n")
  assert cli.main(["validate", "--config", str(tmp_path / "c.py"), "--data.image_size=8"]) == 0
  capsys.readouterr()
  assert cli.main(["validate", str(tmp_path / "nothing")]) == 1
  assert "nothing" in capsys.readouterr().out


@pytest.mark.parametrize("argv, says", [
    (["generate", "--model", "/nothing", "a"], "/nothing: is no run's folder (no config.json)"),
    (["info", "/nothing"], "/nothing: is no run's folder"),
    (["generate", "--model", "RUN"], "generate: no prompts; give some"),
    (["generate", "--model", "RUN", "--prompts", "/nothing.txt"], "--prompts /nothing.txt: no such file"),
    (["generate", "--model", "RUN", "a", "--temperature", "-1"], "sampling.temperature: -1.0 must be"),
    (["generate", "--model", "RUN", "a", "--top-p", "1.2"], "sampling.top_p: 1.2 must be in (0, 1]"),
    (["generate", "--model", "RUN", "a", "--strategy", "fast"],
     "sampling.strategy: 'fast' must be one of sequential, jacobi, groups, maskgit, rows"),
    (["generate", "--model", "RUN", "a", "--strategy", "jacobi", "--passes", "4"], "must be 0 for jacobi"),
    (["generate", "--model", "RUN", "a", "--strategy", "groups"], "sampling.passes: 0 must be 1 or more"),
    (["generate", "--model", "RUN", "a", "--strategy", "maskgit", "--passes", "4"], "parallel: this model was not trained"),
    (["generate", "--model", "RUN", "a", "--strategy", "rows", "--row-window", "-1"], "sampling.row_window: -1 must be >= 0"),
    (["generate", "--model", "RUN", "a", "--row-window", "2"], "sampling.row_window: 2 must be 0 for sequential"),
    (["generate", "--model", "RUN", "a", "--image-guidance-scale", "2"], "--image-guidance-scale"),
    (["generate", "--model", "RUN", "a", "--temprature", "1"], "--temprature, 1; did you mean --temperature?"),
    (["generate", "--model", "RUN", "a", "--seed", "x"], "--seed: invalid literal"),
    (["generate", "a"], "--model DIR"),
    (["generat", "a"], "generat"),
    (["caption", "--model", "RUN"], "caption: no pictures"),
    (["caption", "--model", "RUN", "BAD"], "bad.png: is not a picture that can be read; give a picture file"),
    (["reconstruct", "--model", "RUN", "/nothing.png"], "/nothing.png: no such file"),
    (["infill", "--model", "RUN", "ONE", "--mask", "4,4,50,2"], "--mask 4,4,50,2: x,y,w,h must be a box inside the 16 x 16"),
    (["infill", "--model", "RUN", "ONE", "--mask", "-1,4,2,2"], "--mask"),
    (["infill", "--model", "RUN", "ONE", "--mask", "4,4"], "--mask 4,4: no such file; give a picture file, or a box x,y,w,h"),
    (["infill", "--model", "RUN", "ONE", "--mask", "TWO"], "32 x 32 pixels, "),
    (["infill", "--model", "RUN", "ONE", "--mask", "BAD"], "bad.png: is not a picture that can be read; give a picture file that"),
    (["infill", "--model", "RUN", "ONE", "--mask", "0,0,16,16"], "infill: mask 0 leaves none of the 16 codes"),
    (["infill", "--model", "RUN", "ONE", "--mask", "BLACK"], "infill: mask 0 covers nothing; mask at least a pixel"),
    (["infill", "--model", "RUN", "ONE", "--mask", "4,4,2,2", "--passes", "3"], "parallel: this model was not trained for it"),
    (["answer", "--model", "RUN", "ONE"], "--question TEXT"),
    (["answer", "--model", "RUN", "--question", "what?"], "answer: no pictures; give picture files"),
    (["answer", "--model", "RUN", "ONE", "--question", "what?"], "question: this model was not trained for it"),
    (["extend", "--model", "RUN", "ONE"], "extend: no side; give pixels to draw past one"),
    (["extend", "--model", "RUN", "--top", "4"], "extend: no pictures"),
    (["extend", "--model", "RUN", "ONE", "--top", "3"], "extend: top: 3 pixels must be 0 or more, a multiple of the 4"),
    (["generate", "--model", "RUN", "a", "--enlarge"], "refine: this model was not trained for it"),
    (["enlarge", "--model", "RUN", "ONE", "--strategy", "rows"], "--strategy: rows does not enlarge, must be groups or maskgit"),
    (["vary", "--model", "RUN", "ONE", "--samples", "0"], "--samples 0: of each picture, must be 1 or more"),
    (["vary", "--model", "RUN", "ONE", "--share", "2"], "share: 2.0 of the codes drawn anew, must be in 0 .. 1"),
    (["vary", "--model", "RUN", "ONE", "--anew", "some"], "anew: 'some' must be one of random, unlikely"),
    (["detect", "--model", "RUN"], "detect: no pictures; give picture files"),
    (["detect", "--model", "RUN", "BAD"], "bad.png: is not a picture that can be read"),
    (["detect", "--model", "RUN", "ONE"], "detect: this model was not trained for it"),
    (["detect", "--model", "RUN", "ONE", "--limit", "0"], "limit: 0 must be at least 1"),
    (["generate", "--model", "RUN", "a", "--text-attention", "-1"], "sampling.text_attention: -1.0 must be"),
    (["detect", "--model", "RUN", "ONE", "--text-attention", "1"], "--text-attention"),
    (["complete", "--model", "RUN"], "complete: no text"),
    (["complete", "--model", "RUN", "a", "--guidance-scale", "2"], "must be 1 for text"),
    (["validate"], "validate: give folders of pictures, or --config FILE"),
    (["validate", "--config", "/nothing.py"], "config /nothing.py: no such file"),
    (["validate", "RUN", "--data.nix", "3"], "--data.nix: no such config field"),
])
def test_errors_end_in_one_line(capsys, folder, files, tmp_path, monkeypatch, argv, says):
  (tmp_path / "bad.png").write_bytes(b"no picture")
  monkeypatch.chdir(tmp_path)
  Image.new("L", (16, 16)).save(tmp_path / "black.png")
  names = {"RUN": folder, "BLACK": str(tmp_path / "black.png"), "ONE": files[0], "TWO": files[1], "BAD": str(tmp_path / "bad.png")}
  assert cli.main([names.get(word, word) for word in argv]) == 2
  said = capsys.readouterr()
  assert said.out == "" and said.err.startswith("unitok: ") and says in said.err and said.err.count("\n") == 1
  assert not (tmp_path / "drawn").exists()


def test_debug_shows_the_traceback():
  with pytest.raises(ValueError, match="no run's folder"):
    cli.main(["info", "/nothing", "--debug"])


def test_prompts_in_another_encoding(capsys, folder, tmp_path):
  (tmp_path / "p.txt").write_bytes("grün".encode("latin-1"))
  assert cli.main(["generate", "--model", folder, "--prompts", str(tmp_path / "p.txt")]) == 2
  assert "is not UTF-8 text" in capsys.readouterr().err


def test_interrupted(capsys, monkeypatch):
  def stop(o):
    raise KeyboardInterrupt
  monkeypatch.setitem(cli.COMMANDS, cli.Info, stop)
  assert cli.main(["info", "/nothing"]) == 130
  assert capsys.readouterr().err == "unitok: stopped\n"


def test_sheet():
  images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), np.uint8)
  sheet = drawings.sheet(images, 2, at_least=8)
  assert sheet.shape == ((4 + 2 + 4) * 2, (5 + 2 + 5) * 2, 3)
  assert (sheet[:8, :10] == 0).all() and (sheet[:8, 14:] == 1).all() and (sheet[12:, :10] == 2).all() and (sheet[12:, 14:] == 255).all()
  with pytest.raises(ValueError, match="no pictures"):
    drawings.sheet(images[:0])


def test_progress_on_a_terminal(capsys, monkeypatch, folder, tmp_path):
  """While pictures are drawn, how much of them is there; nothing of it on stdout."""
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
  told = []
  monkeypatch.setattr("rich.status.Status.update", lambda status, text: told.append(text))
  assert cli.main(["generate", "a ring", "--model", folder, "--out", str(tmp_path / "out"), "--json"]) == 0
  shares = [int(re.fullmatch(r"generate … 1: (\d+)%", text)[1]) for text in told]
  assert shares == sorted(shares) and len(shares) > 1 and 0 < shares[0] < 100
  assert json.loads(capsys.readouterr().out)["outputs"] and commands.TELL.get() is None


def test_table_on_a_terminal(capsys, monkeypatch):
  """Text is shown as it is, not as markup."""
  monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
  cli.show(cli.Command(), commands.Said({}, [], ("file", "caption"), [("a.png", "a [red] ring")], ["a note"]))
  said = capsys.readouterr().out
  assert "a [red] ring" in said and "a note" in said and "caption" in said


def test_programs_stay_where_they_can(monkeypatch, tmp_path):
  """In a folder of their own, unless told otherwise, and nowhere where there is no home or none that can be written."""
  before = {name: getattr(jax.config, name) for name in PROGRAMS}
  try:
    at = lambda: jax.config.jax_compilation_cache_dir
    keep_programs()
    assert at() == before["jax_compilation_cache_dir"]           # the tests' own, by JAX_COMPILATION_CACHE_DIR
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    keep_programs()
    assert at() is None
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keep_programs()
    assert Path(at()).parent == tmp_path / "cache" / "unitok" and Path(at()).is_dir()
    jax.config.update("jax_compilation_cache_dir", None)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_programs()
    assert at() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", staticmethod(lambda: (_ for _ in ()).throw(RuntimeError("no home"))))
    keep_programs()
    assert at() is None
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
