"""The compiled sampler: documents with unknown ids in, drawn ids out.

A document is an ordinary `sequence.build` of an objective's parts in which some codes are -1. Its known prefix, up to
what the first draw is from, is computed in one pass; then one loop goes through its further tokens, with keys and
values cached. A pass computes a token, or, where a document asks for groups of codes at once, the codes drawn last and
the placeholders that ask for the next. Only ids of the block asked for at a place can be drawn, and the control
token that closes a text where it may. Where a place of a picture has several codes, the further ones are drawn right
behind the first, in the order of their books, each from the ids of its own. What a closed text had left is void, and
what follows moves up; [eos] closes the document.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unitok.config import Sampling
from unitok.models.rule import Rule
from unitok.sampling import rules
from unitok.sequence import FOREVER, PADDING, Sequence
from unitok.vocab import Vocabulary


class Rows(NamedTuple):
  """Documents side by side in passes of `width` columns; what comes before the first stands before it. [b n] each."""
  ids: np.ndarray
  positions: np.ndarray       # [b n 3]
  rule: Rule
  blocks: np.ndarray          # of what is drawn at a column, -1 nothing
  ends: np.ndarray
  fills: np.ndarray           # column that takes what is drawn here; n: none does
  draws: np.ndarray           # number of the draw in its document
  left: np.ndarray            # where the end is drawn here, the columns from `fills` up to before this one are void
  advances: np.ndarray        # bool: time goes on by one with it
  extra: np.ndarray | None    # [b n G-1] ids of a place's further codes, -1 none; None at G = 1


def _up(n: int, step: int) -> int:
  return -(-n // step) * step


def first_drawn(d: Sequence) -> int:
  return int(np.flatnonzero(d.fills >= 0)[0])


def passes_of(d: Sequence, together: bool) -> np.ndarray:
  """i32[n]: the pass of each token from the first that is drawn from on.

  One by one, or, `together`, as early as its id is known: then tokens of one order, which see each other, share a pass.
  """
  first = first_drawn(d)
  if not together:
    return np.arange(d.length - first, dtype=np.int32)
  out = np.zeros(d.length - first, np.int32)
  needed = np.zeros(d.length, np.int32)
  for at in range(first, d.length):
    out[at - first] = max(needed[at], out[at - first - 1] if at > first else 0)
    if 0 <= d.fills[at] < d.length:
      needed[d.fills[at]] = out[at - first] + 1
  return out


def in_groups(d: Sequence) -> bool:
  """Is anything behind the prefix seen by a token before it?"""
  order = d.order[first_drawn(d):]
  return bool((order[1:] == order[:-1]).any())


def rest_of(d: Sequence) -> np.ndarray:
  """i32[l]: the first known token behind each."""
  known = np.append(np.flatnonzero(d.inputs >= 0), d.length)
  return known[np.searchsorted(known, np.arange(d.length), "right")]


def lay_out(documents: list[Sequence], prefix: int, passes: list[np.ndarray], width: int, count: int, eos: int) -> Rows:
  """Rows of `prefix + count * width` columns. The first token that is drawn from stands at column `prefix`."""
  n, b = prefix + count * width, len(documents)
  fill = lambda value: np.full((b, n), value, np.int32)
  extra = None if documents[0].extra_codes is None else np.full((b, n, documents[0].extra_codes.shape[1]), -1, np.int32)
  out = Rows(ids=fill(0), positions=np.zeros((b, n, documents[0].positions.shape[1]), np.float32),
             rule=Rule(*(fill(PADDING[name]) for name in Rule._fields)), blocks=fill(-1), ends=fill(-1), fills=fill(n),
             draws=fill(0), left=fill(0), advances=fill(0).astype(bool), extra=extra)
  for row, (d, of) in enumerate(zip(documents, passes)):
    first = first_drawn(d)
    within = np.arange(len(of)) - np.searchsorted(of, of)         # place of a token in its pass
    where = np.concatenate([np.arange(prefix - first, prefix), prefix + of * width + within])
    out.ids[row, where], out.positions[row, where] = np.maximum(d.inputs, 0), d.positions
    out.rule.order[row, where], out.rule.visible_from[row, where] = d.order, d.visible_from
    out.rule.visible_until[row, where], out.rule.segment_ids[row, where] = d.visible_until, 1
    drawn = d.fills >= 0
    out.blocks[row, where] = np.where(drawn, d.blocks, -1)
    out.ends[row, where] = np.where(drawn, d.ends, -1)
    out.fills[row, where] = np.where(drawn & (d.fills < d.length), where[np.minimum(d.fills, d.length - 1)], n)
    out.draws[row, where] = np.cumsum(drawn) - 1
    out.left[row, where] = np.where(d.ends == eos, n, np.append(where, n)[rest_of(d)])
    out.advances[row, where] = d.advances
    if extra is not None:
      extra[row, where] = d.extra_codes
  return out


class Sampler:
  """Draws with one set of weights. `language` is steps.Language, params its (averaged) weights."""

  def __init__(self, language, params, vocabulary: Vocabulary):
    self.language, self.params, self.vocabulary = language, params, vocabulary
    self.blocks = [b.name for b in vocabulary.blocks]
    self.image = self.blocks.index("image") if "image" in self.blocks else -1
    self.members = jnp.stack([vocabulary.allowed(b.name) for b in vocabulary.blocks]
                             + [jnp.zeros(vocabulary.size, bool)])       # the last row is block -1
    self.bins = vocabulary.block("location").ranges[0] if "location" in self.blocks else range(0)
    self._draw = jax.jit(self._draw_rows, static_argnames=("prefix", "width", "sampling", "bins"))
    self._score = jax.jit(self._score_rows)

  def draw(self, documents: list[Sequence], sampling: Sampling, seed: int,
           nulls: list[Sequence] | None = None, first_row: int = 0) -> list[np.ndarray]:
    """The drawn ids of each document, i32[n] in its own order of drawing (a text's end included); i32[n G] of one whose
    picture is drawn, where a place has G > 1 codes (-1 beside what is no place).

    nulls: the same documents without their condition, needed where guidance_scale is not 1. The random
    numbers depend on the seed, the row's number (first_row + its index) and the draw alone.
    """
    rules.check(sampling)
    if not documents:
      return []
    for d in documents:
      if not (d.fills >= 0).any():
        raise ValueError("nothing to draw: every code of the document is known; leave a part to be drawn")
    guided = sampling.guidance_scale != 1.0
    if guided and nulls is None:
      raise ValueError("sampling.guidance_scale: guidance needs the documents without their condition")
    count = len(documents)
    padded = 1 << (count - 1).bit_length()
    both = [*documents, *[documents[-1]] * (padded - count)]
    if guided:
      both += [*nulls, *[nulls[-1]] * (padded - count)]
    together = any(in_groups(d) for d in both)
    passes = [passes_of(d, together) for d in both]
    width = max(int(np.bincount(of).max()) for of in passes)
    prefix, steps = _up(max(map(first_drawn, both)), 16), _up(max(int(of[-1]) + 1 for of in passes), 8)
    rows = lay_out(both, prefix, passes, width, steps, self.vocabulary.special("[eos]"))
    numbers = np.arange(first_row, first_row + padded, dtype=np.uint32)
    boxes = self.bins and sampling.temperature == 0 and (rows.blocks == self.blocks.index("location")).any()
    drawn, further = jax.tree.map(np.asarray, self._draw(self.params, rows, numbers, jnp.uint32(seed), prefix=prefix,
                                                         width=width, sampling=sampling, bins=self.bins if boxes else None))
    out = []
    for row in range(count):
      here = (rows.blocks[row] >= 0) & (drawn[row] >= 0)
      of_picture = further is not None and (rows.blocks[row][here] == self.image).any()
      out.append(np.column_stack([drawn[row], further[row]])[here] if of_picture else drawn[row][here])
    return out

  def _draw_rows(self, params, rows: Rows, numbers, seed, *, prefix: int, width: int, sampling: Sampling,
                 bins: range | None):
    """i32[b n], and i32[b n G-1] or None: what was drawn at each column, and the further codes of a place; -1 where
    nothing was. bins: the ids of boxes, where `rules.gathered` is needed for them.

    Columns that are void (alive 0) are seen by nobody, and what follows them is as near as if they were not there.
    """
    model = self.language.model(params)
    all_rows, columns = rows.ids.shape
    count = numbers.shape[0]
    repeats = all_rows // count
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
    take = lambda x, at, n: jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, at, n, 1), x)
    flat = lambda x: x.reshape(-1, *x.shape[2:])

    def extend(ids, extra, positions, alive, cache, at, n):
      rule = Rule(*rows.rule)
      rule = rule._replace(segment_ids=rule.segment_ids * jnp.tile(alive, (repeats, 1)))
      return model.extend(take(ids, at, n), positions, take(rule, at, n), cache, rule, at, bias(ids),
                          take(extra, at, n))

    def bias(ids):
      """f32[b n] that text gets in a document whose picture is drawn (CogView2, 2204.14217), or None."""
      if not sampling.text_attention:
        return None
      drawn = (rows.blocks == self.image).any(1, keepdims=True)
      return jnp.where(self.members[self.blocks.index("text")][ids] & drawn, sampling.text_attention, 0.0)

    def moved(at, alive):
      """Positions of the columns from `at` on, moved up by what is void before them."""
      before = jnp.arange(columns) < at + jnp.arange(width)[:, None]
      void = ((jnp.tile(alive, (repeats, 1)) == 0) & rows.advances)[:, None] & before
      return take(rows.positions, at, width) - void.sum(-1, dtype=jnp.int32, keepdims=True)

    def following(at, alive):
      """The first pass from `at` on with a column that is not void in every row."""
      some = (rows.rule.segment_ids.reshape(repeats, count, -1) * alive > 0).any((0, 1)) & (jnp.arange(columns) >= at)
      first = jnp.where(some.any(), jnp.argmax(some), columns)
      return (first - (first - prefix) % width).astype(jnp.int32)

    def further(hidden, first, here, draw_keys):
      """i32[count width G-1]: the further codes of the places `here` whose first codes were drawn, -1 elsewhere."""
      codes = first[:, None]
      for book, ids in enumerate(self.language.further):
        logits = model.next_book(flat(hidden), flat(jnp.tile(codes.reshape(count, width, -1), (repeats, 1, 1))))
        logits = logits.reshape(all_rows, width, -1)
        if sampling.guidance_scale != 1.0:
          logits = rules.guide(logits[:count], logits[count:], sampling.guidance_scale)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, book))(draw_keys)
        choice = rules.draw(flat(logits[:count]), jnp.ones((), bool), keys, sampling)
        codes = jnp.column_stack([codes, choice + ids.start])
      return jnp.where(here[:, None], codes[:, 1:], -1).reshape(count, width, -1)

    def draw(at, hidden, ids, extra, alive, drawn, more):
      """What the columns from `at` on ask for, given their last layer's output [b width w]."""
      logits = model.logits(flat(hidden)).reshape(all_rows, width, -1)
      if sampling.guidance_scale != 1.0:
        logits = rules.guide(logits[:count], logits[count:], sampling.guidance_scale)
      block, end, number = (flat(take(x, at, width)[:count]) for x in (rows.blocks, rows.ends, rows.draws))
      allowed = self.members[block] | ((jnp.arange(logits.shape[-1]) == end[:, None]) & (end >= 0)[:, None])
      allowed = allowed | (block < 0)[:, None]
      draw_keys = jax.vmap(jax.random.fold_in)(jnp.repeat(keys, width), number)
      choice = rules.draw(flat(logits[:count]), allowed, draw_keys, sampling, bins)
      here = (block >= 0) & (flat(take(alive, at, width)) > 0)
      in_rows = lambda x: x.reshape(count, width)
      both = lambda x: jnp.tile(in_rows(x), (repeats, 1))
      drawn = jax.lax.dynamic_update_slice_in_dim(drawn, in_rows(jnp.where(here, choice, -1)), at, 1)
      where = jnp.where(both(here), take(rows.fills, at, width), columns)
      ids = ids.at[jnp.arange(all_rows)[:, None], where].set(both(choice), mode="drop")
      if extra is not None:
        others = further(hidden, choice, here & (block == self.image), draw_keys)
        more = jax.lax.dynamic_update_slice_in_dim(more, others, at, 1)
        extra = extra.at[jnp.arange(all_rows)[:, None], where].set(jnp.tile(others, (repeats, 1, 1)), mode="drop")
      first, last = (take(x, at, width)[:count, :, None] for x in (rows.fills, rows.left))
      rest = (first <= jnp.arange(columns)) & (jnp.arange(columns) < last)
      void = (rest & in_rows(here & (choice == end))[..., None]).any(1)
      return ids, extra, jnp.where(void, 0, alive), drawn, more

    def going(state):
      at, _, _, alive = state[:4]
      return ((rows.blocks[:count] >= 0) & (alive > 0) & (jnp.arange(columns) >= at)).any()

    def one(state):
      at, ids, extra, alive, drawn, more, cache = state
      hidden, cache = extend(ids, extra, moved(at, alive), alive, cache, at, width)
      ids, extra, alive, drawn, more = draw(at, hidden, ids, extra, alive, drawn, more)
      return following(at + width, alive), ids, extra, alive, drawn, more, cache

    nothing = lambda x: jnp.full((count, *x.shape[1:]), -1, jnp.int32)
    start = (jnp.asarray(rows.ids), jax.tree.map(jnp.asarray, rows.extra), jnp.ones((count, columns), jnp.int32),
             nothing(rows.ids), jax.tree.map(nothing, rows.extra))
    known = rows.positions[:, :prefix + width]
    hidden, cache = extend(*start[:2], known, start[2], model.empty_cache(all_rows, columns), 0, prefix + width)
    state = (jnp.int32(prefix + width), *draw(prefix, hidden[:, prefix:], *start), cache)
    return jax.lax.while_loop(going, one, state)[4:6]

  def log_likelihood(self, documents: list[Sequence], batch_size: int = 64) -> np.ndarray:
    """f32[n]: the sum of log p, nats, over each document's tokens with a loss weight, all codes of a place counted."""
    if not documents:
      return np.zeros(0, np.float32)
    length, out = _up(max(d.length for d in documents), 16), []
    for start in range(0, len(documents), batch_size):
      some = documents[start:start + batch_size]
      some = some + [some[-1]] * (batch_size - len(some))
      pad = lambda name, fill: np.stack([np.concatenate(
          [getattr(d, name), np.full((length - d.length, *getattr(d, name).shape[1:]), fill, getattr(d, name).dtype)])
          for d in some])
      fields = {n: pad(n, PADDING[n]) for n in
                ("inputs", "targets", "loss_weights", "order", "visible_from", "visible_until", "positions",
                 *(("extra_codes", "extra_targets") if self.language.further else ()))}
      fields["segment_ids"] = (fields["order"] >= 0).astype(np.int32)
      out.append(np.asarray(self._score(self.params, fields)))
    return np.concatenate(out)[:len(documents)]

  def _score_rows(self, params, f):
    return jnp.where(f["loss_weights"] > 0, self.language.log_p(params, f), 0.0).sum(-1)
