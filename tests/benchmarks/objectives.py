"""One model for all objectives beside a specialist for each.

    python -m train.pipeline --config configs/scenes_objectives.py --workdir runs/objectives
    python -m tests.benchmarks.objectives --workdir runs/objectives --out runs/specialists

Each specialist learns one objective alone: from the same tokenizers and codes, with the same decoder, with as many
documents of it as the one model saw (counted in the packed rows of both), and once for each of `--rates`; as long as the
best is the lowest or the highest tried, at most MORE times, half or twice of it is tried, too. The one with the best figure
counts, on the records that are reported, which favours the specialist ("edge" where it is still at an end). Where that
would be less than LEAST steps, its batches are smaller. Then each one's figure on at least 1,000 validation cases stands
beside the one model's; the one model is not worse where it is ahead, or behind by no more than the 95 % interval of the
difference of two independent shares. A specialist that is there already is not trained again, so several processes may
train some each (`--objectives`), and a last one gathers. The last line is JSON.
"""
import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import tyro

import train.decoder
from train.stage import open_workdir
from unitok import config as c
from unitok.checkpoint import read_config
from unitok.data.pipeline import batches, mixture, task_names
from unitok.data.shards import CodeShards
from unitok.evaluation import evaluate
from unitok.evaluation.likelihood import SPOKEN_FOR
from unitok.evaluation.statistics import look_up, plain
from unitok.files import write_json
from unitok.model import Model
from unitok.run import read_vocabulary, with_steps

LEAST = 1_000
"""Steps a specialist has at least, down to batches of one row."""
MORE = 3
"""Learning rates tried beside `--rates`, at most."""
COUNTED = 1_000
"""Rows whose documents are counted."""
FIGURES = {"text_to_image": ("text_to_image.accuracy",), "image_to_text": ("caption.exact_match",),
           "infill": ("infill.accuracy", "infill.accuracy_rectangles", "infill.accuracy_patches", "infill.accuracy_halves"),
           "parallel": ("parallel.accuracy",), "question": ("answers.accuracy", "answers.accuracy_open"),
           "locate": ("locate.found",), "layout": ("layout.accuracy",), "glm_spans": ("blanks.read", "blanks.accuracy"),
           "glm_document": ("blanks.read_document", "blanks.accuracy_document"),
           "glm_sentences": ("blanks.read_sentences", "blanks.accuracy_sentences"),
           "detect": ("detect.found", "detect.pictures_right"), "interleaved": ("interleaved.accuracy",)}
"""Of each objective, its own first; the others have objectives.NAME, nats, where less is better."""


def keys_of(name: str) -> tuple[str, ...]:
  return FIGURES[name] if name in SPOKEN_FOR else (f"objectives.{name}",)


def documents_a_row(config: c.Config, workdir: Path) -> dict[str, float]:
  """objective -> mean of its documents in a packed row of the mixture."""
  decoder, vocabulary = config.decoder, read_vocabulary(workdir)
  objective = np.array([list(mixture(decoder)).index(name.split("/")[0]) for name in task_names(decoder, vocabulary)])
  rows = batches(CodeShards(workdir / "codes" / "train"), vocabulary, decoder, config.seed, batch_size=10)
  counts = np.zeros(len(mixture(decoder)))
  for _ in range(COUNTED // 10):
    batch = next(rows)
    for segments, tasks, weights in zip(batch.segment_ids, batch.tasks, batch.loss_weights):
      found = np.unique(np.stack([segments, objective[tasks]])[:, weights > 0], axis=1)[1]
      counts += np.bincount(found, minlength=len(counts))
  rows.close()
  return dict(zip(mixture(decoder), counts / COUNTED))


def only(config: c.Config, name: str) -> c.Config:
  """With no objective but this."""
  return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tasks={name: 1.0}))


def alone(config: c.Config, name: str, rate: float, rows: float) -> c.Config:
  """The config of a specialist that sees so many rows."""
  decoder, tuned = only(config, name).decoder, config.decoder.train
  size = int(min(max(rows // LEAST, 1), tuned.batch_size))
  steps = max(round(rows / size), 2)
  tuned = dataclasses.replace(tuned, steps=steps, batch_size=size, learning_rate=rate, sample_every=10**9,
                              warmup_steps=min(tuned.warmup_steps, steps // 10), save_every=10**9)
  return dataclasses.replace(config, minutes=0.0, decoder=dataclasses.replace(decoder, train=tuned))


def specialist(config: c.Config, workdir: Path, folder: Path) -> dict:
  """The metrics of the run `config` in `folder`, from the tokenizers and codes of `workdir`; {} where it diverged."""
  open_workdir(folder, config)
  if not (folder / "metrics.json").exists():
    for part in ("text_tokenizer", "image_tokenizer", "codes"):
      if not (folder / part).exists():
        shutil.copytree(workdir / part, folder / f"{part}.part", dirs_exist_ok=True)
        (folder / f"{part}.part").rename(folder / part)
    shutil.copy(workdir / "vocab.json", folder / "vocab.json")
    try:
      train.decoder.run(config, folder, on_sample=lambda *_: None)
      metrics = plain(evaluate(Model.open(folder), print).metrics)
    except ValueError as error:
      print(f"{folder}: {error}", flush=True)
      metrics = {}
    write_json(folder / "metrics.json", metrics)
  return json.loads((folder / "metrics.json").read_text())


def compared(key: str, ours: dict, theirs: dict, less_is_better: bool) -> tuple[float, float, bool]:
  """(the one model's figure, the specialist's, is the one not worse by more than the interval of the difference?)."""
  figures, widths = [], []
  for metrics in (ours, theirs):
    figures.append(look_up(metrics, key))
    widths.append((look_up(metrics, f"{key}_high") - look_up(metrics, f"{key}_low")) / 2)
  gain = (figures[0] - figures[1]) * (-1 if less_is_better else 1)
  return figures[0], figures[1], gain >= -math.hypot(*widths)


def main(workdir: Path, out: Path, rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3), objectives: tuple[str, ...] = ()):
  """workdir: the one model's run; out: where the specialists go; rates: learning rates tried for each; objectives:
  these alone."""
  config = with_steps(read_config(workdir), workdir)
  ours, result, shares = json.loads((workdir / "metrics.json").read_text()), {}, documents_a_row(config, workdir)
  rows = config.decoder.train.steps * config.decoder.train.batch_size
  for name in objectives or mixture(config.decoder):
    keys, less = keys_of(name), name not in SPOKEN_FOR
    documents, found, tried = rows * shares[name], {}, []
    best = lambda: (min if less else max)(found, key=lambda rate: look_up(found[rate], keys[0]))
    ahead, needed = list(rates), documents / documents_a_row(only(config, name), workdir)[name]
    while ahead:
      rate = ahead.pop(0)
      one = alone(config, name, rate, needed)
      metrics = specialist(one, workdir, out / f"{name}-{rate:g}")
      tried.append(rate)
      if look_up(metrics, keys[0]) is not None:
        found[rate] = metrics
      if not ahead and found and best() in (min(tried), max(tried)) and len(tried) < len(rates) + MORE:
        ahead.append(best() * 2 if best() == max(tried) else best() / 2)
    if look_up(ours, keys[0]) is None or not found:
      sys.exit(f"{name}: no figure {keys[0]} in {workdir if found else f'any {out}/{name}-*'}/metrics.json; evaluate it")
    rate = best()
    edge = " (edge)" if rate in (min(tried), max(tried)) else ""
    for key in keys:
      if look_up(ours, key) is None:
        continue
      mine, other, fine = compared(key, ours, found[rate], less)
      result[key] = {"one": mine, "specialist": other, "not_worse": fine, "n": look_up(ours, f"{key}_n"), "rate": rate,
                     "edge": bool(edge), "documents": round(documents),
                     "all_rates": {f"{one:g}": look_up(found[one], key) for one in sorted(found)}}
      print(f"{name:14s} {key:28s} one model {mine:.3f}   specialist {other:.3f}   {'not worse' if fine else 'worse'}   "
            f"n {result[key]['n']}, {documents:.0f} documents, rate {rate:g}{edge}", flush=True)
  first = [result[keys_of(name)[0]] for name in objectives or mixture(config.decoder)]
  print(json.dumps({"tasks_not_worse_share": float(np.mean([one["not_worse"] for one in first])), "tasks": len(first),
                    "figures": result}))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
