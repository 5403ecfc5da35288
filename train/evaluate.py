"""Measures a run on records it never trained on: WORKDIR/metrics.json and WORKDIR/report/index.html.

    python -m train.evaluate --config configs/scenes_demo.py --workdir runs/demo
"""
import dataclasses
import time

from etils import epath
from rich.console import Console

from train import seconds
from unitok import config as c
from unitok.evaluation import evaluate
from unitok.evaluation.report import print_table, settings_line, write_report
from unitok.evaluation.statistics import plain
from unitok.files import write_json
from unitok.model import Model

STAGE = "evaluate"


def run(config: c.Config, workdir: epath.Path) -> dict:
  """The metrics, as they stand in WORKDIR/metrics.json.

  One sample a prompt with the config's sampler, none chosen. ValueError where a stage before is missing.
  """
  workdir, start = epath.Path(workdir), time.perf_counter()
  say = lambda line: print(line, flush=True)
  say(f"{STAGE}: {settings_line(config)}")
  model = dataclasses.replace(Model.open(workdir), config=config)   # evaluation.* and sampling.* may have changed
  result = evaluate(model, say)

  def spent() -> dict[str, float]:
    seconds.add(workdir, STAGE, time.perf_counter() - start, anew=True)
    return seconds.with_total(seconds.read(workdir))

  path = write_report(workdir, config, result, spent)
  metrics = plain({**result.metrics, "seconds": seconds.with_total(seconds.read(workdir))})
  write_json(workdir / "metrics.json", metrics)
  print_table(result, Console())
  say(settings_line(config))
  say("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in metrics["seconds"].items()))
  say(f"figures: {workdir / 'metrics.json'}\nreport:  {path}")
  return metrics


if __name__ == "__main__":
  from train.stage import main
  main(run)
