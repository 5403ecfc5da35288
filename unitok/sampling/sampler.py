"""The compiled sampler: documents with unknown ids in, drawn ids out.

A document is an ordinary `sequence.build` of an objective's parts in which some codes are -1. Its known prefix, up to
what the first draw is from, is computed in one pass; then one loop goes through its further tokens, with keys and
values cached. A pass computes a token, or one of each of several rows of a picture, or, where a document asks for groups
of codes at once, the codes drawn last and the placeholders that ask for the next. Only ids of the block asked for at a
place can be drawn, and the control token that closes a text where it may. Where a place of a picture has several codes,
the further ones are drawn right behind the first, in the order of their books, each from the ids of its own. What a
closed text had left is void, and what follows moves up; [eos] closes the document.
"""
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unitok.config import Sampling
from unitok.models.decoder import apart, some_columns
from unitok.sampling import STRATEGIES, rules
from unitok.sampling.guidance import guidance_of
from unitok.sampling.maskgit import at_once, known_behind
from unitok.sampling.program import Blocks, Shape, State, Weights, begin, go_on
from unitok.sampling.rows import NEIGHBOURS, Rows, Run, in_slots, lay_out, runs_of
from unitok.sampling.settings import split
from unitok.sampling.strategy import Placed, Strategy, first_drawn, in_groups
from unitok.sequence import PADDING, Sequence
from unitok.vocab import Vocabulary


class Drawn(NamedTuple):
  """ids: of each document, as `Sampler.draw` gives them, up to the last one drawn, -1 where one before it is not yet;
  passes i32[n]: forward passes of each behind that over its prefix, which draws too."""
  ids: list[np.ndarray]
  passes: np.ndarray


class Watch(NamedTuple):
  """call(what is drawn so far), behind every so many passes."""
  call: Callable[..., None]
  every: int = 8


def _up(n: int, step: int) -> int:
  return -(-n // step) * step


def strategy_of(sampling: Sampling, documents: list[Sequence]) -> Strategy:
  """The one that is asked for, else that which the documents need. ValueError where it cannot draw one of them."""
  grouped = any(map(in_groups, documents))
  name = sampling.strategy or ("groups" if grouped else "sequential")
  strategy = STRATEGIES[name]
  if grouped and not strategy.grouped:
    raise ValueError(f"sampling.strategy: {name} draws code by code, and a document asks for groups of codes at once; "
                     "draw it by groups, or make it without groups")
  if strategy.chooses and sampling.passes < 1:
    raise ValueError(f"sampling.passes: {sampling.passes} must be 1 or more for the strategy {name}; give --passes")
  if sampling.row_window and name != "rows":
    raise ValueError(f"sampling.row_window: {sampling.row_window} must be 0 for {name}; it goes with rows")
  if strategy.chooses and not all(map(at_once, documents)):
    raise ValueError(f"sampling.strategy: {name} draws pictures whose codes are all asked for at once, and a document asks "
                     "for them in an order of its own; draw it by another strategy")
  return strategy


def drawable(rows: Rows, vocabulary: Vocabulary) -> tuple[range, ...]:
  """The ids that can be drawn in these rows, in their order; () where they are of several blocks and most of the vocabulary:
  then its head is not copied."""
  blocks, ends = (set(np.unique(x[rows.blocks >= 0]).tolist()) for x in (rows.blocks, rows.ends))
  some = {r for block in blocks for r in vocabulary.blocks[block].ranges}
  single = [range(end, end + 1) for end in ends if end >= 0 and not any(end in r for r in some)]
  out = tuple(sorted((*some, *single), key=lambda r: r.start))
  return out if len(blocks) == 1 or sum(map(len, out)) < 0.75 * vocabulary.size else ()


class Sampler:
  """Draws with one set of weights. `language` is steps.Language, params its (averaged) weights.

  The first drawing makes copies of the layers' weights and of the columns of the head that it needs; they stay until
  there are other params, or until `forget`.
  """

  def __init__(self, language, params, vocabulary: Vocabulary):
    self.language, self.params, self.vocabulary = language, params, vocabulary
    self.forget()
    self.blocks = [b.name for b in vocabulary.blocks]
    number = lambda name: self.blocks.index(name) if name in self.blocks else -1
    self.image = number("image")
    self.members = jnp.stack([vocabulary.allowed(b.name) for b in vocabulary.blocks]
                             + [jnp.zeros(vocabulary.size, bool)])       # the last row is block -1
    self.bins = vocabulary.block("location").ranges[0] if "location" in self.blocks else range(0)
    blocks = Blocks(self.members, number("text"), self.image)
    compiled = lambda function, **options: jax.jit(functools.partial(function, language, blocks), static_argnums=0, **options)
    self._begin, self._go_on = compiled(begin), compiled(go_on, donate_argnums=7)
    self._score, self._after = jax.jit(self._score_rows), jax.jit(language.after)
    self._apart, self._columns = jax.jit(apart), jax.jit(some_columns)
    self._eos = vocabulary.special("[eos]")

  def forget(self):
    """Frees the copies of weights."""
    self._of, self._layers, self._heads = None, None, {}

  def in_int8(self, matrices: bool = True, cache: bool = False) -> "Sampler":
    """One of the same weights, with these in int8; see `Language.in_int8`."""
    return Sampler(*self.language.in_int8(self.params, matrices, cache), self.vocabulary)

  def draw(self, documents: list[Sequence], sampling: Sampling, seed: int, nulls: list[Sequence] | None = None,
           first_row: int | np.ndarray = 0, empties: list[Sequence] | None = None,
           watch: Watch | None = None) -> list[np.ndarray]:
    """The drawn ids of each document, i32[n] in the order in which it asks for them (a text's end included); i32[n G] of
    one whose picture is drawn, where a place has G > 1 codes (-1 beside what is no place).

    nulls: the same documents without their text, needed where there is guidance; empties: without text and picture,
    where the picture guides too. The random numbers depend on the seed, the row's number (first_row + its index, or that of
    each document) and the draw alone. watch.call gets what is drawn so far, a `Drawn` of the first ids of each document,
    behind every `watch.every` passes; without it nothing comes to the host before all is drawn.
    """
    return self.run(documents, sampling, seed, nulls, first_row, empties, watch).ids

  def run(self, documents: list[Sequence], sampling: Sampling, seed: int, nulls: list[Sequence] | None = None,
          first_row: int | np.ndarray = 0, empties: list[Sequence] | None = None, watch: Watch | None = None) -> Drawn:
    """As `draw`, and how many passes it took."""
    rules.check(sampling)
    if not documents:
      return Drawn([], np.zeros(0, np.int32))
    for d in documents:
      if not (d.fills >= 0).any():
        raise ValueError("nothing to draw: every code of the document is known; leave a part to be drawn")
    needed = guidance_of(sampling).documents
    for number, name, other, what in ((2, "guidance_scale", nulls, "their condition"),
                                      (3, "image_guidance_scale", empties, "text and picture")):
      if needed >= number and other is None:
        raise ValueError(f"sampling.{name}: guidance needs the documents without {what}")
    count = len(documents)
    padded = 1 << (count - 1).bit_length()
    every = [d for some in (documents, nulls, empties)[:needed] for d in (*some, *[some[-1]] * (padded - count))]
    strategy = strategy_of(sampling, every)
    placed = [strategy.place(d, sampling, self.image) if strategy.place else Placed(d, strategy.passes(d)) for d in every]
    prefix = _up(max(map(first_drawn, every)), 16)
    window = (sampling.window or strategy.window) if strategy.window else 1
    grouped = any(map(in_groups, every))
    runs, behind = runs_of(placed, 1 if grouped else 8), ()
    if window > 1:
      behind = window, lambda d: NEIGHBOURS[sampling.guesses](d, self.image)
    rows = lay_out(placed, prefix, runs, self._eos, *behind)
    if grouped and not strategy.chooses:
      rows = in_slots(rows, prefix, runs)
    if strategy.chooses:
      rows = rows._replace(known=np.stack([known_behind(d, sampling, runs[0].width) for d in every]))
    numbers = first_row + np.arange(padded) if np.ndim(first_row) == 0 else np.resize(first_row, padded)
    boxes = self.bins and sampling.temperature == 0 and (rows.blocks == self.blocks.index("location")).any()
    ids = drawable(rows, self.vocabulary)
    compiled_for, settings = split(sampling)
    shape = Shape(prefix, (Run(window, window, 1),) if window > 1 else tuple(runs), compiled_for, ids,
                  self.bins if boxes else None, window > 1, strategy.chooses)
    given = shape, self._weights(ids), rows, settings, numbers.astype(np.uint32), jnp.uint32(seed), jnp.int32(strategy.most)
    state, left = self._begin(*given), True
    while left:
      if watch:
        watch.call(self._drawn(rows, state, count))
      state, left = self._go_on(*given, state, jnp.int32(watch.every if watch else rows.ids.shape[1]))
    return self._drawn(rows, state, count)

  def _weights(self, ids: tuple[range, ...]) -> Weights:
    if self._of is not self.params:
      self._of, self._layers, self._heads = self.params, self._apart(self.params["layers"]), {(): None}
    if ids not in self._heads:
      self._heads[ids] = self._columns(self.params["head"], np.concatenate([np.arange(r.start, r.stop) for r in ids]))
    return Weights(self.params, self._layers, self._heads[ids])

  def _drawn(self, rows: Rows, state: State, count: int) -> Drawn:
    """What the first `count` rows have so far."""
    drawn, further, taken, alive = jax.tree.map(np.asarray, (state.drawn, state.more, state.passes, state.alive))
    out = []
    for row in range(count):
      here = np.flatnonzero((rows.blocks[row] >= 0) & (alive[row] > 0))
      here = here[np.argsort(rows.draws[row][here], kind="stable")]
      here = here[:np.append(-1, np.flatnonzero(drawn[row][here] >= 0))[-1] + 1]
      of_picture = further is not None and (rows.blocks[row][here] == self.image).any()
      out.append(np.column_stack([drawn[row], further[row]])[here] if of_picture else drawn[row][here])
    return Drawn(out, taken[:count])

  def log_likelihood(self, documents: list[Sequence], batch_size: int = 64) -> np.ndarray:
    """f32[n]: the sum of log p, nats, over each document's tokens with a loss weight, all codes of a place counted."""
    return np.array([log_p.sum() for log_p in self.log_p(documents, batch_size)], np.float32)

  def log_p(self, documents: list[Sequence], batch_size: int = 64) -> list[np.ndarray]:
    """f32[l] of each document: log p, nats, of every token's target, all codes of a place counted; 0 without a loss
    weight."""
    out = [row for _, fields in self._batches(documents, batch_size) for row in np.asarray(self._score(self.params, fields))]
    return [log_p[:d.length] for d, log_p in zip(documents, out)]

  def after(self, documents: list[Sequence], batch_size: int = 64) -> list[np.ndarray]:
    """f32[v] of each document: the logits of what comes behind its last token."""
    out = [row for some, fields in self._batches(documents, batch_size)
           for row in np.asarray(self._after(self.params, fields, np.array([d.length - 1 for d in some])))]
    return out[:len(documents)]

  def _batches(self, documents: list[Sequence], batch_size: int) -> Iterator[tuple[list[Sequence], dict]]:
    """(documents, their fields of a Batch by name [b l]), the last ones again where there are too few."""
    length = _up(max((d.length for d in documents), default=0), 16)
    for start in range(0, len(documents), batch_size):
      some = documents[start:start + batch_size]
      some = some + [some[-1]] * (batch_size - len(some))
      pad = lambda name, fill: np.stack([np.concatenate(
          [getattr(d, name), np.full((length - d.length, *getattr(d, name).shape[1:]), fill, getattr(d, name).dtype)])
          for d in some])
      fields = {n: pad(n, PADDING[n]) for n in
                ("inputs", "targets", "loss_weights", "order", "visible_from", "visible_until", "positions",
                 *(("extra_codes", "extra_targets") if self.language.further else ()))}
      yield some, fields | {"segment_ids": (fields["order"] >= 0).astype(np.int32)}

  def _score_rows(self, params, f):
    return jnp.where(f["loss_weights"] > 0, self.language.log_p(params, f), 0.0)
