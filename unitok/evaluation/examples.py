"""What evaluations share: the examples of a split, what they are given and what they give back."""
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from unitok.config import Config, Sampling
from unitok.data.record import BadRecord, Object
from unitok.data.sources import open_source
from unitok.evaluation.networks import Networks


class Examples(NamedTuple):
  """Records of one split that have a picture, side by side."""
  images: np.ndarray                       # u8[n s s 3]
  captions: list[tuple[str, ...]]          # of each; empty where it has none
  fields: list[dict[str, Any]]
  objects: list[tuple[Object, ...]] = []                  # of each, as all that follows
  questions: list[tuple[tuple[str, str], ...]] = []
  pieces: list[tuple[str | np.ndarray, ...]] = []

  def __len__(self) -> int:
    return len(self.images)

  def first(self, n: int) -> "Examples":
    return Examples(*(column[:n] for column in self))

  def captioned(self) -> "Examples":
    """Those with a caption."""
    at = [n for n, texts in enumerate(self.captions) if texts]
    pick = lambda column: [column[n] for n in at] if len(column) else []
    return Examples(self.images[at], *(pick(column) for column in self[1:]))

  @property
  def prompts(self) -> list[str]:
    """The first caption of each, "" where there is none."""
    return [texts[0] if texts else "" for texts in self.captions]


def load_examples(config: Config, split: str, limit: int) -> Examples:
  """The first `limit` records with a picture. BadRecord where one is bad and data.on_bad is "stop"."""
  source, records = open_source(config.data, split), []
  for index in range(len(source)):
    if len(records) == limit:
      break
    try:
      record = source[index]
    except BadRecord:
      if config.data.on_bad == "stop":
        raise
      continue
    if record.image is not None:
      records.append(record)
  side = config.data.image_size
  images = np.stack([r.image for r in records]) if records else np.zeros((0, side, side, 3), np.uint8)
  return Examples(images, *([getattr(r, name) for r in records] for name in Examples._fields[1:]))


class Figure(NamedTuple):
  """A headline number: where it is in the metrics and how it is told."""
  label: str
  key: str
  unit: str = "%"                      # %, dB, nats or "" (a plain number)
  chance: str | float | None = None    # what guessing gives: a key, or the number itself
  about: str = ""                      # a line for people


class Item(NamedTuple):
  """Pictures side by side with a text below."""
  pictures: list[tuple[str, np.ndarray]]   # (label or "", u8[H W 3])
  text: str = ""
  right: bool | None = None                # None: nothing to judge
  note: str = ""


class Section(NamedTuple):
  """A part of the report page."""
  title: str
  text: str
  items: list[Item]
  order: int = 50                          # low ones come first on the page


class Result(NamedTuple):
  """What an evaluation gives."""
  metrics: dict[str, Any]
  figures: list[Figure] = []
  sections: list[Section] = []


def nothing_said(text: str) -> None:
  pass


@dataclasses.dataclass(frozen=True)
class Context:
  """What an evaluation is given. `model` is a unitok.model.Model, or anything with its methods."""
  model: Any
  val: Examples
  heldout: Examples
  say: Callable[[str], None] = nothing_said     # one line on what is done now
  read: Callable[[str], Any] | None = None      # what a caption says, the same in whatever words; None: nobody can tell
  networks: Networks = Networks()

  @property
  def config(self) -> Config:
    return self.model.config

  @property
  def seed(self) -> int:
    return self.config.seed

  @property
  def batch_size(self) -> int:
    return self.config.evaluation.batch_size

  @property
  def show(self) -> int:
    return self.config.evaluation.show

  def trained(self, objective: str) -> bool:
    """Is it part of the decoder's mixture?"""
    return bool(self.config.decoder.tasks.get(objective))

  def generate(self, prompts: list[str], sampling: Sampling | None = None) -> np.ndarray:
    return self.model.generate(prompts, sampling, self.seed, batch_size=self.batch_size)

  def generate_unprompted(self, n: int) -> np.ndarray:
    """n pictures from the null caption. Guidance of a null caption by itself changes nothing, so it is left out."""
    return self.generate([""] * n, dataclasses.replace(self.config.sampling, guidance_scale=1.0))

  def caption(self, images: np.ndarray) -> list[str]:
    return self.model.caption(images, seed=self.seed, batch_size=self.batch_size)

  def infill(self, images: np.ndarray, masks: np.ndarray, prompts: list[str] | None) -> np.ndarray:
    sampling = self.config.sampling
    if prompts is None:
      sampling = dataclasses.replace(sampling, guidance_scale=1.0)
    return self.model.infill(images, masks, prompts, sampling, self.seed, batch_size=self.batch_size)

  def sampling_record(self) -> dict[str, Any]:
    """The settings everything was drawn with, for metrics.json and for people."""
    return {"pictures": dataclasses.asdict(self.config.sampling), "captions": "greedy", "seed": self.seed,
            "samples_a_prompt": 1}


def with_hole(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
  """u8[n H W 3] for people: the hole as a fine grey check."""
  rows, columns = np.indices(images.shape[1:3])
  check = np.where((rows // 2 + columns // 2) % 2, 196, 226).astype(np.uint8)[..., None]
  return np.where(masks[..., None], check, images)
