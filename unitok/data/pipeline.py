"""Code shards -> endless, shuffled, packed batches of the mixture of objectives.

A document is one record under one objective, chosen anew each epoch; everything random depends on (seed, epoch,
index) alone, so the iterator's state is a position: restoring it repeats no past batch (only the packing at hand).
"""
import functools
import math
from collections.abc import Sequence

import grain
import numpy as np

from unitok import config
from unitok.data.shards import LONGEST, CodeShards, most_tokens
from unitok.objectives import MOST_QUESTIONS, NEEDS, OBJECTIVES, check, possible
from unitok.objectives.codes import Codes
from unitok.sequence import AXES, PADDING, Batch, build
from unitok.sequence import Sequence as Document
from unitok.vocab import Vocabulary

COLUMNS = ("inputs", "targets", "order", "visible_from", "visible_until", "tasks", "loss_weights")
"""A document is packed as one i32[l 7+AXES+2(G-1)] array: these, the positions, and where a picture's place has G > 1
codes, those beyond the first, as inputs and as targets; weights and positions as float32's bits."""
FIXED = len(COLUMNS) + AXES
BINS = 64
"""Rows packed at a time, at least. More leave less padding (of scenes in rows of 256: 32 4.7 %, 64 4.2 %, 256 3.6 %)
and are more to pack anew when a position is restored (64: a tenth of a second)."""
TRIES = 256
"""Documents of each objective built at the start: random holes make some longer than others."""
DRAWS = 16
"""Times a document is drawn until it fits its row. Where none of the TRIES was too long, more than 3 % of the draws
hardly are (that would be a case in 2,000), so sixteen in a row with a chance of 1e-24."""


def task_names(decoder: config.Decoder, vocabulary: Vocabulary) -> list[str]:
  """"objective/block" of every target that carries loss, in the order of OBJECTIVES; `Batch.tasks` are its indices."""
  names = []
  for objective in mixture(decoder):
    example = largest(dict.fromkeys(LONGEST, 1), (4, 4), [[1], [4, 4]], coarse=True)
    parts = OBJECTIVES[objective](example, np.random.default_rng(0), decoder.objectives)
    names += dict.fromkeys(f"{objective}/{part.block}" for part in parts if part.loss_weight > 0)
  for name in names:
    vocabulary.block(name.split("/")[1])
  return names


def mixture(decoder: config.Decoder) -> dict[str, float]:
  """Objective -> weight above 0, in the order of OBJECTIVES. ValueError for an unknown one, or bad weights."""
  check(decoder.objectives)
  for field, least in (("tasks", 0.0), ("loss_weights", 1e-6)):
    for name, weight in getattr(decoder, field).items():
      if name not in OBJECTIVES:
        raise ValueError(f"decoder.{field}: no objective {name!r}; legal: {', '.join(OBJECTIVES)}")
      if not least <= weight < np.inf:
        raise ValueError(f"decoder.{field}: the weight of {name} is {weight}, must be a number from {least:g} on")
  weights = {name: float(decoder.tasks[name]) for name in OBJECTIVES if decoder.tasks.get(name)}
  if not weights:
    raise ValueError(f"decoder.tasks: no weight is above 0; give one of {', '.join(OBJECTIVES)} a weight")
  return weights


def batches(shards: CodeShards | Sequence[CodeShards], vocabulary: Vocabulary, decoder: config.Decoder, seed: int,
            batch_size: int | None = None, epochs: int | None = None, rows: np.ndarray | None = None):
  """An iterator of `Batch`, [batch_size row_length] each; batch_size defaults to decoder.train's. rows: numbers of the
  rows of each batch that are wanted, rising; all where left out.

  It is endless, or, with `epochs`, gives each record so often and fills the last batch with rows of padding.
  `get_state()` and `set_state()` continue with exactly the same batches. A thread prepares some ahead; `close()` ends
  it. ValueError: shards of other tokenizers than the vocabulary's, no record for any objective, an illegal mixture,
  a document longer than decoder.row_length, pictures of several grids without size tokens, or a grid larger than
  decoder.grid_embedding (the longest caption and the largest grid are tried at once).
  """
  shards = [shards] if isinstance(shards, CodeShards) else list(shards)
  examples, documents = _Examples(shards, vocabulary, mixture(decoder)), _Documents(vocabulary, decoder)
  if not 0 < decoder.temperature < math.inf:
    raise ValueError(f"decoder.temperature: {decoder.temperature} must be a number above 0")
  if 0 < decoder.grid_embedding < max(examples.grid):
    height, width = examples.grid
    raise ValueError(f"decoder.grid_embedding is {decoder.grid_embedding}, the pictures have up to {height} x {width} "
                     f"codes; raise it to {max(height, width)} or more, or take 0 for none")
  if len(examples.grids) > 1 and not decoder.objectives.size_tokens:
    grids = ", ".join(f"{height} x {width}" for height, width in examples.grids)
    raise ValueError(f"decoder.objectives.size_tokens is False, but the pictures have grids of {grids} codes; switch it "
                     "on in a new workdir, so that each says which it has, or give data.sizes one size")
  documents.try_longest(examples)
  batch_size, parts = batch_size or decoder.train.batch_size, decoder.readers if epochs is None else 1
  if parts < 1 or batch_size % parts:
    raise ValueError(f"decoder.readers: {parts} do not divide the {batch_size} rows of a batch; take one of "
                     f"{', '.join(str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)}")
  shuffled = lambda some: grain.MapDataset.source(some).seed(seed).shuffle().repeat(epochs)
  dataset = shuffled(examples)
  if len(shards) > 1 and decoder.temperature != 1 and epochs is None:
    sets = [_Examples([one], vocabulary, mixture(decoder)) for one in shards]
    dataset = grain.MapDataset.mix([shuffled(one) for one in sets], shares([len(one) for one in sets], decoder.temperature))
    dataset = dataset.seed(seed)
  dataset, each = dataset.random_map(documents), batch_size // parts
  pack = functools.partial(_packed, row_length=decoder.row_length, columns=FIXED + 2 * len(vocabulary.further),
                           seed=seed, batch_size=each)
  if parts == 1 and (rows is None or len(rows) == batch_size):
    return pack(dataset)
  return _Parts(lambda part: pack(dataset[part::parts] if parts > 1 else dataset), parts, each,
                np.arange(batch_size) if rows is None else np.asarray(rows))


def _packed(dataset: grain.MapDataset, row_length: int, columns: int, seed: int,
            batch_size: int) -> grain.DatasetIterator:
  """Documents -> an iterator of batches."""
  rows = -(-BINS // batch_size)   # batches packed at a time
  dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
  dataset = grain.experimental.FirstFitPackIterDataset(
      dataset, length_struct={"tokens": row_length}, padding_struct={"tokens": padding(columns)},
      num_packing_bins=rows * batch_size, seed=seed, shuffle_bins=True)
  dataset = dataset.batch(batch_size, batch_fn=functools.partial(to_batch, batch_size))
  return iter(grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=max(rows, 2)))


class _Parts:
  """Some rows of batches of which `count` iterators give `each` rows; those that give none of them are not read."""

  def __init__(self, iterator, count: int, each: int, rows: np.ndarray):
    numbers, self.count = np.unique(rows // each), count
    self.iterators = {int(part): iterator(int(part)) for part in numbers}
    self.rows = np.searchsorted(numbers, rows // each) * each + rows % each

  def __iter__(self):
    return self

  def __next__(self) -> Batch:
    found = [next(iterator) for iterator in self.iterators.values()]
    return Batch(*(None if some[0] is None else np.concatenate(some)[self.rows] for some in zip(*found)))

  def get_state(self) -> dict:
    """That of a single iterator as it is; of several, those read here by their numbers."""
    states = {str(part): iterator.get_state() for part, iterator in self.iterators.items()}
    return states if self.count > 1 else states["0"]

  def set_state(self, state: dict) -> None:
    for part, iterator in self.iterators.items():
      iterator.set_state(state[str(part)] if self.count > 1 else state)

  def close(self) -> None:
    for iterator in self.iterators.values():
      iterator.close()


def shares(sizes: list[int], temperature: float) -> list[float]:
  """The share of each set in a mixture (multilingual BERT's and T5's temperature): sizes^(1/temperature), normed."""
  weights = np.array(sizes, float) ** (1 / temperature)
  return (weights / weights.sum()).tolist()


def padding(count: int) -> np.ndarray:
  """i32[count]: the columns of padding."""
  first = [*(PADDING[name] for name in COLUMNS), *[PADDING["positions"]] * AXES]
  return np.array([*first, *[PADDING["extra_codes"]] * (count - FIXED)], np.int32)


def to_batch(batch_size: int, rows: list[dict[str, np.ndarray]]) -> Batch:
  """Packed rows of columns and their segment ids -> Batch, with rows of padding up to batch_size."""
  tokens = np.empty((batch_size, *rows[0]["tokens"].shape), np.int32)
  tokens[:] = padding(tokens.shape[-1])
  segment_ids = np.full(tokens.shape[:2], PADDING["segment_ids"], np.int32)
  for n, row in enumerate(rows):
    tokens[n], segment_ids[n] = row["tokens"], row["tokens_segment_ids"]
  columns = {name: np.ascontiguousarray(tokens[..., n]) for n, name in enumerate(COLUMNS)}
  columns["loss_weights"] = columns["loss_weights"].view(np.float32)
  positions = np.ascontiguousarray(tokens[..., len(COLUMNS):FIXED]).view(np.float32)
  further = np.split(tokens[..., FIXED:], 2, -1)
  extra = [np.ascontiguousarray(some) if some.shape[-1] else None for some in further]
  return Batch(**columns, segment_ids=segment_ids, positions=positions, extra_codes=extra[0], extra_targets=extra[1])


def to_columns(document: Document, tasks: np.ndarray) -> np.ndarray:
  """A document's columns and the task of each of its targets."""
  extra = [some for some in (document.extra_codes, document.extra_targets) if some is not None]
  columns = np.empty((document.length, FIXED + sum(some.shape[1] for some in extra)), np.int32)
  fields = document._asdict() | {"tasks": tasks, "loss_weights": document.loss_weights.view(np.int32)}
  for n, name in enumerate(COLUMNS):
    columns[:, n] = fields[name]
  columns[:, len(COLUMNS):FIXED] = document.positions.view(np.int32)
  if extra:
    columns[:, FIXED:] = np.concatenate(extra, 1)
  return columns


class _Examples:
  """The records of several folders of shards, one after another."""

  def __init__(self, shards: list[CodeShards], vocabulary: Vocabulary, weights: dict[str, float]):
    for one in shards:
      for name, fingerprint in one.fingerprints.items():
        if vocabulary.fingerprints.get(name) != fingerprint:
          raise ValueError(f"{one.folder}: its codes were made by the {name} tokenizer {fingerprint}, the vocabulary's "
                           f"is {vocabulary.fingerprints.get(name)}; encode again with this run's tokenizers")
    manifests = [one.manifest for one in shards]
    usable = sum(_usable(m, NEEDS[name]) for m in manifests for name in weights)
    if not usable:
      raise ValueError(f"{', '.join(str(one.folder) for one in shards) or 'shards'}: no record can be used by "
                       f"{', '.join(weights)}; add captions to the pictures, or change decoder.tasks")
    self.shards = shards
    self.longest = {name: max(m[name] for m in manifests) for name in LONGEST}
    self.grid = tuple(max(m["grid"][axis] for m in manifests) for axis in (0, 1))
    self.grids = sorted({tuple(grid) for m in manifests for grid in m["grids"]})
    self.coarse = any(m["with_coarse"] for m in manifests)
    self.pieces = max((m["longest_pieces"] for m in manifests), key=most_tokens)
    self.ends = np.cumsum([len(one) for one in shards])

  def __len__(self) -> int:
    return int(self.ends[-1])

  def __getitem__(self, index: int) -> Codes:
    number = int(np.searchsorted(self.ends, index, "right"))
    return self.shards[number][index - (int(self.ends[number - 1]) if number else 0)]


class _Documents:
  """Codes -> one document's columns, under an objective drawn among those that its record allows."""

  def __init__(self, vocabulary: Vocabulary, decoder: config.Decoder):
    self.vocabulary, self.decoder, self.weights = vocabulary, decoder, mixture(decoder)
    names = task_names(decoder, vocabulary)
    blocks = [block.name for block in vocabulary.blocks]
    # of each objective: the task of a target by its block; the last place is for "predicts nothing" (-1)
    self.tasks = {name: np.array([names.index(f"{name}/{b}") if f"{name}/{b}" in names else 0 for b in blocks] + [0],
                                 np.int32) for name in self.weights}

  def __call__(self, codes: Codes, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    names = [name for name in self.weights if possible(name, codes)]
    if not names:
      return None   # passed over
    weights = np.cumsum([self.weights[name] for name in names])
    name = names[int(np.searchsorted(weights, rng.random() * weights[-1], "right"))]
    return {"tokens": self.document(name, codes, rng)}

  def document(self, name: str, codes: Codes, rng: np.random.Generator) -> np.ndarray:
    """Its columns. One that chance made too long is drawn again, from the same stream. ValueError where all are."""
    for _ in range(DRAWS):
      document = self.draw(name, codes, rng)
      if document.length <= self.decoder.row_length:
        return to_columns(document, self.tasks[name][document.blocks])
    raise self.too_long(name, codes, document.length)

  def draw(self, name: str, codes: Codes, rng: np.random.Generator) -> Document:
    document = build(OBJECTIVES[name](codes, rng, self.decoder.objectives), self.vocabulary)
    weight = np.float32(self.decoder.loss_weights.get(name, 1.0))
    if self.decoder.weigh_by == "document":
      weight /= max(document.loss_weights.sum(), np.float32(1e-9))
    return document._replace(loss_weights=document.loss_weights * weight)

  def too_long(self, name: str, codes: Codes, length: int) -> ValueError:
    return ValueError(f"{codes.key}: its {name} document has {length} tokens, decoder.row_length is "
                      f"{self.decoder.row_length}; raise it to {length} or more, or shorten the captions")

  def try_longest(self, examples: _Examples) -> None:
    """ValueError, with the length that is enough, where the longest caption or largest picture makes one too long."""
    grid = max(examples.grids, key=math.prod, default=(0, 0))
    codes = largest(examples.longest, grid, examples.pieces, self.vocabulary.books, examples.coarse)
    for name in self.weights:
      if possible(name, codes):
        longest = max(self.draw(name, codes, np.random.default_rng(seed)).length for seed in range(TRIES))
        if longest > self.decoder.row_length:
          raise self.too_long(name, codes, longest)


def _usable(manifest: dict, needs: tuple[str, ...]) -> int:
  """Records that have all an objective needs, at most."""
  return manifest["with_both"] if needs == ("image", "text") else min(manifest[f"with_{kind}"] for kind in needs)


def largest(longest: dict[str, int], grid: tuple[int, int], pieces: list[list[int]] = (), books: int = 1,
            coarse: bool = False) -> Codes:
  """Zeros of the largest form a record may have; nothing where there is none. longest, pieces: as a manifest has them;
  books: codes that a place of a picture has; coarse: is there one of half its sides, too?"""
  zeros = lambda name: np.zeros(longest[name], np.int32)
  objects = ((zeros("longest_name"), np.zeros(4, np.int32)),) * longest["most_objects"]
  question = (zeros("longest_question"), zeros("longest_answer"))
  questions = (question,) * MOST_QUESTIONS if longest["longest_answer"] else ()
  text, sentences = (), ()
  if most := longest["longest_text"]:
    # as few captions as have that many codes together; the first has all the sentences but one for each other
    rest = max(longest["longest_texts"] - most, 0)
    others = -(-rest // (most + 1))
    lengths = [most, *((rest - others + n) // others for n in range(others))]
    text = tuple(np.zeros(n, np.int32) for n in lengths)
    first = np.append(np.arange(1, min(longest["most_sentences"] - others, most)), most)
    sentences = (first, *(np.array([n]) for n in lengths[1:]))
  picture = lambda *grid: np.zeros(grid if books == 1 else (*grid, books), np.int32) if all(grid) else None
  return Codes(text, picture(*grid), "the record with the longest caption",
               coarse=picture(*(-(-side // 2) for side in grid)) if coarse else None,
               objects=objects, questions=questions, sentences=sentences,
               pieces=tuple(np.zeros(sides, np.int32) for sides in pieces))
