"""What a model understands of pictures and texts, whatever their source: answers, boxes, blanks."""
import collections
import functools
from typing import NamedTuple

import numpy as np

from unitok.config import GREEDY, Objectives
from unitok.data.record import Object
from unitok.evaluation.examples import Context, Figure, Item, Result, Section
from unitok.evaluation.statistics import clipped, figure, merge
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


def detections(context: Context) -> Result:
  """All objects of each picture asked for at once: the share of the true ones that are found, and whole lists right.

  By chance: the true objects of the next record.
  """
  val = context.val
  at = [n for n, objects in enumerate(val.objects) if objects]
  if not at:
    return Result({})
  context.say(f"evaluate: the objects of {len(at)} pictures")
  truth = [val.objects[n] for n in at]
  longest = max(len(context.model.text.encode(one.name)) for objects in truth for one in objects)
  said = context.model.detect(val.images[at], seed=context.seed, name_limit=longest + 1, batch_size=context.batch_size)
  counts = np.array([len(objects) for objects in truth])
  found, guess = (np.array([matched(t, s) for t, s in zip(truth, some)]) for some in (said, truth[1:] + truth[:1]))
  whole = (found == counts) & (counts == [len(objects) for objects in said])
  metrics = clipped(figure("found", found / counts, counts)) | figure("pictures_right", whole)
  metrics |= {"found_by_chance": float(guess.sum() / counts.sum())}
  figures = [Figure("Objects detected", "detect.found", chance="detect.found_by_chance",
                    about=f"the name to the letter, intersection over union of {ENOUGH} or more"),
             Figure("Pictures detected whole", "detect.pictures_right", about="all of the objects and no other")]
  return Result({"detect": metrics}, figures)


def matched(truth: tuple[Object, ...], said: list[Object]) -> int:
  """How many true objects have one of their name with enough overlap among what is said, each its own."""
  left, count = list(said), 0
  for one in truth:
    shares = [float(overlap(other.box, one.box)) if other.name == one.name else 0.0 for other in left]
    if shares and max(shares) >= ENOUGH:
      left.pop(int(np.argmax(shares)))
      count += 1
  return count


# ---- blanks

class Blank(NamedTuple):
  """A record's texts, and what is taken out of one of them."""
  texts: list[np.ndarray]
  number: int
  start: int
  stop: int

  def filled(self, codes: np.ndarray) -> list[np.ndarray]:
    """The texts with `codes` in the blank."""
    text = self.texts[self.number]
    whole = np.concatenate([text[:self.start], codes, text[self.stop:]])
    return [*self.texts[:self.number], whole, *self.texts[self.number + 1:]]

  @property
  def truth(self) -> np.ndarray:
    return self.texts[self.number][self.start:self.stop]


def a_span(texts: list[np.ndarray], ends: list[np.ndarray], rng: np.random.Generator, options: Objectives) -> Blank:
  """Of the first text."""
  return Blank(texts[:1], 0, *random_spans(len(texts[0]), rng, 1e-6, options.blank_length)[0])


def a_sentence(texts: list[np.ndarray], ends: list[np.ndarray], rng: np.random.Generator, options: Objectives) -> Blank:
  """One of all sentences, evenly; the other texts stay."""
  every = [(n, int(a), int(b)) for n, cuts in enumerate(ends) for a, b in zip([0, *cuts], cuts)]
  return Blank(texts, *every[rng.integers(len(every))])


def an_end(texts: list[np.ndarray], ends: list[np.ndarray], rng: np.random.Generator, options: Objectives) -> Blank:
  """Of the first text, from anywhere on."""
  return Blank(texts[:1], 0, int(rng.integers(len(texts[0]))), len(texts[0]))


BLANKS = {"glm_spans": (a_span, "", "Blanks", "a few words taken out of a caption, beside its picture"),
          "glm_sentences": (a_sentence, "_sentences", "Sentences", "one taken out of all captions, beside the picture"),
          "glm_document": (an_end, "_document", "Ends", "a caption cut anywhere, beside its picture")}
"""Objective -> what is taken out, the end of its keys, and how it is told."""


def blanks(context: Context, objective: str) -> Result:
  """A blank beside the picture, as in training, right where its codes are the caption's own.

  Where captions can be read, also whether the caption with what was written says the same as the true one. By chance:
  the most frequent blank of these; the caption with nothing written.
  """
  take, suffix, label, about = BLANKS[objective]
  val, model, rng = context.val, context.model, np.random.default_rng((context.seed, 4))
  options, cases = drawing(context.config.decoder.objectives), []
  for captions, image in zip(val.captions, model.image.encode(val.images)):
    texts = [(codes, said) for said in captions if (codes := model.text.encode(said)).size]
    if texts:
      ends = [model.text.sentence_ends(said, codes) for codes, said in texts]
      cases.append((take([codes for codes, _ in texts], ends, rng, options), image))
  longest = max((len(one.truth) for one, _ in cases), default=0)
  unknown = np.full(LONGEST if objective == "glm_spans" else longest + 1, -1, np.int32)
  build_one = lambda one, image: build(OBJECTIVES[objective](Codes(tuple(one.filled(unknown)), image), rng, options),
                                       model.vocabulary)
  documents = [(build_one(one, image), one) for one, image in cases]
  documents = [(d, one) for d, one in documents if d.length <= context.config.decoder.row_length]
  if not documents:
    return Result({})
  context.say(f"evaluate: {len(documents)} blanks of {objective}")
  said = [model.spans(d, ids)[0] for start in range(0, len(documents), context.batch_size)
          for part in [[d for d, _ in documents[start:start + context.batch_size]]]
          for d, ids in zip(part, model.sampler.draw(part, GREEDY, context.seed))]
  truth = [model.text.decode(one.truth) for _, one in documents]
  metrics = figure(f"accuracy{suffix}", np.array([a == t for a, t in zip(said, truth)]))
  metrics |= {f"constant{suffix}": share_of_most(truth)}
  figures = [Figure(f"{label} right", f"blanks.accuracy{suffix}", chance=f"blanks.constant{suffix}", about=about)]
  if context.read:
    around = [tuple(map(model.text.decode, (one.texts[one.number][:one.start], one.texts[one.number][one.stop:])))
              for _, one in documents]
    says = lambda written: [context.read(before + one + after) for (before, after), one in zip(around, written)]
    same = lambda written: np.array([a == t for a, t in zip(says(written), says(truth))])
    metrics |= figure(f"read{suffix}", same(said)) | {f"read{suffix}_unwritten": float(same([""] * len(truth)).mean())}
    figures.append(Figure(f"{label} that say the same", f"blanks.read{suffix}", chance=f"blanks.read{suffix}_unwritten",
                          about="in whatever words"))
  return Result({"blanks": metrics}, figures)


MEASURES = {"question": answers, "locate": boxes, "detect": detections,
            **{name: functools.partial(blanks, objective=name) for name in BLANKS}}
"""By the objective that a model must have learned."""
