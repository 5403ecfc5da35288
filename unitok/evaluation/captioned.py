"""Evaluation of any source with captions of its own: the right caption among many, the name of a held-out picture."""
import re
from typing import Any

import numpy as np

from unitok.config import Data
from unitok.data import captions
from unitok.data.record import BadRecord
from unitok.data.sources import open_source
from unitok.evaluation.examples import Context, Examples, Figure, Item, Result, Section, with_hole
from unitok.evaluation.likelihood import affordable, choose_candidates, retrieved, score_captions, without_prior
from unitok.evaluation.passes import likely
from unitok.evaluation.statistics import figure, merge
from unitok.objectives.infill import rectangles

CANDIDATES = 100
TOKENS = 800_000
"""Tokens ranked for one retrieval figure: about three minutes of a slow pair of cores."""


def evaluate_captioned(context: Context) -> Result:
  """Retrieval and nats a caption on val, retrieval and names on heldout; drawings, captions and fillings to look at."""
  results = [drawings(context, context.val, "Drawn from words", "validation", 10)]
  if len(context.heldout):
    title = "Drawn from words training never showed this way"
    results.append(drawings(context, context.heldout, title, "held-out", 20))
  results.append(fillings(context))
  if context.trained("parallel"):
    results.append(likely(context))
  if context.trained("image_to_text"):
    results += [described(context), ranked(context)]
    if len(context.heldout.captioned()):
      results.append(named(context))
  return Result(merge(*(r.metrics for r in results)), [f for r in results for f in r.figures],
                [s for r in results for s in r.sections])


# ---- captions told apart

def ranked(context: Context) -> Result:
  """The right caption among 100 by log p(caption | picture) on val; nats a caption, true and shuffled pictures."""
  model, val = context.model, context.val.captioned()
  if len(val) < 2:
    return Result({})
  rng = np.random.default_rng(context.seed)
  data = context.config.data
  pool = [name for n in range(len(val)) for name in names_of(val, n)]
  candidates = _told(data, val, choose_candidates(_names(val), pool, CANDIDATES, rng))
  count = affordable(model, val, candidates, TOKENS)
  context.say(f"evaluate: the right caption among {len(candidates[0])} for {count} of {len(val)} validation pictures")
  codes = model.image.encode(val.images)
  retrieval, figures = retrieval_figures(context, codes, candidates[:count], "")
  other = np.roll(np.arange(len(val)), 1 + int(rng.integers(len(val) - 1)))
  nats = {}
  for name, pictures in (("nats_true", codes), ("nats_shuffled", codes[other])):
    scores = score_captions(model, [(picture, [texts[0]]) for picture, texts in zip(pictures, val.captions)])
    nats |= figure(name, -np.concatenate(scores))
  figures.append(Figure("Nats a caption", "caption.nats_true", "nats", chance="caption.nats_shuffled",
                        about="given its own picture; by chance: given another one"))
  return Result({"retrieval": retrieval, "caption": nats}, figures)


def retrieval_figures(context: Context, codes: np.ndarray, candidates: list[list[str]],
                      suffix: str) -> tuple[dict, list[Figure]]:
  """(metrics under retrieval, headline figures): the first candidate found among all, of each picture.

  `accuracy` by log p(caption | picture); `accuracy_without_prior` by log p(caption | picture) - log p(caption), where
  text alone is among the decoder's tasks: by the first alone, short and common captions win.
  """
  scores, many = score_captions(context.model, list(zip(codes, candidates))), len(candidates[0])
  metrics = figure(f"accuracy{suffix}", retrieved(scores)) | {f"candidates{suffix}": many, f"chance{suffix}": 1 / many}
  name = "Held-out name found" if suffix else "Caption found"
  figures = [Figure(name, f"retrieval.accuracy{suffix}", chance=f"retrieval.chance{suffix}",
                    about=f"among {many}, by log p(caption | picture)")]
  if context.trained("text"):
    scores = without_prior(context.model, scores, candidates)
    metrics |= figure(f"accuracy{suffix}_without_prior", retrieved(scores))
    figures.append(Figure(f"{name}, prior out", f"retrieval.accuracy{suffix}_without_prior",
                          chance=f"retrieval.chance{suffix}",
                          about=f"among {many}, by what the picture adds to log p(caption)"))
  return metrics, figures


def named(context: Context) -> Result:
  """Held-out pictures: the name right in the greedy caption, and found among 100 names told in the same words."""
  model, held, data = context.model, context.heldout.captioned(), context.config.data
  texts = context.caption(held.images)
  finder = name_pattern(data.caption_template)
  right = np.array([name_in(finder, text) in names_of(held, n) for n, text in enumerate(texts)])
  rng = np.random.default_rng((context.seed, 1))
  pool = [name for n in range(len(held)) for name in names_of(held, n)]
  if len(set(pool)) < CANDIDATES:
    pool += more_names(context, CANDIDATES - len(set(pool)), rng)
  candidates = _told(data, held, choose_candidates(_names(held), pool, CANDIDATES, rng))
  count = affordable(model, held, candidates, TOKENS)
  context.say(f"evaluate: the right name among {len(candidates[0])} for {count} of {len(held)} held-out pictures")
  codes = model.image.encode(held.images[:count])
  retrieval, figures = retrieval_figures(context, codes, candidates[:count], "_heldout")
  metrics = {"caption": figure("heldout_name_accuracy", right), "retrieval": retrieval}
  figures = [Figure("Held-out name written", "caption.heldout_name_accuracy", about="greedy caption, the whole name"),
             *figures]
  items = [Item([("", image)], text, bool(good), "" if good else f"is: {caption[0]}")
           for image, text, caption, good in zip(held.images, texts, held.captions, right)]
  text = "Captions written for held-out pictures, the likeliest word each time; the first ones, not chosen."
  return Result(metrics, figures, [Section("Held-out pictures, named", text, items[:2 * context.show], order=40)])


def names_of(examples: Examples, n: int) -> tuple[str, ...]:
  """The captions of a record as its source wrote them, before the template."""
  written = examples.fields[n].get("captions")
  return tuple(map(str, written)) if written else examples.captions[n]


def _names(examples: Examples) -> list[tuple[str, ...]]:
  return [names_of(examples, n) for n in range(len(examples))]


def _told(data: Data, examples: Examples, candidates: list[list[str]]) -> list[list[str]]:
  """Candidates in the words of the template with each record's own fields, so that only the name tells them apart.

  "a {style} emoji of {caption}": a noto picture has a hundred "a noto emoji of …".
  """
  if "{caption}" not in data.caption_template or "captions" not in (examples.fields[0] if examples.fields else {}):
    return candidates
  template = captions.parse(data.caption_template)
  return [[template.fill({**fields, "caption": name}) for name in names]
          for fields, names in zip(examples.fields, candidates)]


def name_pattern(template: str) -> re.Pattern:
  """What finds {caption} in a text of this template; other holes may hold anything."""
  parts, found = [], False
  for text, name in captions.parse(template).pieces:
    parts.append(re.escape(text))
    if name == "caption" and not found:
      parts.append("(?P<name>.*)")
      found = True
    elif name is not None:
      parts.append(".*?")
  return re.compile("".join(parts) if found else "(?P<name>.*)", re.DOTALL)


def name_in(finder: re.Pattern, text: str) -> str | None:
  match = finder.fullmatch(text)
  return match["name"] if match else None


def more_names(context: Context, count: int, rng: np.random.Generator) -> list[str]:
  """`count` further names or more, from validation and training records in a random order."""
  found: dict[str, None] = {}
  for n in range(len(context.val)):
    found.update(dict.fromkeys(names_of(context.val, n)))
  source = open_source(context.config.data, "train")
  for index in rng.permutation(len(source)):
    if len(found) >= 2 * count + CANDIDATES:
      break
    try:
      record = source[int(index)]
    except BadRecord:
      continue
    found.update(dict.fromkeys(tuple(map(str, record.fields.get("captions", ()))) or record.captions))
  return list(found)


# ---- to look at

def asked(context: Context) -> Result:
  """Pictures for the prompts of the config."""
  prompts = list(context.config.evaluation.prompts)
  if not context.trained("text_to_image") or not prompts:
    return Result({})
  items = [Item([("", picture)], text) for picture, text in zip(context.generate(prompts), prompts)]
  return Result({}, [], [Section("Asked for", "The prompts of the config, one picture each.", items, order=9)])


def drawings(context: Context, examples: Examples, title: str, split: str, order: int) -> Result:
  """Pictures drawn for the first captions of a split, or for none."""
  if not context.trained("text_to_image") or not len(examples):
    return Result({})
  some = examples.first(context.show)
  context.say(f"evaluate: {len(some)} pictures for {split} prompts")
  items = [Item([("drawn", picture), ("its source", image)], text or "(no caption)")
           for picture, image, text in zip(context.generate(some.prompts), some.images, some.prompts)]
  return Result({}, [], [Section(title, f"One picture a prompt, nothing chosen or drawn again; beside it the {split} "
                                 "picture that the words belong to, which the model never saw.", items, order)])


def described(context: Context) -> Result:
  """Greedy captions of validation pictures."""
  some = context.val.captioned().first(context.show)
  if not len(some):
    return Result({})
  texts = context.caption(some.images)
  items = [Item([("", image)], text or "(nothing)", note=f"people wrote: {written[0]}" if written else "")
           for image, text, written in zip(some.images, texts, some.captions)]
  text = "Captions for pictures the model never saw, the likeliest word each time."
  return Result({}, [], [Section("Described", text, items, order=45)])


def fillings(context: Context) -> Result:
  """Random holes in validation pictures, filled with the caption known."""
  some = context.val.first(context.show)
  if not context.trained("infill") or not len(some):
    return Result({})
  grid, side = context.model.image.grid, context.model.image.downsampling
  rng = np.random.default_rng((context.seed, 2))
  holes = np.stack([rectangles(grid, rng, 0.0, 1.0) for _ in range(len(some))])
  masks = holes.repeat(side, 1).repeat(side, 2)
  context.say(f"evaluate: {len(some)} holes")
  filled = context.infill(some.images, masks, some.prompts)
  items = filling_items(some.images, masks, filled, some.prompts)
  return Result({}, [], [Section("Holes and what was put there", "Everything under the hole is hidden from the model; "
                                 "the caption is known.", items, order=30)])


def filling_items(images: np.ndarray, masks: np.ndarray, filled: np.ndarray, texts: list[str],
                  right: Any = None, notes: Any = None) -> list[Item]:
  """Original, hole and filling side by side."""
  covered = with_hole(images, masks)
  return [Item([("original", images[n]), ("hole", covered[n]), ("filled", filled[n])], texts[n] or "(no caption)",
               None if right is None else bool(right[n]), "" if notes is None else notes[n])
          for n in range(len(images))]
