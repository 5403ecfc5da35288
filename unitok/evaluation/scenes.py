"""Reading scenes back: pictures by template matching, captions by their words. Knows nothing of any model."""
import functools
import re

import numpy as np

from unitok.data.scenes import BACKGROUNDS, COLOURS, JITTER, PLACES, RADII, SHAPES, Thing, coverage, place_centre

OFFSETS = np.array([-0.8, 0.0, 0.8], np.float32) * JITTER  # of a template's centre from its place's, each way


def _cell(place: str, side: int) -> tuple[slice, slice]:
  row, column = divmod(PLACES.index(place), 3)
  edges = [round(side * k / 3) for k in range(4)]
  return slice(edges[row], edges[row + 1]), slice(edges[column], edges[column + 1])


@functools.cache
def _templates(place: str, side: int):
  """Every (colour, shape, size, offset) on every background as it looks in the place's cell, and nothing at all."""
  rows, columns = _cell(place, side)
  x, y = place_centre(place)
  alphas, kinds = [], []
  for shape in SHAPES:
    for size in RADII:
      for dx in OFFSETS:
        for dy in OFFSETS:
          alphas.append(coverage(shape, size, (x + dx, y + dy), side, side)[rows, columns].ravel())
          kinds.append((shape, size))
  alphas = np.stack(alphas)                                                         # t p
  patches, things = {}, [None]
  for background, rgb in BACKGROUNDS.items():
    base = np.float32(rgb)
    tinted = [base + alphas[:, :, None] * (np.float32(colour) - base) for colour in COLOURS.values()]
    empty = np.broadcast_to(base, (1, alphas.shape[1], 3))
    patches[background] = np.concatenate([empty, *tinted]).reshape(1 + len(alphas) * len(COLOURS), -1) / 255
  things += [Thing(size, colour, shape, place) for colour in COLOURS for shape, size in kinds]
  return {b: (p, (p**2).sum(1)) for b, p in patches.items()}, things


def background_of(images: np.ndarray) -> list[str]:
  """The background nearest to most pixels of each picture u8[n h w 3]."""
  colours = np.array(list(BACKGROUNDS.values()), np.float32)
  far = ((images[:, :, :, None, :].astype(np.float32) - colours) ** 2).sum(-1)       # n h w b
  near = (far < 45.0**2).sum((1, 2))
  closest = (far.argmin(-1)[..., None] == np.arange(len(colours))).sum((1, 2))
  votes = np.where(near.max(1, keepdims=True) > 0, near, closest)
  return [tuple(BACKGROUNDS)[i] for i in votes.argmax(1)]


def read_pictures(images: np.ndarray) -> list[frozenset[Thing]]:
  """The things in each picture u8[n side side 3]: in every place the nearest template, or nothing."""
  side = images.shape[1]
  backgrounds = np.array(background_of(images))
  found: list[set[Thing]] = [set() for _ in images]
  for place in PLACES:
    rows, columns = _cell(place, side)
    patches, things = _templates(place, side)
    cells = images[:, rows, columns].reshape(len(images), -1).astype(np.float32) / 255
    for background in BACKGROUNDS:
      which = np.flatnonzero(backgrounds == background)
      if which.size:
        templates, norms = patches[background]
        best = (norms - 2 * cells[which] @ templates.T).argmin(1)
        for picture, template in zip(which, best):
          if things[template] is not None:
            found[picture].add(things[template])
  return [frozenset(f) for f in found]


def read_caption(caption: str) -> frozenset[Thing] | None:
  """The things a caption names, or None where it is not well formed (in a clause an attribute missing or doubled)."""
  things = []
  for clause in re.split(r",| and | with ", caption):
    words = clause.split()
    sizes, colours, shapes = ([w for w in words if w in known] for known in (RADII, COLOURS, SHAPES))
    place = " ".join(w for w in words if w in ("top", "bottom", "left", "right", "centre"))
    if not (sizes or colours or shapes or place):
      continue
    if (len(sizes), len(colours), len(shapes)) != (1, 1, 1) or place not in PLACES:
      return None
    things.append(Thing(sizes[0], colours[0], shapes[0], place))
  places = [t.place for t in things]
  return frozenset(things) if things and len(set(places)) == len(places) else None


def attribute_score(asked: frozenset[Thing], found: frozenset[Thing]) -> float:
  """Mean over asked objects of the share of place, colour, shape and size that is right.

  An asked object is compared with the found one in its place; where that place is empty, with the
  best of those found where nothing was asked, and its place counts as wrong.
  """
  at = {t.place: t for t in found}
  free = [t for t in found if t.place not in {a.place for a in asked}]
  scores = []
  for a in asked:
    same = lambda f: (a.colour == f.colour) + (a.shape == f.shape) + (a.size == f.size)
    if a.place in at:
      scores.append((1 + same(at[a.place])) / 4)
    else:
      scores.append(max((same(f) / 4 for f in free), default=0.0))
  return float(np.mean(scores))
