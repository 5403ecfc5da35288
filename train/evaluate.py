"""Measures a run on records it never trained on: WORKDIR/metrics.json and WORKDIR/report/index.html.

    python -m train.evaluate --config configs/scenes_demo.py --workdir runs/demo
    python -m train.evaluate --what image_tokenizer --workdir vq16 --data.path my_pictures --evaluation.split train

The second measures an image tokenizer alone, any run's or an imported one, on any pictures:
WORKDIR/metrics_image_tokenizer.json.
"""
import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from rich.console import Console

from train import seconds, stage
from train.image_tokenizer import usable
from unitok import config as c
from unitok.checkpoint import read_config
from unitok.data.sources import open_source
from unitok.evaluation import evaluate
from unitok.evaluation.examples import Result
from unitok.evaluation.networks import Networks, differences, features
from unitok.evaluation.reconstruction import figures_of, measure, preprocessing
from unitok.evaluation.report import print_table, settings_line, write_report
from unitok.evaluation.statistics import plain
from unitok.files import write_json
from unitok.interop.measures import read_inception, read_lpips, sha256
from unitok.model import Model
from unitok.run import kind_of, load_image_tokenizer

STAGE = "evaluate"


def run(config: c.Config, workdir: epath.Path) -> dict:
  """The metrics, as they stand in WORKDIR/metrics.json.

  One sample a prompt with the config's sampler, none chosen. ValueError where a stage before is missing.
  """
  workdir, start = epath.Path(workdir), time.perf_counter()
  say = lambda line: print(line, flush=True)
  say(f"{STAGE}: {settings_line(config)}")
  networks, _ = networks_of(config.evaluation)
  model = dataclasses.replace(Model.open(workdir), config=config)   # evaluation.* and sampling.* may have changed
  result = evaluate(model, say, networks)

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


def run_image_tokenizer(config: c.Config, workdir: epath.Path) -> dict:
  """The metrics of a run's image tokenizer on the pictures of `config`, as they stand in the file.

  They are equal to the last digit where the machine, the weights, the pictures and the batch size are. ValueError where
  there is no tokenizer, or no picture.
  """
  workdir, made, options = epath.Path(workdir), read_config(workdir), config.evaluation
  config = dataclasses.replace(config, image_tokenizer=made.image_tokenizer, compute_dtype=made.compute_dtype)
  kind_of(config).check(config.image_tokenizer, config.data.image_size)
  if min(options.batch_size, options.examples) < 1:
    raise ValueError(f"evaluation: batch_size {options.batch_size} and examples {options.examples} must be 1 or more")
  networks, told = networks_of(options)
  source, image = open_source(config.data, options.split), load_image_tokenizer(workdir)
  pictures = itertools.islice(usable(source, range(len(source)), config.data.on_bad), options.examples)
  print(f"{STAGE}: the image tokenizer, on up to {options.examples} pictures of {options.split}", flush=True)

  def passes() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    while batch := list(itertools.islice(pictures, options.batch_size)):
      codes = image.encode(np.stack(batch))
      yield np.stack(batch), codes, image.decode(codes)

  measured = measure(passes(), image.codebook_size, networks, image.books)
  said = {"source": c.source_name(config.data), "split": options.split, **preprocessing(config.data), **told}
  metrics = plain({"image_tokenizer": measured, "preprocessing": said, "fingerprint": image.fingerprint})
  write_json(workdir / "metrics_image_tokenizer.json", metrics)
  print_table(Result(metrics, figures_of(measured)), Console(), f"the image tokenizer, on pictures of {options.split}")
  print("\n".join(f"{name}: {text}" for name, text in said.items()))
  print(f"figures: {workdir / 'metrics_image_tokenizer.json'}")
  return metrics


def networks_of(options: c.Evaluation) -> tuple[Networks, dict[str, str]]:
  """(the networks whose weights are named, what each is given, in words). ValueError where a file does not do."""
  networks, told = Networks(), {}
  of = lambda path: f"weights {epath.Path(path).name}, sha256 {sha256(path)}"
  if options.lpips:
    networks = networks._replace(differences=differences(jax.device_put(read_lpips(options.lpips))))
    told["lpips"] = f"v0.1 with VGG16, of the 8-bit pictures in [-1, 1] at their own size, float32; {of(options.lpips)}"
  if options.inception:
    networks = networks._replace(features=features(jax.device_put(read_inception(options.inception))))
    told["rfid"] = ("Fréchet distance in float64 between the pooled 2048 features of pictures and reconstructions of 8 "
                    "bits; pytorch-fid's Inception-v3, stretched to 299 x 299 bilinearly without antialiasing, in "
                    f"[-1, 1]; covariances over n - 1; {of(options.inception)}")
  return networks, told


def as_it_is(workdir: str, config: c.Config) -> epath.Path:
  """A folder that is only read, so that its config may differ."""
  return epath.Path(workdir)


WHAT = {"run": (run, stage.open_workdir), "image_tokenizer": (run_image_tokenizer, as_it_is)}
"""Of --what: what measures, and what opens its workdir."""


def main(argv: list[str]) -> None:
  """The command line: --what NAME, the rest as for all stages."""
  words, what = list(argv), "run"
  for at, word in enumerate(words):
    if word == "--what" or word.startswith("--what="):
      what = word.partition("=")[2] or "".join(words[at + 1:at + 2])
      del words[at:at + (1 if "=" in word else 2)]
      break
  measures, opened = WHAT.get(what, (None, as_it_is))
  if measures is None:
    def measures(config, workdir):
      raise ValueError(f"--what {what}: must be one of {', '.join(WHAT)}")
  stage.main(measures, words, opened)


if __name__ == "__main__":
  main(sys.argv[1:])
