"""The same prompts drawn while the decoder trains: WORKDIR/report/samples/decoder_STEP.png, the prompts in .json."""
from collections.abc import Callable

import numpy as np
from etils import epath

from unitok.config import Config
from unitok.data.drawings import save
from unitok.data.record import BadRecord
from unitok.data.sources import captions, open_source
from unitok.files import write_json
from unitok.modalities.text import TextModality
from unitok.model import Model
from unitok.run import load_image_tokenizer
from unitok.sampling.sampler import Sampler

COUNT = 8


def drawer(config: Config, workdir) -> Callable | None:
  """on_sample(language, vocabulary, step, params) of the decoder stage: one picture a prompt, side by side, u8[h w 3]. None
  where the run does not learn to draw.

  Prompts and seed are the same every time, so that a picture differs from the last by what was learned. The
  tokenizers are read and the sampler is compiled at the first call.
  """
  if not config.decoder.tasks.get("text_to_image"):
    return None
  workdir, kept = epath.Path(workdir), []

  def draw(language, vocabulary, step: int, params) -> np.ndarray:
    if not kept:
      kept.append(Model(config, vocabulary, TextModality.load(workdir / "text_tokenizer"),
                        load_image_tokenizer(workdir), Sampler(language, params, vocabulary)))
    model = kept[0]
    model.sampler.params = params
    texts = [text for text in prompts(config) if model.fits(text)] or [""]
    pictures = model.generate(texts, seed=config.seed)
    model.sampler.forget()      # training needs the memory
    path = picture_path(workdir, step)
    write_json(path.with_suffix(".json"), {"step": step, "seed": config.seed, "prompts": texts})
    strip = np.concatenate(list(pictures), 1)
    save(path, strip)   # last: where it is, both are
    return strip
  return draw


def picture_path(workdir, step: int) -> epath.Path:
  return epath.Path(workdir) / "report" / "samples" / f"decoder_{step:06d}.png"


def last_is_missing(config: Config, workdir) -> bool:
  """Should there be a picture of the last step that is not there?"""
  drawn = picture_path(workdir, config.decoder.train.steps).exists()
  return bool(config.decoder.tasks.get("text_to_image")) and not drawn


def prompts(config: Config) -> list[str]:
  """The config's, else the first captions of the validation split (of the training split where there is none)."""
  if config.evaluation.prompts:
    return list(config.evaluation.prompts)
  for split in ("val", "train"):
    source, found = open_source(config.data, split), []
    for index in range(min(len(source), 10 * COUNT)):
      if len(found) == COUNT:
        break
      try:
        found += captions(source, index)[:1]
      except BadRecord:
        if config.data.on_bad == "stop":
          raise
    if found:
      return found
  return [""] * COUNT
