"""Data sources by name. A new one is a file, a line here, and its options in `config.DATA`."""
import dataclasses
from collections.abc import Callable, Collection

from unitok.config import Data, source_name
from unitok.data.imagefolder import open_imagefolder
from unitok.data.record import BadRecord, Source
from unitok.data.scenes import open_scenes
from unitok.data.tfds import open_tfds
from unitok.data.webdataset import open_webdataset

SOURCES: dict[str, Callable[[Data, str], Source]] = {
    "scenes": open_scenes,
    "imagefolder": open_imagefolder,
    "tfds": open_tfds,
    "webdataset": open_webdataset,
}

SPLITS = ("train", "val", "heldout")
"""Heldout records are those whose combination or style training never shows; empty where a source has none."""
UNREAD = {"imagefolder": ("test",)}
"""Splits that a source may have beside these: checked for problems, read by no stage."""


def open_source(data: Data, split: str, sizes: bool = False) -> Source:
  """The records of one split, squares, or with `sizes` of data's sizes. ValueError where the source or the split does
  not exist, or train is empty."""
  return SOURCES[source_name(data)](data if sizes else dataclasses.replace(data, sizes=()), split)


def captions(source: Source, index: int) -> tuple[str, ...]:
  """A record's captions, without decoding its picture where the source can. BadRecord as `source[index]`."""
  quick = getattr(source, "captions", None)
  return quick(index) if quick else source[index].captions


def texts(source: Source, index: int, kinds: Collection[str]) -> tuple[str, ...]:
  """A record's captions, and with "questions", "objects" or "pieces" among the kinds their texts."""
  if not set(kinds) & {"questions", "objects", "pieces"}:
    return captions(source, index)
  record = source[index]
  asked = [text for pair in record.questions for text in pair] if "questions" in kinds else []
  names = [one.name for one in record.objects] if "objects" in kinds else []
  told = [piece for piece in record.pieces if isinstance(piece, str)] if "pieces" in kinds else []
  return *record.captions, *asked, *names, *told


def all_splits(data: Data) -> tuple[str, ...]:
  """Those that together hold every record of a source."""
  return *SPLITS, *UNREAD.get(source_name(data), ())


def problems(data: Data) -> list[BadRecord]:
  """Every bad record of all splits, every picture decoded. What keeps the source from opening is a problem, too."""
  found: dict[str, BadRecord] = {}
  for split in all_splits(data):
    try:
      source = open_source(dataclasses.replace(data, on_bad="skip"), split)
    except BadRecord as error:
      found.setdefault(str(error), error)
      continue
    for index in range(len(source)):
      try:
        source[index]
      except BadRecord as error:
        found.setdefault(str(error), error)
  return list(found.values())
