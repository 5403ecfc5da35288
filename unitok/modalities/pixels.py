"""Pictures <-> palette colours: a code is the colour of a pixel, or the mean colour of a small square of them.

Image GPT's way (Chen 2020, Generative Pretraining from Pixels: k-means of RGB, 512 colours), here the baseline that
says what a learned tokenizer is worth. Theirs draws pictures of 32, 48 or 64 pixels, as smaller ones for `scale`.
"""
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from etils import epath

from unitok import config as c
from unitok.files import write_json
from unitok.modalities.image import ImageModality

FILE = "palette.json"
PICTURES = 1_000
"""Training pictures that the palette's pixels are taken from, at most."""
CELLS = 1 << 22
"""Distances in memory at once."""


class Palette(NamedTuple):
  colours: np.ndarray   # u8[k 3], distinct
  scale: int            # pixels a code in each direction

  @property
  def fingerprint(self) -> str:
    return hashlib.sha256(f"pixels {self.scale} ".encode() + self.colours.tobytes()).hexdigest()[:16]


# ---- codes

def encode(palette: Palette, pixels: np.ndarray) -> np.ndarray:
  """u8[b H W 3] -> i32[b h w], the colour nearest to each of `shrink`'s."""
  small = shrink(pixels, palette.scale)
  colours, where = np.unique(_numbers(small).ravel(), return_inverse=True)   # pictures have few: each is looked up once
  return nearest(_colours(colours), palette.colours)[where].reshape(small.shape[:3])


def decode(palette: Palette, codes: np.ndarray) -> np.ndarray:
  """i32[b h w] -> u8[b H W 3]; `encode` gives the same codes again."""
  return palette.colours[codes].repeat(palette.scale, 1).repeat(palette.scale, 2)


def shrink(pixels: np.ndarray, scale: int) -> np.ndarray:
  """u8[b H W 3] -> u8[b h w 3]: the mean of scale x scale pixels, rounded."""
  b, height, width, _ = pixels.shape
  squares = pixels.reshape(b, height // scale, scale, width // scale, scale, 3)
  return np.rint(squares.mean((2, 4), dtype=np.float32)).astype(np.uint8)


def nearest(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
  """i32[n]: of the palette [k 3] the colour nearest to each of [n 3] in RGB, the lowest of those as near.

  |p|² - 2 x·p: of whole numbers in 0 .. 255 that is a whole number below 2^24, so exact in float32.
  """
  palette, rows, out = palette.astype(np.float32), max(1, CELLS // len(palette)), np.empty(len(colours), np.int32)
  lengths = (palette ** 2).sum(1)
  for n in range(0, len(colours), rows):
    out[n:n + rows] = (lengths - 2 * colours[n:n + rows].astype(np.float32) @ palette.T).argmin(1)
  return out


def _numbers(colours: np.ndarray) -> np.ndarray:
  """u8[… 3] -> i32[…], 0xRRGGBB."""
  red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
  return red << 16 | green << 8 | blue


def _colours(numbers: np.ndarray) -> np.ndarray:
  """The inverse of `_numbers`."""
  return np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], -1).astype(np.uint8)


# ---- the palette

def fit(pictures: Iterable[np.ndarray], options: c.Pixels, seed: int) -> Palette:
  """k-means of pixels of the first PICTURES of u8[H W 3], as many of each.

  The same pictures and seed give the same palette. Where there are no more colours than asked for, it is they; else
  means may round to the same colour, so it can have fewer than options.colours. ValueError without a picture.
  """
  small = [shrink(one[None], options.scale).reshape(-1, 3) for one in itertools.islice(pictures, PICTURES)]
  if not small:
    raise ValueError("image_tokenizer: the training split has no usable picture; check data.path")
  rng, each = np.random.default_rng(seed), -(-options.pixels // len(small))
  some = np.concatenate([one if len(one) <= each else rng.choice(one, each, replace=False) for one in small])
  numbers, counts = np.unique(_numbers(some), return_counts=True)
  colours = _colours(numbers)
  if len(colours) > options.colours:
    means = k_means(colours, counts, spread(colours, counts, options.colours, rng), options.iterations)
    colours = np.unique(np.rint(means).astype(np.uint8), axis=0)
  return Palette(colours, options.scale)


def spread(points: np.ndarray, weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
  """f64[count 3]: distinct ones of the distinct points [n 3], by k-means++ (Arthur & Vassilvitskii 2007).

  Each is drawn with a chance of its weight times its squared distance from the nearest drawn before.
  """
  points, distances = points.astype(np.float64), np.full(len(points), np.inf)
  chosen = [points[rng.choice(len(points), p=weights / weights.sum())]]
  while len(chosen) < count:
    distances = np.minimum(distances, ((points - chosen[-1]) ** 2).sum(1))
    shares = weights * distances
    chosen.append(points[rng.choice(len(points), p=shares / shares.sum())])
  return np.stack(chosen)


def k_means(points: np.ndarray, weights: np.ndarray, centres: np.ndarray, steps: int) -> np.ndarray:
  """f64[k 3]: centres of the weighted points [n 3] after so many steps of Lloyd's algorithm (1982).

  No step raises the weighted squared distance. A centre without a point goes to the point that costs most; ends
  before `steps` where no centre moves.
  """
  points = points.astype(np.float64)
  for _ in range(steps):
    owner = nearest(points, centres)
    costs = weights * ((points - centres[owner]) ** 2).sum(1)
    totals = np.bincount(owner, weights, len(centres))
    sums = np.stack([np.bincount(owner, weights * points[:, axis], len(centres)) for axis in range(3)], 1)
    moved, free = sums / np.maximum(totals, 1e-9)[:, None], np.flatnonzero(totals == 0)
    moved[free] = points[np.argsort(-costs, kind="stable")[:len(free)]]
    if np.array_equal(moved, centres):
      break
    centres = moved
  return centres


# ---- in a run

def check(options: c.Pixels, image_size: int, sizes: tuple[tuple[int, int], ...] = ()) -> None:
  """ValueError where there can be no such palette, or no grid of codes of the picture or of one of the sizes."""
  if not 2 <= options.colours <= options.pixels:
    raise ValueError(f"image_tokenizer.colours: {options.colours} must be in 2 .. {options.pixels}, the "
                     "image_tokenizer.pixels it is made from; image GPT took 512")
  if options.scale < 1 or image_size % options.scale:
    legal = [scale for scale in range(1, image_size + 1) if image_size % scale == 0]
    raise ValueError(f"image_tokenizer.scale: {options.scale} does not divide data.image_size, {image_size}; take one "
                     f"of {', '.join(map(str, legal))}")
  for size in sizes:
    c.check_size(size, options.scale, "data.sizes", f"image_tokenizer.scale, {options.scale}")
  if options.iterations < 1:
    raise ValueError(f"image_tokenizer.iterations: {options.iterations} must be at least 1; 30 are enough for most")


def make(config: c.Config, folder, pictures: Iterable[np.ndarray]) -> str:
  """The palette in `folder`: kept, or that of init.source, or fitted to the pictures -> what was done, for people.

  ValueError where the one that is there was made otherwise, or init.source has none of this scale.
  """
  folder, options, source = epath.Path(folder), config.image_tokenizer, config.init.source
  made, manifest = read_manifest(folder), read_manifest(epath.Path(source) / folder.name) if source else None
  wanted = {"options": dataclasses.asdict(options), "seed": config.seed}
  if source:
    if manifest is None:
      raise ValueError(f"init.from: {source} has no palette; name a run whose image tokenizer is of this kind")
    if (scale := manifest["options"]["scale"]) != options.scale:
      raise ValueError(f"init.from: the palette of {source} is of scale {scale}, not {options.scale}; set "
                       f"--image-tokenizer.scale {scale}")
    wanted = {"fingerprint": manifest["fingerprint"]}
  if made:
    for name, value in wanted.items():
      if made[name] != value:
        raise ValueError(f"{folder}: its palette was made with {name} {made[name]}, the config asks for {value}; "
                         f"remove {folder} to make it again, or use another workdir")
    return f"{len(made['colours'])} colours, kept from before ({folder})"
  if not source:
    palette = fit(pictures, options, config.seed)
    listed = [f"#{number:06x}" for number in _numbers(palette.colours).tolist()]
    manifest = {**wanted, "fingerprint": palette.fingerprint, "colours": listed}
  write_json(folder / FILE, manifest)
  return f"{len(manifest['colours'])} colours{source and f' of {source}'} ({folder})"


def read_manifest(folder) -> dict | None:
  """{"options", "seed", "fingerprint", "colours"} of a palette's folder, or None. ValueError where it is damaged."""
  path = epath.Path(folder) / FILE
  if not path.exists():
    return None
  try:
    manifest = json.loads(path.read_text())
    if _palette(manifest).fingerprint != manifest["fingerprint"]:
      raise ValueError("its colours are others")
    return {name: manifest[name] for name in ("options", "seed", "fingerprint", "colours")}
  except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
    raise ValueError(f"{path}: damaged; remove it and run python -m train.image_tokenizer again") from None


def _palette(manifest: dict) -> Palette:
  numbers = np.array([int(colour.removeprefix("#"), 16) for colour in manifest["colours"]], np.int32)
  return Palette(_colours(numbers), manifest["options"]["scale"])


def load(folder) -> Palette:
  """What `make` left. ValueError where there is nothing, or it is damaged."""
  manifest = read_manifest(folder)
  if manifest is None:
    raise ValueError(f"{folder}: no palette; make it with python -m train.image_tokenizer")
  return _palette(manifest)


def open_modality(config: c.Config, folder) -> ImageModality:
  palette, side = load(folder), config.data.image_size // config.image_tokenizer.scale
  return ImageModality(lambda x: encode(palette, x), lambda x: decode(palette, x), (side, side), palette.scale,
                       len(palette.colours), palette.fingerprint)


def vectors(config: c.Config, folder) -> np.ndarray:
  """f32[k 3]: the colours in [-1, 1]."""
  return load(folder).colours.astype(np.float32) / 127.5 - 1


def describe(config: c.Config, folder) -> dict | None:
  """For `unitok info`; None where the palette is not there yet."""
  manifest = read_manifest(folder)
  return manifest and {"codebook_size": len(manifest["colours"])}
