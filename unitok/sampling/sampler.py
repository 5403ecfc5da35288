"""The compiled sampler: documents with unknown ids in, drawn ids out.

A document is an ordinary `sequence.build` of an objective's parts in which some codes are -1. Its known
prefix is computed in one pass; then one loop goes through its further tokens, each either known (a
placeholder) or drawn a moment ago, with keys and values cached. Only ids of the block asked for at a
place can be drawn, and the control token that closes a text where it may.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unitok.config import Sampling
from unitok.models.attention import Rule
from unitok.sampling import rules
from unitok.sequence import FOREVER, PADDING, Sequence
from unitok.vocab import Vocabulary


class Rows(NamedTuple):
  """Documents side by side: prefixes end at the same column, what is drawn follows. [b n] each."""
  ids: np.ndarray
  positions: np.ndarray       # [b n 3]
  rule: Rule
  blocks: np.ndarray          # of what is drawn at a column, -1 nothing
  ends: np.ndarray
  fills: np.ndarray           # column that takes what is drawn here; n: none does


def _up(n: int, step: int) -> int:
  return -(-n // step) * step


def lay_out(documents: list[Sequence], prefix: int, steps: int) -> Rows:
  """Rows of `prefix + steps` columns. Every document's first drawn column is prefix - 1."""
  n, b = prefix + steps, len(documents)
  fill = lambda name, value: np.full((b, n), value, np.int32)
  out = Rows(fill("ids", 0), np.zeros((b, n, documents[0].positions.shape[1]), np.int32),
             Rule(fill("o", PADDING["order"]), fill("f", PADDING["visible_from"]), fill("u", PADDING["visible_until"]),
                  fill("s", PADDING["segment_ids"])), fill("b", -1), fill("e", -1), fill("f", n))
  for row, d in enumerate(documents):
    at = prefix - 1 - int(np.flatnonzero(d.fills >= 0)[0])
    where = slice(at, at + d.length)
    out.ids[row, where], out.positions[row, where] = np.maximum(d.inputs, 0), d.positions
    out.rule.order[row, where], out.rule.visible_from[row, where] = d.order, d.visible_from
    out.rule.visible_until[row, where], out.rule.segment_ids[row, where] = d.visible_until, 1
    drawn = d.fills >= 0
    out.blocks[row, where] = np.where(drawn, d.blocks, -1)
    out.ends[row, where] = np.where(drawn, d.ends, -1)
    out.fills[row, where] = np.where(drawn & (d.fills < FOREVER), np.minimum(d.fills, n) + at, n)
  return out


class Sampler:
  """Draws with one set of weights. `language` is steps.Language, params its (averaged) weights."""

  def __init__(self, language, params, vocabulary: Vocabulary):
    self.language, self.params, self.vocabulary = language, params, vocabulary
    self.members = jnp.stack([vocabulary.allowed(b.name) for b in vocabulary.blocks]
                             + [jnp.zeros(vocabulary.size, bool)])       # the last row is block -1
    self._draw = jax.jit(self._draw_rows, static_argnames=("prefix", "sampling"))
    self._score = jax.jit(self._score_rows)

  def draw(self, documents: list[Sequence], sampling: Sampling, seed: int,
           nulls: list[Sequence] | None = None, first_row: int = 0) -> list[np.ndarray]:
    """The drawn ids of each document, in its own order of drawing (a text's end included).

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
    firsts = [int(np.flatnonzero(d.fills >= 0)[0]) for d in both]
    prefix = _up(max(firsts) + 1, 16)
    steps = _up(max(d.length - f for d, f in zip(both, firsts)), 8)
    rows = lay_out(both, prefix, steps)
    numbers = np.arange(first_row, first_row + padded, dtype=np.uint32)
    drawn = np.asarray(self._draw(self.params, rows, numbers, jnp.uint32(seed), prefix=prefix, sampling=sampling))
    out = []
    for row, d in enumerate(documents):
      ids = drawn[row][rows.blocks[row] >= 0]
      ended = np.flatnonzero(ids == rows.ends[row][rows.blocks[row] >= 0])
      out.append(ids[:ended[0] + 1] if ended.size else ids)
    return out

  def _draw_rows(self, params, rows: Rows, numbers, seed, *, prefix: int, sampling: Sampling):
    model = self.language.model(params)
    all_rows, columns = rows.ids.shape
    count = numbers.shape[0]
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
    last = jnp.where(rows.blocks >= 0, jnp.arange(columns), -1).max()
    take = lambda x, at, n: jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, at, n, 1), x)
    column = lambda x, at: take(x, at, 1)[:, 0]

    def extend(ids, cache, at, n):
      return model.extend(take(ids, at, n), take(rows.positions, at, n), take(Rule(*rows.rule), at, n),
                          cache, Rule(*rows.rule), at)

    hidden, cache = extend(rows.ids, model.empty_cache(all_rows, columns), 0, prefix)

    def going(state):
      at, done = state[0], state[1]
      return (at <= last) & ~done.all()

    def one(state):
      at, done, ids, drawn, hidden, cache = state
      logits = model.logits(hidden)
      if sampling.guidance_scale != 1.0:
        logits = rules.guide(logits[:count], logits[count:], sampling.guidance_scale)
      block, end = column(rows.blocks, at)[:count], column(rows.ends, at)[:count]
      allowed = self.members[block] | ((jnp.arange(logits.shape[-1]) == end[:, None]) & (end >= 0)[:, None])
      allowed = allowed | (block < 0)[:, None]
      step_keys = jax.vmap(lambda k: jax.random.fold_in(k, at - prefix))(keys)
      choice = rules.draw(logits, allowed, step_keys, sampling)
      choice = jnp.where(done & (end >= 0), end, choice)
      done = done | ((choice == end) & (end >= 0))
      here = block >= 0
      drawn = drawn.at[:, at].set(jnp.where(here, choice, -1))
      repeats = all_rows // count
      where = jnp.where(jnp.tile(here, repeats), column(rows.fills, at), columns)
      ids = ids.at[jnp.arange(all_rows), where].set(jnp.tile(choice, repeats), mode="drop")
      hidden, cache = extend(ids, cache, at + 1, 1)
      return at + 1, done, ids, drawn, hidden[:, 0], cache

    state = (jnp.int32(prefix - 1), jnp.zeros(count, bool), jnp.asarray(rows.ids),
             jnp.full((count, columns), -1, jnp.int32), hidden[:, -1], cache)
    return jax.lax.while_loop(going, one, state)[3]

  def log_likelihood(self, documents: list[Sequence], batch_size: int = 64) -> np.ndarray:
    """f32[n]: the sum of log p, nats, over each document's tokens with a loss weight."""
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
                ("inputs", "targets", "loss_weights", "order", "visible_from", "visible_until", "positions")}
      fields["segment_ids"] = (fields["order"] >= 0).astype(np.int32)
      out.append(np.asarray(self._score(self.params, fields)))
    return np.concatenate(out)[:len(documents)]

  def _score_rows(self, params, f):
    rule = Rule(f["order"], f["visible_from"], f["visible_until"], f["segment_ids"])
    logits = self.language.model(params)(f["inputs"], f["positions"], rule)
    log_p = jax.nn.log_softmax(logits, -1)
    picked = jnp.take_along_axis(log_p, f["targets"][..., None], -1)[..., 0]
    return jnp.where(f["loss_weights"] > 0, picked, 0.0).sum(-1)
