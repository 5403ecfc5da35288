"""Scenes: seeded and disjoint, held-out combinations kept out, captions and pictures that read back to their truth."""
import collections

import numpy as np
import pytest

from unitok import config as c
from unitok.data.scenes import (BACKGROUNDS, COLOURS, PLACES, RADII, SHAPES, TEMPLATES, Scene, Thing, caption,
                                combinations, coverage, draw, open_scenes)
from unitok.evaluation.scenes import attribute_score, background_of, read_caption, read_pictures

DATA = c.Scenes(image_size=36, train_examples=600, val_examples=300)


def records(split, data=DATA, n=300):
  source = open_scenes(data, split)
  return [source[i] for i in range(min(n, len(source)))]


def truth(record):
  return frozenset(record.fields["scene"].things)


def test_as_large_as_asked():
  assert len(SHAPES) >= 6 and len(COLOURS) >= 8 and len(RADII) == 2 and len(PLACES) == 9 and len(BACKGROUNDS) == 4
  assert len(TEMPLATES) >= 6
  assert [len(open_scenes(DATA, split)) for split in ("train", "val", "heldout")] == [600, 300, 300]


def test_seeded_and_in_any_order():
  first, again = records("val", n=20), records("val", c.Scenes(**vars(DATA)), n=20)
  for a, b in zip(first, reversed([open_scenes(DATA, "val")[i] for i in reversed(range(20))])):
    assert a.captions == b.captions and np.array_equal(a.image, b.image)
  assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again))
  other = records("val", c.Scenes(**{**vars(DATA), "seed": 1}), n=20)
  assert not any(np.array_equal(a.image, b.image) for a, b in zip(first, other))


def test_splits_are_disjoint():
  seen = collections.Counter(r.image.tobytes() for split in ("train", "val", "heldout") for r in records(split))
  assert max(seen.values()) == 1
  keys = [r.key for split in ("train", "val", "heldout") for r in records(split)]
  assert len(set(keys)) == len(keys)


def test_held_out_combinations():
  kept_out = {tuple(pair.split()) for pair in DATA.held_out}
  pairs = lambda record: {(t.colour, t.shape) for t in truth(record)}
  for split in ("train", "val"):
    assert not any(pairs(r) & kept_out for r in records(split, n=600))
  assert all(pairs(r) & kept_out for r in records("heldout"))
  shown = set().union(*(pairs(r) for r in records("train", n=600)))
  assert len(shown) == len(COLOURS) * len(SHAPES) - len(kept_out)
  for colour, shape in kept_out:      # each part is known, only their meeting is new
    assert any(c == colour for c, _ in shown) and any(s == shape for _, s in shown)


@pytest.mark.parametrize("name, value, least", [("train_examples", 0, 1), ("train_examples", -1, 1), ("val_examples", -1, 0)])
def test_too_few(name, value, least):
  for split in ("train", "val", "heldout"):
    with pytest.raises(ValueError, match=f"data.{name}: {value} must be {least} or more"):
      open_scenes(c.Scenes(**{name: value}), split)
  assert len(open_scenes(c.Scenes(val_examples=0), "val")) == 0


@pytest.mark.parametrize("pair", ["red", "red sphere", "mauve circle", "red small circle"])
def test_unknown_combination(pair):
  with pytest.raises(ValueError, match=f"data.held_out: '{pair}' is no"):
    combinations((pair,))


def test_too_small_and_unknown_split():
  with pytest.raises(ValueError, match="data.image_size: 8 pixels.*at least 16"):
    open_scenes(c.Scenes(image_size=8), "val")
  with pytest.raises(ValueError, match="no split 'test'"):
    open_scenes(DATA, "test")
  with pytest.raises(IndexError):
    open_scenes(DATA, "val")[300]
  assert not len(open_scenes(c.Scenes(held_out=()), "heldout"))


def test_counts_are_of_training_alone():
  data = c.Scenes(train_examples=600, val_examples=600, counts=(0.0, 1.0, 3.0))
  share = lambda split: np.bincount([len(open_scenes(data, split)[n].objects) for n in range(600)], minlength=4) / 600
  np.testing.assert_allclose(share("train"), [0, 0, 0.25, 0.75], atol=0.05)
  np.testing.assert_allclose(share("val"), [0, 1 / 3, 1 / 3, 1 / 3], atol=0.06)
  for counts in ((0.0, 0.0, 0.0), (-1.0, 1.0, 1.0)):
    with pytest.raises(ValueError, match="data.counts: .* must be three shares from 0 on"):
      open_scenes(c.Scenes(counts=counts), "train")


def test_two_objects_on_average_and_every_attribute():
  scenes = [r.fields["scene"] for r in records("train", n=600)]
  count = [len(s.things) for s in scenes]
  assert set(count) == {1, 2, 3} and 1.9 < np.mean(count) < 2.1
  for at, values in enumerate((RADII, COLOURS, SHAPES, PLACES)):
    assert {t[at] for s in scenes for t in s.things} == set(values)
  assert {s.background for s in scenes} == set(BACKGROUNDS)
  assert all(len({t.place for t in s.things}) == len(s.things) for s in scenes)
  assert len({s.centres for s in scenes}) == len(scenes)    # jittered


@pytest.mark.parametrize("size", RADII)
@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_are_exact(shape, size):
  """At 360 pixels: what is covered lies inside, and the antialiased edge comes near each side."""
  side, centres = 360, ((0.5, 0.5), (0.1666, 0.8414), (0.4871, 0.1713))
  scene = Scene(tuple(Thing(size, "red", shape, "centre") for _ in centres), "white", centres)
  for centre, box in zip(centres, scene.boxes):
    part = coverage(shape, size, centre, side, side)
    for axis, low, high in ((0, box[0], box[2]), (1, box[1], box[3])):
      inside, touched = (np.flatnonzero((part > least).any(axis)) + 0.5 for least in (0.5, 0))
      assert low * side <= inside[0] and inside[-1] <= high * side
      assert abs(touched[0] - low * side) < 1.5 and abs(touched[-1] - high * side) < 1.5


def test_boxes_lie_in_the_picture():
  """But for a hair where the jitter is largest: 0.0034 of the side, 0.0184 at a large triangle's tip in the top row."""
  for record in records("val", n=300):
    for x0, y0, x1, y1 in record.fields["scene"].boxes:
      assert -0.0034 < x0 < x1 < 1.0034 and -0.0184 < y0 < y1 < 1.0034


@pytest.mark.parametrize("side", [16, 32, 36, 64, 97])
def test_any_size(side):
  some = records("val", c.Scenes(image_size=side, val_examples=40))
  assert all(r.image.shape == (side, side, 3) and r.image.dtype == np.uint8 for r in some)
  found = read_pictures(np.stack([r.image for r in some]))
  if side >= 32:
    assert np.mean([f == truth(r) for f, r in zip(found, some)]) == 1


def test_captions_read_back():
  some = records("train", n=300)
  assert all(read_caption(text) == truth(r) for r in some for text in r.captions)
  assert all(len(r.captions) == 4 for r in some)
  scene = Scene((Thing("small", "red", "circle", "top left"), Thing("large", "blue", "bar", "bottom")), "white",
                ((0.16, 0.16), (0.5, 0.83)))
  texts = {caption(scene, np.random.default_rng(n)) for n in range(200)}
  assert len(texts) == 2 * len(TEMPLATES)     # every template, the objects in any order
  assert {read_caption(text) for text in texts} == {frozenset(scene.things)}


@pytest.mark.parametrize("text", [
    "", "a red circle at the top", "a small red at the top", "a small red circle", "a small red blue circle at the top",
    "a small red circle at the top left right", "a small red circle at the top and a large blue bar at the top",
    "a small red circle at the top, a large"])
def test_captions_not_well_formed(text):
  assert read_caption(text) is None


def test_parser_on_originals():
  """The ceiling of every figure: >= 0.99 of whole pictures."""
  for split in ("val", "heldout"):
    some = records(split)
    found = read_pictures(np.stack([r.image for r in some]))
    assert np.mean([f == truth(r) for f, r in zip(found, some)]) >= 0.99


def test_parser_bears_noise():
  """Noise of 20 grey levels and one pixel of blur leave nearly all objects readable."""
  some = records("val", n=150)
  images = np.stack([r.image for r in some]).astype(np.float32)
  share = lambda pictures: np.mean([len(f & truth(r)) / len(truth(r)) for f, r in zip(
      read_pictures(np.clip(np.round(pictures), 0, 255).astype(np.uint8)), some)])
  assert share(images + np.random.default_rng(0).normal(0, 20, images.shape)) >= 0.97
  blurred = (4 * images + sum(np.roll(images, shift, axis) for axis in (1, 2) for shift in (-1, 1))) / 8
  assert share(blurred) >= 0.95


def test_parser_sees_what_is_not_there():
  """An empty picture has nothing, a moved object is at another place."""
  scene = records("val", n=1)[0].fields["scene"]
  empty = draw(scene._replace(things=(), centres=()), 36)[None]
  assert read_pictures(empty) == [frozenset()] and background_of(empty) == [scene.background]
  one = Scene((Thing("large", "blue", "ring", "left"),), "black", ((1 / 6, 1 / 2),))
  turned = draw(one, 36)[None, :, ::-1]
  assert read_pictures(turned) == [frozenset([Thing("large", "blue", "ring", "right")])]


def test_attribute_score():
  a = Thing("small", "red", "circle", "top")
  b = Thing("large", "blue", "bar", "left")
  score = lambda *found: attribute_score(frozenset([a]), frozenset(found))
  assert score(a) == 1 and score() == 0 and score(b) == 0
  assert score(a._replace(colour="blue")) == 0.75 and score(a._replace(place="bottom")) == 0.75
  assert score(a, b) == 1      # what was not asked is the exact accuracy's business
  assert attribute_score(frozenset([a, b]), frozenset([a])) == 0.5


def test_objects_are_what_is_drawn():
  """Boxes are the things' own, but for what lies beyond the picture's edge; names say what they are."""
  for record in records("val", c.Scenes(image_size=72, val_examples=30)):
    scene = record.fields["scene"]
    assert [one.name for one in record.objects] == [f"{t.size} {t.colour} {t.shape}" for t in scene.things]
    boxes = np.array([one.box for one in record.objects])
    assert 0 <= boxes.min() and boxes.max() <= 1 and np.abs(boxes - scene.boxes).max() < 0.01


def test_changes():
  """A scene with changes is a document of caption, picture, what changes in words, and the picture after it."""
  data = c.Scenes(image_size=36, train_examples=300, changes=True)
  source, kinds = open_scenes(data, "train"), set()
  for index in range(300):
    record = source[index]
    text, before, said, after = record.pieces
    scene, changed = record.fields["scene"], record.fields["after"]
    assert text == record.captions[0] and np.array_equal(before, record.image) and np.array_equal(after, draw(changed, 36))
    old, new = set(scene.things), set(changed.things)
    gone, come = old - new, new - old
    if said.startswith("without"):
      thing, = gone
      assert not come and said == f"without the {thing.colour} {thing.shape}" and len(new)
    elif said.startswith("now on"):
      assert not gone and not come and said == f"now on {changed.background}" != f"now on {scene.background}"
    else:
      (thing,), (other,) = gone, come
      assert said.startswith(f"the {thing.colour} {thing.shape} ") and thing.size == other.size and thing.shape == other.shape
      assert (said.endswith(f"is {other.colour} now") and other.place == thing.place) != (
          said.endswith(f"at the {other.place} now") and other.colour == thing.colour)
      assert other.place not in {t.place for t in changed.things if t != other}
      assert f"{other.colour} {other.shape}" not in data.held_out
    kinds.add(said.split()[0] if not said.startswith("the") else "moved" if " at the " in said else "painted")
  assert {"without", "moved", "painted"} <= kinds
  assert not open_scenes(c.Scenes(image_size=36), "train")[0].pieces


def test_sizes_other_than_squares():
  data = c.Scenes(image_size=36, train_examples=40, sizes=((36, 36), (24, 48)))
  shapes = {open_scenes(data, "train")[n].image.shape for n in range(40)}
  assert shapes == {(36, 36, 3), (24, 48, 3)}


def test_questions():
  """Every answer is true of the scene, told from its things alone; yes and no are about as frequent."""
  yes = collections.Counter()
  for record in records("val", DATA):
    scene = record.fields["scene"]
    at = {t.place: t for t in scene.things}
    assert len(record.questions) == 7
    for question, answer in record.questions:
      place = next((p for p in sorted(PLACES, key=len, reverse=True) if f"the {p}" in question), None)
      if question.startswith("how many"):
        assert answer == str(len(scene.things))
      elif "background" in question:
        assert answer == scene.background
      elif question.startswith("what colour"):
        assert answer == at[place].colour
      elif question.startswith("what shape"):
        assert answer == at[place].shape
      elif question.endswith("small or large?"):
        assert answer == at[place].size
      elif question.startswith("is there"):
        colour, shape = question[len("is there a "):-1].split()
        assert answer == ("yes" if any((t.colour, t.shape) == (colour, shape) for t in scene.things) else "no")
        yes["there", answer] += 1
      else:
        assert answer == ("yes" if place in at else "no")
        yes["at", answer] += 1
  assert all(0.4 < yes[kind, "yes"] / (yes[kind, "yes"] + yes[kind, "no"]) < 0.6 for kind in ("there", "at"))
