"""Trains the text tokenizer on the training split: WORKDIR/text_tokenizer.

On its captions, and on questions, answers and names of objects where the tasks use them.

    python -m train.text_tokenizer --config configs/scenes_demo.py --workdir runs/demo
"""
from collections.abc import Iterator

import numpy as np
from etils import epath

from train.stage import main
from unitok import config as c
from unitok.data.record import BadRecord
from unitok.data.sources import open_source, texts
from unitok.modalities import text
from unitok.objectives import needed

FOLDER = "text_tokenizer"


def run(config: c.Config, workdir: epath.Path) -> text.TextModality:
  """The tokenizer in `workdir`, trained where it is not there yet.

  A source without any text gives the 256 bytes and the blank, so that prompts can still be typed. With init.source the
  tokenizer is that run's.
  ValueError where the folder's tokenizer has other settings; BadRecord with data.on_bad "stop".
  """
  folder = epath.Path(workdir) / FOLDER
  manifest = text.read_manifest(folder)
  wanted = {"options": text.settings(config.text)}
  if config.init.source:
    given = epath.Path(config.init.source) / FOLDER
    wanted = {"sha256": text.TextModality.load(given).sha256}
  if manifest:
    for name, value in wanted.items():
      if manifest[name] != value:
        raise ValueError(f"{folder}: was made with {name} {manifest[name]}, the config asks for {value}; "
                         f"remove {folder} to make it again, or use another workdir")
    tokenizer = text.TextModality.load(folder)
    print(f"text tokenizer: {tokenizer.size} pieces, kept from before ({folder})", flush=True)
    return tokenizer
  if config.init.source:
    tokenizer = text.copy(given, folder)
    print(f"text tokenizer: that of {config.init.source}, so that its decoder's ids keep their meaning", flush=True)
    return tokenizer
  counts = {"captions": 0}
  tokenizer = text.train(chosen(config, counts), folder, config.text)
  what = f"{tokenizer.size} pieces from {counts['captions']} captions" if counts["captions"] else \
      "bytes alone, the source has no text"
  print(f"text tokenizer: {what} ({folder})", flush=True)
  return tokenizer


def chosen(config: c.Config, counts: dict[str, int]) -> Iterator[str]:
  """Captions of the training split, counted, up to text.max_captions; then those of records in a fixed random order."""
  if config.text.max_captions < 1:
    raise ValueError(f"text.max_captions is {config.text.max_captions}, must be at least 1")
  source = open_source(config.data, "train")
  kinds = needed(config.decoder.tasks)
  for index in np.random.default_rng(0).permutation(len(source)):
    try:
      some = texts(source, int(index), kinds)
    except BadRecord:
      if config.data.on_bad != "skip":
        raise
      continue
    for one in some:
      if counts["captions"] == config.text.max_captions:
        return
      counts["captions"] += 1
      yield one


if __name__ == "__main__":
  main(run)
