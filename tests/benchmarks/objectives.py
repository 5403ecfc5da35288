"""One model for all objectives beside a specialist for each.

    python -m train.pipeline --config configs/scenes_objectives.py --workdir runs/objectives
    python -m tests.benchmarks.objectives --workdir runs/objectives --out runs/specialists

Each specialist learns one objective alone: from the same tokenizers and codes, with the same decoder, with as many
documents of it as the one model saw, and once for each of `--rates`, of which the one with the best figure counts (on the
records that are reported, which favours the specialist). Then each one's figure on at least 1,000 validation cases stands
beside the one model's; the one model is not worse where the difference lies within its 95 % interval or is in its favour.
A specialist that is there already is not trained again. The last line is JSON.
"""
import argparse
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np

import train.decoder
from train.stage import open_workdir
from unitok import config as c
from unitok.checkpoint import read_config
from unitok.data.pipeline import _Documents, _Examples, mixture
from unitok.data.shards import CodeShards
from unitok.evaluation import evaluate
from unitok.evaluation.likelihood import SPOKEN_FOR
from unitok.evaluation.statistics import look_up, plain
from unitok.files import write_json
from unitok.model import Model
from unitok.objectives import possible
from unitok.run import read_vocabulary, with_steps

FIGURES = {"text_to_image": ("text_to_image.accuracy",), "image_to_text": ("caption.exact_match",),
           "infill": ("infill.accuracy", "infill.accuracy_rectangles", "infill.accuracy_patches", "infill.accuracy_halves"),
           "parallel": ("parallel.accuracy",), "question": ("answers.accuracy", "answers.accuracy_open"),
           "locate": ("locate.found",), "layout": ("layout.accuracy",), "glm_spans": ("blanks.accuracy",),
           "interleaved": ("interleaved.accuracy",)}
"""Of each objective, its own first; the others have objectives.NAME, nats, where less is better."""


def keys_of(name: str) -> tuple[str, ...]:
  return FIGURES[name] if name in SPOKEN_FOR else (f"objectives.{name}",)


PADDING = 0.05
"""Share of a row that is taken to be padding."""


def documents_of(config: c.Config, workdir: Path) -> dict[str, tuple[float, float]]:
  """objective -> (documents the run saw, mean tokens of one)."""
  decoder, weights = config.decoder, mixture(config.decoder)
  shards, vocabulary = CodeShards(workdir / "codes" / "train"), read_vocabulary(workdir)
  examples, build = _Examples([shards], vocabulary, weights), _Documents(vocabulary, decoder)
  rng, lengths = np.random.default_rng(0), {}
  for name in weights:
    some = [examples[int(n)] for n in rng.integers(0, len(examples), 200)]
    lengths[name] = float(np.mean([build.draw(name, one, rng).length for one in some if possible(name, one)]))
  total = sum(weights.values())
  mean = sum(weights[name] / total * lengths[name] for name in weights)
  tokens = decoder.train.steps * decoder.train.batch_size * decoder.row_length * (1 - PADDING)
  return {name: (tokens / mean * weights[name] / total, lengths[name]) for name in weights}


def specialist(config: c.Config, workdir: Path, out: Path, name: str, rate: float, documents: float, length: float) -> dict:
  """The metrics of one trained on `name` alone."""
  folder = out / f"{name}-{rate:g}"
  if not (folder / "metrics.json").exists():
    old = config.decoder
    steps = max(round(documents * length / (old.train.batch_size * old.row_length * (1 - PADDING))), 50)
    tuned = dataclasses.replace(old.train, steps=steps, learning_rate=rate, sample_every=10**9, save_every=10**9)
    one = dataclasses.replace(config, minutes=0.0, decoder=dataclasses.replace(old, tasks={name: 1.0}, train=tuned))
    open_workdir(folder, one)
    for part in ("text_tokenizer", "image_tokenizer", "codes"):
      if not (folder / part).exists():
        shutil.copytree(workdir / part, folder / part)
    shutil.copy(workdir / "vocab.json", folder / "vocab.json")
    train.decoder.run(one, folder, on_sample=lambda *_: None)
    write_json(folder / "metrics.json", plain(evaluate(Model.open(folder), print).metrics))
  return json.loads((folder / "metrics.json").read_text())


def compared(key: str, ours: dict, theirs: dict, less_is_better: bool) -> tuple[float, float, bool]:
  """(the one model's figure, the specialist's, is the one not worse by more than the interval of the difference?)."""
  figures, widths = [], []
  for metrics in (ours, theirs):
    figures.append(look_up(metrics, key))
    widths.append((look_up(metrics, f"{key}_high") - look_up(metrics, f"{key}_low")) / 2)
  gain = (figures[0] - figures[1]) * (-1 if less_is_better else 1)
  return figures[0], figures[1], gain >= -math.hypot(*widths)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=Path, required=True, help="the one model's run")
  parser.add_argument("--out", type=Path, required=True, help="where the specialists go")
  parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 4e-3, 8e-3], help="learning rates tried for each")
  parser.add_argument("--objectives", nargs="*", help="these alone")
  options = parser.parse_args()
  config = with_steps(read_config(options.workdir), options.workdir)
  ours, result = json.loads((options.workdir / "metrics.json").read_text()), {}
  for name, (documents, length) in documents_of(config, options.workdir).items():
    if options.objectives and name not in options.objectives:
      continue
    keys = keys_of(name)
    less = name not in SPOKEN_FOR
    found = [specialist(config, options.workdir, options.out, name, rate, documents, length) for rate in options.rates]
    best = (min if less else max)(found, key=lambda metrics: look_up(metrics, keys[0]))
    for key in keys:
      if look_up(ours, key) is None:
        continue
      one, other, fine = compared(key, ours, best, less)
      result[key] = {"one": one, "specialist": other, "not_worse": fine, "n": look_up(ours, f"{key}_n"),
                     "rate": options.rates[found.index(best)], "documents": round(documents)}
      print(f"{name:14s} {key:28s} one model {one:.3f}   specialist {other:.3f}   {'not worse' if fine else 'worse'}   "
            f"n {result[key]['n']}, {documents:.0f} documents, rate {result[key]['rate']:g}", flush=True)
  first = [result[keys_of(name)[0]] for name in mixture(config.decoder) if keys_of(name)[0] in result]
  print(json.dumps({"tasks_not_worse_share": float(np.mean([one["not_worse"] for one in first])), "figures": result}))


if __name__ == "__main__":
  main()
