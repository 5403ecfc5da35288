"""Evaluation on scenes, whose truth is known: drawings, captions and fillings read back by the parser."""
import dataclasses
import math

import numpy as np

from unitok.data.scenes import Scene, Thing
from unitok.evaluation.captioned import filling_items
from unitok.evaluation.examples import Context, Examples, Figure, Item, Result, Section
from unitok.evaluation.passes import PROMPTS, curve
from unitok.evaluation.scenes import attribute_score, read_caption, read_pictures
from unitok.evaluation.statistics import clipped, figure, merge
from unitok.objectives.infill import HOLES
from unitok.sampling.settings import code_by_code

Things = frozenset[Thing]


def evaluate_scenes(context: Context) -> Result:
  """Every figure of the parser. All are over the first `evaluation.examples` scenes, one sample each."""
  results = []
  if context.trained("text_to_image"):
    results.append(drawing(context))
  if context.trained("infill"):
    results += [filling(context), holes_of_kinds(context)]
  if context.trained("image_to_text"):
    results.append(captioning(context))
  for name, measure in (("layout", arranging), ("interleaved", changing), ("parallel", in_passes)):
    if context.trained(name):
      results.append(measure(context))
  results.append(parsing(context))
  return Result(merge(*(r.metrics for r in results)), [f for r in results for f in r.figures],
                [s for r in results for s in r.sections])


def truths(examples: Examples) -> list[Things]:
  return [frozenset(fields["scene"].things) for fields in examples.fields]


def told(things: Things | None) -> str:
  """For people: "small red ring top left; large blue bar"."""
  if things is None:
    return "not well formed"
  ordered = sorted(things, key=lambda t: t.place)
  return "; ".join(f"{t.size} {t.colour} {t.shape} {t.place}" for t in ordered) or "nothing"


def share_read(asked: list[Things], found: list[Things], name: str) -> dict:
  """Objects read right (spread over the pictures), and whole pictures."""
  shares = [len(a & f) / len(a) for a, f in zip(asked, found)]
  exact = np.array([a == f for a, f in zip(asked, found)])
  return clipped(figure(name, shares, [len(a) for a in asked])) | figure(f"pictures_{name}", exact)


def parsing(context: Context) -> Result:
  """The ceilings: the parser on originals and on reconstructions."""
  truth = truths(context.val)
  read = {"originals": context.val.images, "reconstructions": context.model.reconstruct(context.val.images)}
  metrics = merge(*(share_read(truth, read_pictures(images), f"accuracy_on_{name}") for name, images in read.items()))
  return Result({"parser": metrics},
                [Figure("Objects reconstructed", "parser.accuracy_on_reconstructions",
                        about="objects read right: the ceiling of the drawings")])


# ---- words to pictures

def drawing(context: Context) -> Result:
  """Drawings for validation prompts, for those with held-out combinations, and for no prompt at all."""
  val, held = context.val, context.heldout
  context.say(f"evaluate: {len(val)} pictures for validation prompts, as many without a prompt, {len(held)} for "
              "held-out combinations")
  drawn, unprompted = context.generate(val.prompts), context.generate_unprompted(len(val))
  scores = [compare(val, read_pictures(drawn), ""), compare(val, read_pictures(unprompted), "_empty_prompt")]
  sections = [Section("Drawn from words", "Prompts the model never saw and the one picture it drew for each: the first "
                      "of the validation split, nothing chosen or drawn again. The mark says whether the parser reads "
                      "exactly the objects asked for.", judged(val.first(2 * context.show), drawn), order=10)]
  figures = [Figure("Whole pictures right", "text_to_image.accuracy", chance="text_to_image.accuracy_empty_prompt",
                    about="drawn from words: exactly the objects asked for"),
             Figure("Attributes drawn right", "text_to_image.attribute_accuracy",
                    chance="text_to_image.attribute_accuracy_empty_prompt",
                    about="place, colour, shape and size of objects")]
  if len(held):
    drawn = context.generate(held.prompts)
    found = read_pictures(drawn)
    scores += [compare(held, found, "_heldout"),
               compare(held, read_pictures(unprompted[:len(held)]), "_heldout_empty_prompt")]
    new = {tuple(pair.split()) for pair in context.config.data.held_out}
    unseen = [frozenset(t for t in things if (t.colour, t.shape) in new) for things in truths(held)]
    attributes = [attribute_score(u, f) for u, f in zip(unseen, found)]
    scores.append(clipped(figure("attribute_accuracy_heldout_objects", attributes, [len(u) for u in unseen])))
    sections.append(Section("Combinations training never showed", "Each prompt has one of these: " + ", ".join(
        context.config.data.held_out) + ".", judged(held.first(2 * context.show), drawn), order=20))
    figures += [Figure("Held-out pictures right", "text_to_image.accuracy_heldout",
                       chance="text_to_image.accuracy_heldout_empty_prompt",
                       about="with a colour and shape that training never showed together"),
                Figure("Held-out attributes right", "text_to_image.attribute_accuracy_heldout",
                       chance="text_to_image.attribute_accuracy_heldout_empty_prompt",
                       about="of all objects in such prompts")]
  return Result({"text_to_image": merge(*scores)}, figures, sections)


def compare(examples: Examples, found: list[Things], suffix: str) -> dict:
  """accuracy and attribute_accuracy with a suffix. The latter is over asked objects, its spread over pictures."""
  asked = truths(examples)[:len(found)]
  attributes = [attribute_score(a, f) for a, f in zip(asked, found)]
  return figure(f"accuracy{suffix}", np.array([a == f for a, f in zip(asked, found)])) | clipped(
      figure(f"attribute_accuracy{suffix}", attributes, [len(a) for a in asked]))


def judged(examples: Examples, drawn: np.ndarray) -> list[Item]:
  """A prompt, its picture, and what was read where that is not what was asked."""
  found = read_pictures(drawn[:len(examples)])
  return [Item([("", picture)], text, asked == read, "" if asked == read else f"read: {told(read)}")
          for picture, text, asked, read in zip(drawn, examples.prompts, truths(examples), found)]


# ---- pictures to words

def captioning(context: Context) -> Result:
  """Greedy captions of validation pictures, read by their words."""
  val = context.val
  context.say(f"evaluate: {len(val)} captions")
  texts = context.caption(val.images)
  found = [read_caption(text) for text in texts]
  right = np.array([f == a for f, a in zip(found, truths(val))])
  items = [Item([("", image)], text or "(nothing)", bool(good), "" if good else f"shows: {told(things)}")
           for image, text, good, things in zip(val.images[:2 * context.show], texts, right, truths(val))]
  text = ("Captions for pictures the model never saw, the likeliest word each time. Right: exactly the objects in the "
          "picture.")
  metrics = figure("exact_match", right) | figure("well_formed", np.array([f is not None for f in found]))
  return Result({"caption": metrics},
                [Figure("Captions right", "caption.exact_match", about="exactly the objects in the picture")],
                [Section("Described", text, items, order=40)])


# ---- holes

def filling(context: Context) -> Result:
  """An object covered whole with the caption known, and half covered with no caption."""
  val, side, code = context.val, context.config.data.image_size, context.model.image.downsampling
  rng = np.random.default_rng((context.seed, 3))
  scenes: list[Scene] = [fields["scene"] for fields in val.fields]
  which = [int(rng.integers(len(s.things))) for s in scenes]
  boxes = [tuple(side * edge for edge in s.boxes[n]) for s, n in zip(scenes, which)]
  whole = np.stack([cover(box, side, code) for box in boxes])
  half = np.stack([cover_half(box, side, code, ("left", "right", "top", "bottom")[rng.integers(4)]) for box in boxes])
  wanted = [s.things[n] for s, n in zip(scenes, which)]
  metrics, sections, figures = {}, [], []
  for name, masks, prompts, title, text, about in (
      ("accuracy", whole, val.prompts, "Holes, with the caption known",
       "An object is covered whole and then some; the caption says what it was.",
       "a covered object, named by the caption"),
      ("accuracy_uncaptioned", half, None, "Halves, without any caption",
       "Half of an object is covered and there is no caption: the other half has to say it.",
       "half covered, no caption")):
    usable = ~masks.all((1, 2)) & masks.any((1, 2))     # on so coarse a grid that nothing is left, nothing is asked
    if not usable.any():
      continue
    at = np.flatnonzero(usable)
    context.say(f"evaluate: {len(at)} holes, {about}")
    texts = [prompts[n] for n in at] if prompts else [""] * len(at)
    filled = context.infill(val.images[at], masks[at], texts if prompts else None)
    found = read_pictures(filled)
    right = np.array([wanted[n] in f for n, f in zip(at, found)])
    metrics |= figure(name, right)
    figures.append(Figure("Holes filled right" if prompts else "Halves filled right", f"infill.{name}", about=about))
    show = slice(context.show)
    there = [frozenset(t for t in f if t.place == wanted[n].place) for n, f in zip(at, found)]
    notes = ["" if good else f"was: {told(frozenset([wanted[n]]))}; read: {told(t)}"
             for n, good, t in zip(at, right, there)]
    sections.append(Section(title, text, filling_items(val.images[at][show], masks[at][show], filled[show], texts[show],
                                                       right[show], notes[show]), order=30 if prompts else 31))
  return Result({"infill": metrics} if metrics else {}, figures, sections)


def holes_of_kinds(context: Context) -> Result:
  """Holes as in training, of each kind apart, with the caption known: right where the whole picture is."""
  val, side, options = context.val, context.model.image.downsampling, context.config.decoder.objectives
  kinds = [name for name in HOLES if options.holes.get(name)]
  if len(kinds) < 2:
    return Result({})
  metrics, figures = {}, []
  for kind in kinds:
    context.say(f"evaluate: {len(val)} holes, {kind}")
    rng = np.random.default_rng((context.seed, 5))
    holes = np.stack([HOLES[kind](context.model.image.grid, rng, *options.hole_share) for _ in range(len(val))])
    masks = holes.repeat(side, 1).repeat(side, 2)
    found = read_pictures(context.infill(val.images, masks, val.prompts))
    metrics |= figure(f"accuracy_{kind}", np.array([a == f for a, f in zip(truths(val), found)]))
    figures.append(Figure(f"Filled right: {kind}", f"infill.accuracy_{kind}", about="the whole picture, caption known"))
  return Result({"infill": metrics}, figures)


# ---- boxes, changes, passes

def arranging(context: Context) -> Result:
  """Pictures drawn to a layout of boxes and names: right where exactly its objects stand at their places."""
  val = context.val
  context.say(f"evaluate: {len(val)} pictures drawn to a layout")
  drawn = context.model.arrange([list(objects) for objects in val.objects], code_by_code(context.config.sampling),
                                context.seed, batch_size=context.batch_size)
  found = read_pictures(drawn)
  said = ["; ".join(one.name for one in objects) for objects in val.objects]
  items = [Item([("asked", boxed(image, objects)), ("drawn", picture)], text, asked == read)
           for image, objects, picture, text, asked, read in
           zip(np.full_like(val.images, 235), val.objects, drawn, said, truths(val), found)]
  return Result({"layout": compare(val, found, "")}, [Figure("Layouts drawn right", "layout.accuracy",
                                                             about="exactly the objects asked for, where they were asked for")],
                [Section("Drawn to a layout", "Boxes with names, and the picture drawn for them.", items[:context.show],
                         order=25)])


def boxed(image: np.ndarray, objects) -> np.ndarray:
  """u8[s s 3] with the outline of each object's box."""
  out, side = image.copy(), len(image)
  for one in objects:
    x0, y0, x1, y1 = (min(int(edge * side), side - 1) for edge in one.box)
    out[[y0, y1], x0:x1 + 1] = out[y0:y1 + 1, [x0, x1]] = (60, 90, 160)
  return out


def changing(context: Context) -> Result:
  """A scene, its caption, and a change in words: right where the picture drawn behind them shows the scene after it.

  By chance: the picture as it was.
  """
  val, side = context.val, context.config.data.image_size
  at = [n for n, pieces in enumerate(val.pieces) if len(pieces) == 4]
  if not at:
    return Result({})
  context.say(f"evaluate: {len(at)} changed pictures")
  sampling = dataclasses.replace(code_by_code(context.config.sampling), guidance_scale=1.0)
  drawn = context.model.go_on([list(val.pieces[n][:3]) for n in at], (side, side), sampling, context.seed,
                              batch_size=context.batch_size)
  found, truth = read_pictures(drawn), [frozenset(val.fields[n]["after"].things) for n in at]
  right = np.array([a == f for a, f in zip(truth, found)])
  same = np.mean([a == b for a, b in zip(truth, (truths(val)[n] for n in at))])
  items = [Item([("before", val.images[n]), ("after", picture)], val.pieces[n][2], bool(good))
           for n, picture, good in zip(at, drawn, right)][:context.show]
  return Result({"interleaved": figure("accuracy", right) | {"unchanged": float(same)}},
                [Figure("Changed right", "interleaved.accuracy", chance="interleaved.unchanged",
                        about="a picture changed as the words behind it ask")],
                [Section("Changed by words", "Caption, picture, and a change asked for; then the picture drawn.", items,
                         order=26)])


PASSES = 12
"""Of a picture that `in_passes` has drawn."""


def in_passes(context: Context) -> Result:
  """Pictures drawn in a few passes, many codes each."""
  val = context.val
  passes = min(PASSES, math.prod(context.model.image.grid))
  context.say(f"evaluate: {len(val)} pictures in {passes} passes")
  sampling = dataclasses.replace(context.config.sampling, strategy="groups", window=0, row_window=0, passes=passes)
  metrics = compare(val, read_pictures(context.generate(val.prompts, sampling)), "")
  some = val.first(PROMPTS)
  right = lambda how: figure("accuracy", np.array([a == f for a, f in zip(truths(some), read_pictures(
      context.generate(some.prompts, how)))]))
  return Result({"parallel": metrics | {"passes": passes, "curve": curve(context, right)}},
                [Figure(f"Right in {passes} passes", "parallel.accuracy", about="drawn many codes at a time")])


def cover(box: tuple[float, float, float, float], side: int, code: int) -> np.ndarray:
  """bool[side side]: the box (x0, y0, x1, y1, pixels) and a pixel around it, outwards to whole codes of `code` pixels.

  (6.4, 6.4, 17, 17) in codes of 6 covers the pixels 0 .. 17 both ways: 5.4 goes down to 0, 18 is 18.
  """
  mask = np.zeros((side, side), bool)
  columns, rows = (slice(*_outwards(box[axis] - 1, box[axis + 2] + 1, side, code)) for axis in (0, 1))
  mask[rows, columns] = True
  return mask


def _outwards(low: float, high: float, side: int, code: int) -> tuple[int, int]:
  return max(0, math.floor(low / code) * code), min(side, math.ceil(high / code) * code)


def cover_half(box: tuple[float, float, float, float], side: int, code: int, which: str) -> np.ndarray:
  """bool[side side]: as `cover`, but only the left, right, top or bottom half of the box.

  The edge between the halves is the border of codes nearest to the box's middle: half of the object, as well as the
  codes can cut it. All zeros where the box lies inside one code.
  """
  mask = cover(box, side, code)
  axis = 0 if which in ("left", "right") else 1
  middle = (box[axis] + box[axis + 2]) / 2
  cut = round(middle / code) * code
  if not box[axis] < cut < box[axis + 2]:
    return np.zeros_like(mask)
  inner = slice(cut, side) if which in ("left", "top") else slice(0, cut)
  if axis == 0:
    mask[:, inner] = False
  else:
    mask[inner] = False
  return mask
