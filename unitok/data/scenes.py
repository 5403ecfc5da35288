"""Scenes drawn by the project itself: endless, seeded, with captions and the exact truth.

One to three objects, each of a shape, a colour, a size and one of nine places, on one of four
backgrounds, the centres jittered. Lengths are shares of the picture's side, so any side works.
"""
import functools
import math
from typing import NamedTuple

import numpy as np

from unitok.config import Scenes
from unitok.data.record import Object, Record

COLOURS = dict(red=(225, 30, 35), orange=(250, 140, 20), yellow=(245, 230, 50), green=(40, 170, 60),
               cyan=(70, 215, 230), blue=(40, 70, 225), purple=(135, 45, 170), pink=(250, 140, 195))
BACKGROUNDS = dict(white=(242, 242, 242), black=(14, 14, 14), grey=(118, 118, 118), brown=(92, 56, 28))
RADII = dict(small=0.108, large=0.15)
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
JITTER = 0.02
EVEN = (1.0, 1.0, 1.0)


def _box(x, y, half_width, half_height):
  return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


SHAPES = {  # distance to the outline, negative inside, of a shape of radius r; x right, y down
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": lambda x, y, r: _box(x, y, 0.88 * r, 0.88 * r),
    "triangle": lambda x, y, r: np.maximum(y - 0.85 * r, 0.447 * (2 * np.abs(x) - y - 1.1 * r)),
    "bar": lambda x, y, r: _box(x, y, r, 0.4 * r),
    "cross": lambda x, y, r: np.minimum(_box(x, y, r, 0.34 * r), _box(x, y, 0.34 * r, r)),
    "ring": lambda x, y, r: np.abs(np.hypot(x, y) - 0.74 * r) - 0.26 * r,
}
EXTENTS = {  # half the width, the height above the centre and below it, of a shape of radius 1
    "circle": (1, 1, 1), "square": (0.88, 0.88, 0.88), "triangle": (0.975, 1.1, 0.85), "bar": (1, 0.4, 0.4),
    "cross": (1, 1, 1), "ring": (1, 1, 1)}


class Thing(NamedTuple):
  """One object of a scene, without where exactly it stands."""
  size: str
  colour: str
  shape: str
  place: str


class Scene(NamedTuple):
  things: tuple[Thing, ...]
  background: str
  centres: tuple[tuple[float, float], ...]   # x, y of each thing, shares of the side

  @property
  def boxes(self) -> list[tuple[float, float, float, float]]:
    """x0, y0, x1, y1 of each thing's outline, shares of the side."""
    return [box_of(thing, centre) for thing, centre in zip(self.things, self.centres)]


def box_of(thing: Thing, centre: tuple[float, float]) -> tuple[float, float, float, float]:
  """x0, y0, x1, y1 of a thing's outline: it touches all four sides."""
  (x, y), (across, above, below) = centre, (RADII[thing.size] * part for part in EXTENTS[thing.shape])
  return x - across, y - above, x + across, y + below


def place_centre(place: str) -> tuple[float, float]:
  row, column = divmod(PLACES.index(place), 3)
  return (2 * column + 1) / 6, (2 * row + 1) / 6


def coverage(shape: str, size: str, centre: tuple[float, float], height: int, width: int) -> np.ndarray:
  """f32[height width] in 0..1: how much of each pixel the shape covers (one pixel of antialiasing, of the mean side)."""
  down, across = ((np.arange(side, dtype=np.float32) + 0.5) / side for side in (height, width))
  x, y = across[None, :] - np.float32(centre[0]), down[:, None] - np.float32(centre[1])
  return np.clip(0.5 - SHAPES[shape](x, y, RADII[size]) * ((height + width) / 2), 0, 1)


def draw(scene: Scene, height: int, width: int = 0) -> np.ndarray:
  """u8[height width 3], a square where no width is given; other sides stretch the scene."""
  width = width or height
  canvas = np.empty((height, width, 3), np.float32)
  canvas[:] = BACKGROUNDS[scene.background]
  for thing, centre in zip(scene.things, scene.centres):
    alpha = coverage(thing.shape, thing.size, centre, height, width)[..., None]
    canvas += alpha * (np.float32(COLOURS[thing.colour]) - canvas)
  return np.round(canvas).astype(np.uint8)


def random_scene(rng: np.random.Generator, allowed: list[tuple[str, str]], wanted: list[tuple[str, str]] = (),
                 counts: tuple[float, ...] = EVEN) -> Scene:
  """One to three things, in shares `counts`, in different places; where `wanted` is given the first is one of those
  combinations."""
  count = int(rng.integers(1, 4)) if counts == EVEN else \
      1 + int(np.searchsorted(np.cumsum(counts), rng.random() * sum(counts), "right"))
  places = rng.permutation(len(PLACES))[:count]
  things, centres = [], []
  for n, place in enumerate(places):
    pool = wanted if wanted and n == 0 else allowed
    colour, shape = pool[rng.integers(len(pool))]
    things.append(Thing(("small", "large")[rng.integers(2)], colour, shape, PLACES[place]))
    x, y = place_centre(PLACES[place])
    dx, dy = rng.uniform(-JITTER, JITTER, 2)
    centres.append((x + dx, y + dy))
  order = rng.permutation(count)
  background = tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
  return Scene(tuple(things[i] for i in order), background, tuple(centres[i] for i in order))


def _after(t: Thing) -> str:
  return f"a {t.size} {t.colour} {t.shape} at the {t.place}"


def _before(t: Thing) -> str:
  return f"at the {t.place} a {t.size} {t.colour} {t.shape}"


def _short(t: Thing) -> str:
  return f"{t.size} {t.colour} {t.shape} {t.place}"


def _listed(phrases: list[str]) -> str:
  return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


TEMPLATES = (
    lambda s: f"{_listed([_after(t) for t in s.things])}, on {s.background}",
    lambda s: f"{_listed([_before(t) for t in s.things])}, on {s.background}",
    lambda s: f"on {s.background}, {_listed([_after(t) for t in s.things])}",
    lambda s: f"{s.background} with {_listed([_after(t) for t in s.things])}",
    lambda s: f"{', '.join(_short(t) for t in s.things)}, on {s.background}",
    lambda s: f"{_listed([_after(t) for t in s.things])}",
)


def caption(scene: Scene, rng: np.random.Generator) -> str:
  """One of the templates, the things in any order."""
  order = rng.permutation(len(scene.things))
  shuffled = scene._replace(things=tuple(scene.things[i] for i in order))
  return TEMPLATES[rng.integers(len(TEMPLATES))](shuffled)


def questions(scene: Scene, rng: np.random.Generator) -> tuple[tuple[str, str], ...]:
  """A question of each kind, with its answer in a word or two.

  Half of those for yes or no are answered yes. Colours and shapes are asked for at a place, so the answer is one.
  """
  thing = scene.things[rng.integers(len(scene.things))]
  free = [place for place in PLACES if place not in {t.place for t in scene.things}]
  there = thing.colour, thing.shape
  if rng.integers(2):     # another pair, which no thing has
    pairs = [(c, s) for c in COLOURS for s in SHAPES if all((c, s) != (t.colour, t.shape) for t in scene.things)]
    there = pairs[rng.integers(len(pairs))]
  yes = any(there == (t.colour, t.shape) for t in scene.things)
  empty = rng.integers(2)
  place = free[rng.integers(len(free))] if empty else thing.place
  return (
      ("how many things are there?", str(len(scene.things))),
      ("what is the background?", scene.background),
      (f"what colour is the thing at the {thing.place}?", thing.colour),
      (f"what shape is at the {thing.place}?", thing.shape),
      (f"is the thing at the {thing.place} small or large?", thing.size),
      (f"is there a {' '.join(there)}?", "yes" if yes else "no"),
      (f"is anything at the {place}?", "no" if empty else "yes"),
  )


def change(scene: Scene, allowed: list[tuple[str, str]], rng: np.random.Generator) -> tuple[str, Scene]:
  """(what is asked for, the scene after it): a thing takes another colour, goes, or moves to a free place.

  Only a thing whose colour and shape no other has is spoken of, and where none is, the background changes.
  """
  pairs = [(t.colour, t.shape) for t in scene.things]
  alone = [n for n, pair in enumerate(pairs) if pairs.count(pair) == 1]
  if not alone:
    other = [name for name in BACKGROUNDS if name != scene.background]
    background = other[rng.integers(len(other))]
    return f"now on {background}", scene._replace(background=background)
  n = alone[rng.integers(len(alone))]
  thing, (dx, dy) = scene.things[n], rng.uniform(-JITTER, JITTER, 2)
  put = lambda new, centre: scene._replace(things=(*scene.things[:n], new, *scene.things[n + 1:]),
                                           centres=(*scene.centres[:n], centre, *scene.centres[n + 1:]))
  colours = [c for c, shape in allowed if shape == thing.shape and c != thing.colour and (c, shape) not in pairs]
  kind, said = rng.integers(3), f"the {thing.colour} {thing.shape}"
  if kind == 0 and len(scene.things) > 1:
    return f"without {said}", Scene((*scene.things[:n], *scene.things[n + 1:]), scene.background,
                                    (*scene.centres[:n], *scene.centres[n + 1:]))
  if kind == 1 and colours:
    colour = colours[rng.integers(len(colours))]
    return f"{said} is {colour} now", put(thing._replace(colour=colour), scene.centres[n])
  free = [place for place in PLACES if place not in {t.place for t in scene.things}]
  place = free[rng.integers(len(free))]
  x, y = place_centre(place)
  return f"{said} at the {place} now", put(thing._replace(place=place), (x + dx, y + dy))


def combinations(held_out: tuple[str, ...]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
  """("colour", "shape") pairs that training shows, and those it never does. ValueError for an unknown one."""
  kept_out = []
  for pair in held_out:
    words = tuple(pair.split())
    if len(words) != 2 or words[0] not in COLOURS or words[1] not in SHAPES:
      raise ValueError(f"data.held_out: {pair!r} is no \"colour shape\"; colours: {', '.join(COLOURS)}; "
                       f"shapes: {', '.join(SHAPES)}")
    kept_out.append(words)
  shown = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in kept_out]
  if not shown:
    raise ValueError("data.held_out: holds every combination out; leave some for training")
  return shown, kept_out


SPLITS = {"train": 0, "val": 1, "heldout": 2}
CAPTIONS = 4  # a scene has this many, drawn from the templates


class SceneSource:
  """The scenes of one split; scene i depends on (seed, split, i) alone."""

  def __init__(self, data: Scenes, split: str):
    if split not in SPLITS:
      raise ValueError(f"scenes: no split {split!r}; it has {', '.join(SPLITS)}")
    self.data, self.split = data, split
    self.shown, self.kept_out = combinations(data.held_out)

  def __len__(self) -> int:
    if self.split == "heldout" and not self.kept_out:
      return 0
    return self.data.train_examples if self.split == "train" else self.data.val_examples

  def scene(self, index: int) -> tuple[Scene, np.random.Generator]:
    rng = np.random.default_rng((self.data.seed, SPLITS[self.split], index))
    wanted = self.kept_out if self.split == "heldout" else ()
    counts = self.data.counts if self.split == "train" else EVEN
    return random_scene(rng, self.shown + list(wanted), wanted, counts), rng

  def __getitem__(self, index: int) -> Record:
    if not 0 <= index < len(self):
      raise IndexError(index)
    (scene, rng), data = self.scene(index), self.data
    size = data.sizes[rng.integers(len(data.sizes))] if data.sizes else (data.image_size,)
    captions = tuple(caption(scene, rng) for _ in range(CAPTIONS))
    inside = lambda box: tuple(min(max(edge, 0.0), 1.0) for edge in box)     # one may touch the picture's edge
    objects = tuple(Object(f"{t.size} {t.colour} {t.shape}", inside(box)) for t, box in zip(scene.things, scene.boxes))
    image, fields, asked, pieces = draw(scene, *size), {"scene": scene}, questions(scene, rng), ()
    if data.changes:
      said, after = change(scene, self.shown, rng)
      pieces, fields = (captions[0], image, said, draw(after, *size)), fields | {"change": said, "after": after}
    return Record(f"{self.split}-{index}", image, captions, fields, objects, asked, pieces)


@functools.cache
def _open(data: Scenes, split: str) -> SceneSource:
  return SceneSource(data, split)


def open_scenes(data: Scenes, split: str) -> SceneSource:
  """`data.train_examples` (or `val_examples`) scenes of "train", "val" or "heldout"."""
  if data.image_size < 16:
    raise ValueError(f"data.image_size: {data.image_size} pixels cannot show a scene; at least 16")
  if min(data.counts) < 0 or not 0 < sum(data.counts) < math.inf:
    raise ValueError(f"data.counts: {data.counts} must be three shares from 0 on, one of them above 0")
  for name, least in (("train_examples", 1), ("val_examples", 0)):
    if getattr(data, name) < least:
      raise ValueError(f"data.{name}: {getattr(data, name)} must be {least} or more scenes")
  return _open(data, split)
