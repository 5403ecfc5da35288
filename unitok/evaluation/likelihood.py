"""What the decoder finds likely: nats a token, nats a caption, the right caption among many."""
import functools
import math
from typing import Any

import jax
import numpy as np

from unitok.data.record import Record
from unitok.data.shards import encode_records
from unitok.evaluation.examples import Context, Examples, Figure, Result
from unitok.evaluation.statistics import figure
from unitok.objectives import OBJECTIVES, drawing, possible
from unitok.objectives.codes import Codes
from unitok.sequence import FOREVER, PADDING, Sequence, build

TOKENS_A_BATCH = 8192
ROUND = 64
"""Rows are padded to a multiple of this, so that few lengths are compiled."""


def document(model: Any, objective: str, text: np.ndarray | None, codes: np.ndarray | None) -> Sequence:
  """The objective's document with everything known."""
  texts = () if text is None else (text,)
  parts = OBJECTIVES[objective](Codes(texts, codes), np.random.default_rng(0), drawing(model.config.decoder.objectives))
  return build(parts, model.vocabulary)


def evaluate_nats(context: Context) -> Result:
  """Nats a token of validation documents (each code of a place is one here): codes given their caption, captions given
  their picture."""
  model, val, nats, figures = context.model, context.val, {}, []
  codes = model.image.encode(val.images)
  for block, objective in (("image", "text_to_image"), ("text", "image_to_text")):
    if not context.trained(objective):
      continue
    documents = [document(model, objective, model.text.encode(texts[0]) if texts else None, one)
                 for texts, one in zip(val.captions, codes) if texts or objective == "text_to_image"]
    documents = [d for d in documents if d.length <= context.config.decoder.row_length]
    if not documents:
      continue
    tokens = np.array([d.learned for d in documents])
    log_p = model.sampler.log_likelihood(documents, min(64, 1 << (len(documents) - 1).bit_length()))
    figures.append(Figure(f"Nats a token, {block}", f"decoder.nats_per_token.{block}", "nats",
                          about="of validation codes given their caption" if block == "image" else
                          "of validation captions given their picture"))
    mean = -float(log_p.sum()) / float(tokens.sum())
    if not np.isfinite(mean):
      raise ValueError(f"decoder: nats per {block} token are {mean}; the weights are damaged, or were trained with too "
                       "high a learning rate")
    nats |= {block: mean, f"{block}_tokens": int(tokens.sum()), f"{block}_n": len(documents)}
  return Result({"decoder": {"nats_per_token": nats}} if nats else {}, figures)


SPOKEN_FOR = ("text_to_image", "image_to_text", "infill", "parallel", "question", "locate", "detect", "layout",
              "glm_spans", "glm_sentences", "glm_document", "interleaved")
"""Objectives with a figure of their own; the others are told by the nats of their targets."""


def evaluate_objectives(context: Context) -> Result:
  """Nats a target of validation documents of each objective that has no other figure, holes and blanks by the seed."""
  model, val, row = context.model, context.val, context.config.decoder.row_length
  names = [name for name in OBJECTIVES if context.trained(name) and name not in SPOKEN_FOR]
  if not names:
    return Result({})
  column = lambda name: getattr(val, name) or [()] * len(val)
  records = [Record("", image, *rest) for image, *rest in zip(val.images, *map(column, val._fields[1:]))]
  encode = lambda some: encode_records(some, model.text, model.image, context.batch_size, "refine" in names)
  codes = [one for start in range(0, len(records), context.batch_size)
           for one in encode(records[start:start + context.batch_size])]
  options, metrics, figures = drawing(context.config.decoder.objectives), {}, []
  for name in names:
    rng = np.random.default_rng((context.seed, 6))
    documents = [build(OBJECTIVES[name](one, rng, options), model.vocabulary) for one in codes if possible(name, one)]
    documents = [d for d in documents if d.length <= row]
    if not documents:
      continue
    context.say(f"evaluate: likelihood of {len(documents)} documents of {name}")
    tokens = np.array([d.learned for d in documents])
    log_p = model.sampler.log_likelihood(documents, min(64, 1 << (len(documents) - 1).bit_length()))
    metrics |= figure(name, -log_p / tokens, tokens)
    figures.append(Figure(f"Nats a target, {name}", f"objectives.{name}", "nats", about="of validation documents"))
  return Result({"objectives": metrics} if metrics else {}, figures)


# ---- many captions of one picture

def score_captions(model: Any, pairs: list[tuple[np.ndarray, list[str]]]) -> list[np.ndarray]:
  """log p(caption | picture), nats, its end included, of every caption of each (codes i32[h w], captions).

  The captions of a picture share one row with it: by the attention rule each sees the picture and itself alone, so
  the picture is computed once for many captions, and the result is that of a document each.
  """
  rows, owners = [], []     # owners: (pair, first caption) of each row
  documents = [[document(model, "image_to_text", model.text.encode(text), codes) for text in texts]
               for codes, texts in pairs]
  places = lambda codes: math.prod(codes.shape[:2])
  shared = max(places(codes) for codes, _ in pairs) + 2
  longest = max(d.length for some in documents for d in some)
  whole = max(shared + sum(d.length - places(codes) - 2 for d in some) for some, (codes, _) in zip(documents, pairs))
  length = -(-max(min(4 * shared, whole), longest) // ROUND) * ROUND
  for number, some in enumerate(documents):
    start = 0
    while start < len(some):
      prefix = places(pairs[number][0]) + 2          # [image_to_text] [boi] codes; from [eoi] on each has its own
      room, stop = length - prefix, start
      while stop < len(some) and some[stop].length - prefix <= room:
        room -= some[stop].length - prefix
        stop += 1
      rows.append(branches(some[start:stop], prefix, length))
      owners.append((number, start))
      start = stop
  out = [np.zeros(len(texts), np.float64) for _, texts in pairs]
  language, params = model.sampler.language, model.sampler.params
  batch = max(1, TOKENS_A_BATCH // length)
  for start in range(0, len(rows), batch):
    some = rows[start:start + batch]
    padded = some + [some[-1]] * (batch - len(some))
    fields = {name: np.stack([row[name] for row in padded]) for name in some[0]}
    owner = fields.pop("branch")
    log_p = np.asarray(_token_log_p(language, params, fields))
    for n in range(len(some)):
      number, first = owners[start + n]
      of = owner[n] >= 0
      np.add.at(out[number], first + owner[n][of], log_p[n][of])
  return out


def branches(documents: list[Sequence], shared: int, length: int) -> dict[str, np.ndarray]:
  """One row of `length` tokens from documents whose first `shared` tokens are the same.

  Branch k's tokens get orders of their own and end at them: orders 5 6 7 after a shared 0 .. 4 become 5 6 7 (until 7)
  for branch 0, and 8 9 10 (until 10) for branch 1. "branch" is -1 where nothing of a branch is predicted.
  """
  names = ("inputs", "targets", "loss_weights", "order", "visible_from", "visible_until", "positions",
           *(("extra_codes", "extra_targets") if documents[0].extra_codes is not None else ()))
  columns = {name: [getattr(documents[0], name)[:shared]] for name in names}
  branch = [np.full(shared, -1, np.int32)]
  last = int(documents[0].order[:shared].max())
  move = 0
  for k, d in enumerate(documents):
    tail = {name: getattr(d, name)[shared:] for name in names}
    end = int(tail["order"].max()) + move
    tail["order"] = tail["order"] + move
    tail["visible_from"] = tail["visible_from"] + move
    tail["visible_until"] = np.where(tail["visible_until"] == FOREVER, end, tail["visible_until"] + move)
    for name in names:
      columns[name].append(tail[name])
    branch.append(np.where(d.loss_weights[shared:] > 0, np.int32(k), np.int32(-1)))
    move = end - last
  out = {name: np.concatenate(parts) for name, parts in columns.items()} | {"branch": np.concatenate(branch)}
  used = len(out["inputs"])
  fill = {**{name: PADDING[name] for name in names}, "branch": -1}
  grown = {name: np.concatenate([value, np.full((length - used, *value.shape[1:]), fill[name], value.dtype)])
           for name, value in out.items()}
  return grown | {"segment_ids": (np.arange(length) < used).astype(np.int32)}


@functools.partial(jax.jit, static_argnums=0)
def _token_log_p(language, params, f):
  """f32[b l]: log p of each target."""
  return language.log_p(params, f)


# ---- retrieval

def choose_candidates(right: list[tuple[str, ...]], pool: list[str], count: int,
                      rng: np.random.Generator) -> list[list[str]]:
  """For each example (its captions): its first caption, then count - 1 other texts of the pool, none of them its own.

  Fewer where the pool has fewer.
  """
  unique = list(dict.fromkeys(pool))
  out = []
  for texts in right:
    others = [unique[n] for n in rng.permutation(len(unique))[:count - 1 + len(texts)]]
    out.append([texts[0], *[text for text in others if text not in texts][:count - 1]])
  return out


def retrieved(scores: list[np.ndarray]) -> np.ndarray:
  """bool[n]: candidate 0 has the highest score alone."""
  return np.array([bool((s[0] > s[1:]).all()) for s in scores])


def text_log_p(model: Any, texts: list[str], batch_size: int = 64) -> np.ndarray:
  """f32[n]: log p(caption) without any picture, by the text objective, nats."""
  documents = [document(model, "text", model.text.encode(text), None) for text in texts]
  return model.sampler.log_likelihood(documents, min(batch_size, 1 << (len(documents) - 1).bit_length()))


def without_prior(model: Any, scores: list[np.ndarray], candidates: list[list[str]]) -> list[np.ndarray]:
  """log p(caption | picture) - log p(caption): what the picture adds, so that short and common captions win nothing."""
  unique = list(dict.fromkeys(text for texts in candidates for text in texts))
  prior = dict(zip(unique, text_log_p(model, unique)))
  return [s - np.array([prior[text] for text in texts]) for s, texts in zip(scores, candidates)]


def affordable(model: Any, examples: Examples, candidates: list[list[str]], most: int) -> int:
  """How many examples can be ranked within `most` tokens (a third more is counted for the pictures)."""
  if not candidates:
    return 0
  some = [len(model.text.encode(text)) + 2 for texts in candidates[:8] for text in texts]
  a_picture = np.mean(some) * len(candidates[0]) * 4 / 3
  return int(min(len(examples), max(1, most // a_picture)))
