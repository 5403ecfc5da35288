"""Pictures in fewer passes: what several strategies draw for the same prompts, and what that is worth."""
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from unitok.config import Sampling
from unitok.evaluation.examples import Context, Result
from unitok.evaluation.likelihood import document
from unitok.evaluation.statistics import figure
from unitok.objectives import OBJECTIVES, drawing
from unitok.objectives.codes import Codes
from unitok.sampling.by_rows import by_rows
from unitok.sampling.groups import groups_of
from unitok.sequence import Sequence, build

PROMPTS = 256
"""Of each point of a curve."""


def to_draw(model: Any, text: np.ndarray, groups: np.ndarray | None = None) -> Sequence:
  """A picture that nothing is known of, code by code or in groups i32[h w]."""
  grid, books = model.image.grid, model.vocabulary.books
  empty = np.full(grid if books == 1 else (*grid, books), -1, np.int32)
  return build(OBJECTIVES["text_to_image" if groups is None else "parallel"](
      Codes((text,), empty, groups=groups), np.random.default_rng(0), drawing(model.config.decoder.objectives)),
      model.vocabulary)


def nats_of(model: Any, texts: list[np.ndarray], how: Sampling, seed: int = 0, batch_size: int = 64) -> np.ndarray:
  """f64[n]: the nats a code that the model itself, code by code, gives to what it draws for each text."""
  grid, books = model.image.grid, model.vocabulary.books
  order, groups = np.arange(math.prod(grid)), None
  if how.passes:
    groups = groups_of(np.ones(grid, bool), how, seed)
    order = np.argsort(groups, axis=None, kind="stable")
  starts = range(0, len(texts), batch_size)
  drawn = [ids for start in starts for ids in model.sampler.draw(
      [to_draw(model, text, groups) for text in texts[start:start + batch_size]], how, seed, first_row=start)]
  codes = np.empty((len(texts), order.size, books), np.int32)
  codes[:, order] = [model.vocabulary.image_codes(ids).reshape(-1, books) for ids in drawn]
  pictures = codes.reshape(-1, *grid, *(() if books == 1 else (books,)))
  known = [document(model, "text_to_image", text, one) for text, one in zip(texts, pictures, strict=True)]
  return -model.sampler.log_likelihood(known, batch_size) / np.array([d.learned for d in known])


def curve(context: Context, measure: Callable[[Sampling], dict]) -> dict[str, dict[str, dict]]:
  """{strategy: {passes: measure(how)}}: groups at four numbers of passes, maskgit, which computes all places each time, at the
  two smallest, by rows, and code by code."""
  plain = dataclasses.replace(context.config.sampling, window=0, row_window=0, passes=0)
  places = math.prod(context.model.image.grid)
  numbers = sorted({max(1, places // share) for share in (16, 8, 4, 2)})
  points = [("groups", number) for number in numbers] + [("maskgit", number) for number in numbers[:2]]
  context.say(f"evaluate: pictures in {', '.join(map(str, numbers))} passes")
  ways = [(strategy, number, dataclasses.replace(plain, strategy=strategy, passes=number)) for strategy, number in points]
  if context.trained("text_to_image"):
    rows = dataclasses.replace(plain, strategy="rows")
    empty = to_draw(context.model, np.zeros(0, np.int32))
    taken = int(by_rows(empty, rows, context.model.sampler.image).passes.max()) + 1
    ways += [("rows", taken, rows), ("sequential", places, dataclasses.replace(plain, strategy="sequential"))]
  out: dict[str, dict[str, dict]] = {}
  for strategy, number, how in ways:
    out.setdefault(strategy, {})[str(number)] = measure(how)
  return out


def likely(context: Context) -> Result:
  """Of a source whose drawings nobody can read: how likely the model, code by code, finds what each strategy draws."""
  model, val = context.model, context.val.captioned().first(PROMPTS)
  texts = [model.text.encode(prompt) for prompt in val.prompts if model.fits(prompt)]
  if not texts or not context.trained("text_to_image"):
    return Result({})
  warm = lambda how: dataclasses.replace(how, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, guidance_scale=1.0)
  nats = lambda how: nats_of(model, texts, warm(how), context.seed, context.config.evaluation.batch_size)
  return Result({"parallel": {"curve": curve(context, lambda how: figure("nats", nats(how)))}})
