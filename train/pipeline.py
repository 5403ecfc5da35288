"""All stages of a run in one process: text tokenizer, image tokenizer, codes, decoder, evaluation.

    python -m train.pipeline --config configs/scenes_demo.py --workdir runs/demo

What is finished is kept, so the same command goes on where it was stopped.
"""
import time

STARTED = time.perf_counter()   # before jax is imported, so that the total holds it

from train.stage import main, stoppable  # noqa: E402

with stoppable():   # jax takes seconds
  from etils import epath  # noqa: E402

  from train import decoder, encode, evaluate, image_tokenizer, seconds, text_tokenizer  # noqa: E402
  from unitok import config as c  # noqa: E402
  from unitok.run import kind_of  # noqa: E402

STAGES = {"text_tokenizer": text_tokenizer.run, "image_tokenizer": image_tokenizer.run, "encode": encode.run,
          "decoder": decoder.run}
"""In their order; `evaluate` follows and is timed by itself."""


def run(config: c.Config, workdir: epath.Path) -> dict:
  """The metrics of the finished run. Each stage says what it keeps from before."""
  workdir = epath.Path(workdir)
  if config.init.source and "image_tokenizer" not in config.init.frozen and not kind_of(config).make:
    raise ValueError("init.from: with a tokenizer that goes on training, its codes change and that run's decoder means "
                     "nothing; add --init.frozen image_tokenizer")
  if config.minutes < 0:
    raise ValueError(f"minutes: {config.minutes:g} must be 0 (no limit) or more")
  for number, (name, stage) in enumerate(STAGES.items(), 1):
    print(f"\n[{number}/{len(STAGES) + 1}] {name.replace('_', ' ')}", flush=True)
    limit = {}
    if config.minutes and name == "decoder":
      spent = seconds.with_total(seconds.read(workdir))["total"]
      limit["seconds"] = max(60 * (config.minutes - config.evaluation.minutes) - spent, 1e-3)
    with seconds.timed(workdir, name):
      stage(config, workdir, **limit)
  print(f"\n[{len(STAGES) + 1}/{len(STAGES) + 1}] evaluate", flush=True)
  return evaluate.run(config, workdir)


def run_from_start(config: c.Config, workdir: epath.Path) -> dict:
  """`run`, with the imports counted under "start"."""
  seconds.add(workdir, "start", time.perf_counter() - STARTED)
  return run(config, workdir)


if __name__ == "__main__":
  main(run_from_start)
