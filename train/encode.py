"""Encodes every record once: WORKDIR/codes/{train,val,heldout} and WORKDIR/vocab.json.

    python -m train.encode --config configs/scenes_demo.py --workdir runs/demo
"""
import dataclasses

from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from train.stage import main
from train.text_tokenizer import FOLDER
from unitok import config as c
from unitok.data.shards import write_shards
from unitok.data.sources import SPLITS, open_source
from unitok.files import write_json
from unitok.modalities.text import TextModality
from unitok.objectives import needed
from unitok.run import block_sizes, load_image_tokenizer, read_vocabulary
from unitok.vocab import Vocabulary, make_vocabulary

BATCH = 256
"""Pictures encoded at once."""


def run(config: c.Config, workdir: epath.Path) -> Vocabulary:
  """The codes of every split, and the vocabulary they belong to; what is there already is kept.

  ValueError where the codes or vocab.json are of other tokenizers; BadRecord with data.on_bad "stop".
  """
  workdir = epath.Path(workdir)
  text, image = TextModality.load(workdir / FOLDER), load_image_tokenizer(workdir)
  fingerprints = {"text": text.fingerprint, "image": image.fingerprint}
  sizes = block_sizes(text.size, image.size, image.books, "objects" in needed(config.decoder.tasks),
                      config.decoder.objectives.size_tokens)
  vocabulary, path = make_vocabulary(sizes, fingerprints), workdir / "vocab.json"
  if path.exists() and read_vocabulary(workdir).fingerprint != vocabulary.fingerprint:
    raise ValueError(f"{path}: of other tokenizers than this workdir's; remove it and {workdir / 'codes'} to encode "
                     "again (and train the decoder again), or use another workdir")
  description = {"source": c.source_name(config.data), **dataclasses.asdict(config.data)}
  del description["on_bad"]   # changes no code
  columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
  for split in SPLITS:
    source = open_source(config.data, split, sizes=split == "train")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
      task = bar.add_task(f"encoding {split}", total=len(source))
      manifest = write_shards(workdir / "codes" / split, source, text, image, fingerprints, config.data.on_bad, BATCH,
                              progress=lambda done, of: bar.update(task, completed=done), description=description,
                              coarse="coarse" in needed(config.decoder.tasks))
    left_out = f", {len(manifest['skipped'])} left out ({path.parent / 'codes' / split / 'manifest.json'})" \
        if manifest["skipped"] else ""
    print(f"codes/{split}: {manifest['records']} records{left_out}", flush=True)
  write_json(path, vocabulary.to_json())
  return vocabulary


if __name__ == "__main__":
  main(run)
