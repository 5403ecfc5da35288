"""What a model understands of pictures and texts, whatever their source: answers, boxes, blanks."""
import collections

import numpy as np

from unitok.config import GREEDY
from unitok.evaluation.examples import Context, Figure, Item, Result, Section
from unitok.evaluation.statistics import figure, merge
from unitok.modalities.location import overlap
from unitok.objectives import OBJECTIVES, drawing
from unitok.objectives.codes import Codes
from unitok.objectives.glm import random_spans
from unitok.sequence import build

LONGEST = 16
"""Text codes of an answer or a blank, at most."""
ENOUGH = 0.5
"""Of a box that counts as found: intersection over union with the true one."""


def evaluate_understanding(context: Context) -> Result:
  """All of it that the model was trained for and the validation records have."""
  results = [measure(context) for name, measure in MEASURES.items() if context.trained(name)]
  return Result(merge(*(r.metrics for r in results)), [f for r in results for f in r.figures],
                [s for r in results for s in r.sections])


# ---- questions

def answers(context: Context) -> Result:
  """Greedy answers, right where they are the record's own to the letter; those that are not yes or no also apart.

  By chance: the best constant answer, and the most frequent answer to each question's words, both taken from these
  very answers, so that nobody could do better without looking.
  """
  val = context.val
  cases = [(n, question, answer) for n, pairs in enumerate(val.questions) for question, answer in pairs]
  cases = cases[:max(context.config.evaluation.examples, 1) * 4]
  if not cases:
    return Result({})
  context.say(f"evaluate: {len(cases)} questions")
  at, questions, truth = (list(column) for column in zip(*cases))
  said = context.model.answer(val.images[at], questions, seed=context.seed, limit=LONGEST, batch_size=context.batch_size)
  right = np.array([a == t for a, t in zip(said, truth)])
  open_ones = np.array([t not in ("yes", "no") for t in truth])
  metrics = figure("accuracy", right) | figure("accuracy_open", right[open_ones])
  metrics |= {"constant": share_of_most(truth), "without_looking": without_looking(questions, truth)}
  figures = [Figure("Answers right", "answers.accuracy", chance="answers.without_looking", about="to the letter")]
  if open_ones.any():
    open_truth = [t for t, one in zip(truth, open_ones) if one]
    metrics["open_without_looking"] = without_looking([q for q, one in zip(questions, open_ones) if one], open_truth)
    figures.append(Figure("Open answers right", "answers.accuracy_open", chance="answers.open_without_looking",
                          about="of questions that are not answered by yes or no"))
  shown = [Item([("", val.images[n])], f"{q} {a or '(nothing)'}", bool(good), "" if good else f"it is: {t}")
           for n, q, a, t, good in list(zip(at, questions, said, truth, right))[:2 * context.show]]
  text = "Questions about pictures the model never saw, the likeliest answer each time."
  return Result({"answers": metrics}, figures, [Section("Asked", text, shown, order=45)])


def share_of_most(values: list[str]) -> float:
  return max(collections.Counter(values).values()) / len(values)


def without_looking(questions: list[str], truth: list[str]) -> float:
  """The share that the most frequent answer to each question is."""
  by_question = collections.defaultdict(collections.Counter)
  for question, answer in zip(questions, truth):
    by_question[question][answer] += 1
  return sum(max(counts.values()) for counts in by_question.values()) / len(truth)


# ---- boxes

def boxes(context: Context) -> Result:
  """The box of each object whose name no other of its picture has, found where it overlaps enough with the true one.

  By chance: another record's box of as many objects on average, the next record's first.
  """
  val, cases = context.val, []
  for n, objects in enumerate(val.objects):
    names = [one.name for one in objects]
    cases += [(n, one.name, one.box) for one in objects if names.count(one.name) == 1]
  cases = cases[:context.config.evaluation.examples]
  if not cases:
    return Result({})
  context.say(f"evaluate: {len(cases)} boxes")
  at, names, truth = (list(column) for column in zip(*cases))
  found = context.model.locate(val.images[at], names, seed=context.seed, batch_size=context.batch_size)
  share, guess = overlap(found, np.array(truth)), overlap(np.roll(np.array(truth), 1, 0), np.array(truth))
  metrics = figure("found", share >= ENOUGH) | figure("overlap", share) | {"found_by_chance": float((guess >= ENOUGH).mean())}
  return Result({"locate": metrics}, [Figure("Boxes found", "locate.found", chance="locate.found_by_chance",
                                             about=f"intersection over union of {ENOUGH} or more")])


# ---- blanks

def blanks(context: Context) -> Result:
  """A blank of a caption beside its picture, as in training, right where its codes are the caption's own.

  By chance: the most frequent blank of these.
  """
  val, model, rng = context.val, context.model, np.random.default_rng((context.seed, 4))
  options, documents, truth = drawing(context.config.decoder.objectives), [], []
  images = model.image.encode(val.images)
  for captions, image in zip(val.captions, images):
    codes = model.text.encode(captions[0]) if captions else np.zeros(0, np.int32)
    spans = random_spans(len(codes), rng, 1e-6, options.blank_length)
    if not spans:
      continue
    start, stop = spans[0]
    unknown = np.full(LONGEST, -1, np.int32)
    asked = Codes((np.concatenate([codes[:start], unknown, codes[stop:]]),), image)
    documents.append(build(OBJECTIVES["glm_spans"](asked, rng, options), model.vocabulary))
    truth.append(codes[start:stop])
  fitting = [n for n, d in enumerate(documents) if d.length <= context.config.decoder.row_length]
  if not fitting:
    return Result({})
  context.say(f"evaluate: {len(fitting)} blanks")
  documents, truth = [documents[n] for n in fitting], [model.text.decode(truth[n]) for n in fitting]
  said = [model.spans(document, ids)[0] for start in range(0, len(documents), context.batch_size)
          for part in [documents[start:start + context.batch_size]]
          for document, ids in zip(part, model.sampler.draw(part, GREEDY, context.seed))]
  metrics = figure("accuracy", np.array([a == t for a, t in zip(said, truth)])) | {"constant": share_of_most(truth)}
  return Result({"blanks": metrics}, [Figure("Blanks right", "blanks.accuracy", chance="blanks.constant",
                                             about="a few words taken out of a caption, beside its picture")])


MEASURES = {"question": answers, "locate": boxes, "glm_spans": blanks}
"""By the objective that a model must have learned."""
