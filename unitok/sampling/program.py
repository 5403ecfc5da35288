"""The compiled programs that draw: `begin` is one pass over the known prefix, `go_on` one loop, with keys and values cached.

All rows go on together, pass by pass, or each has a window of columns at a place of its own, or one pass is gone through
again and again (see `Strategy`).
"""
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unitok.config import Sampling
from unitok.models.rule import Rule
from unitok.sampling import rules
from unitok.sampling.guidance import guidance_of
from unitok.sampling.jacobi import prefix
from unitok.sampling.maskgit import regrouped, surest
from unitok.sampling.rows import Rows, Run
from unitok.sampling.settings import on


class Blocks(NamedTuple):
  """What the program knows of the vocabulary."""
  members: jax.Array      # bool[blocks+1 v]; the last row is block -1
  text: int               # its number, -1 without it
  image: int


class Shape(NamedTuple):
  """What programs are compiled for, beside the sides of their arrays."""
  prefix: int             # columns before those of the first pass
  runs: tuple[Run, ...]
  sampling: Sampling      # of `settings.split`
  ids: tuple[range, ...]  # what can be drawn, see `drawable`; () is the whole vocabulary
  bins: range | None      # the ids of boxes, where `rules.gathered` is needed for them
  windows: bool           # of the strategy; then there is one run, and the last `width` columns of the rows are spare
  chooses: bool           # of the strategy; then there are the columns of one pass


class Weights(NamedTuple):
  """Of one model, as a loop over tokens wants them."""
  params: Any
  layers: tuple           # as decoder.apart has them
  head: Any               # the columns of Shape.ids, None with the whole vocabulary


class State(NamedTuple):
  """Between two passes of `count` rows, or twice or three times as many where there is guidance."""
  at: jax.Array             # the column that the next pass begins at: i32[], or i32[count] of rows that go on apart
  ids: jax.Array            # [b n] known, drawn or guessed
  extra: Any
  alive: jax.Array          # i32[count n]: 0 where void
  drawn: jax.Array          # i32[count n]: -1 where nothing was
  more: Any                 # i32[count n G-1] further codes of a place; None at G = 1
  passes: jax.Array         # i32[count]: of each row, behind the first
  known: Any = None         # i32[count]: the last column with an id or a guess from the last pass; None without windows
  cache: Any = None
  turns: Any = None         # i32[count n]: the pass whose code stayed at a place, -1 none yet; None without choosing


def take(x, at, n: int):
  """Columns at .. at+n-1 of each [b c …]; at is a number, or one for each row of the first b/k, which repeat k times."""
  if jnp.ndim(at) == 0:
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, at, n, 1), x)
  one = jax.vmap(lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, n))
  return jax.tree.map(lambda a: one(jnp.asarray(a), jnp.tile(at, a.shape[0] // at.shape[0])), x)


def put(x, new, at):
  """x [b c …] with `new` [b n …] at columns at .. at+n-1, as `take` has them."""
  if jnp.ndim(at) == 0:
    return jax.lax.dynamic_update_slice_in_dim(x, new, at, 1)
  one = jax.vmap(lambda row, part, start: jax.lax.dynamic_update_slice_in_dim(row, part, start, 0))
  return one(x, new, jnp.tile(at, x.shape[0] // at.shape[0]))


def begin(language, blocks: Blocks, shape: Shape, weights: Weights, rows: Rows, settings: dict, numbers, seed,
          most) -> State:
  """The pass over the prefix, which draws too. settings: numbers of `settings.split`; most: columns of a window that are
  kept, at most."""
  return _passes(language, blocks, shape, 0, weights, rows, settings, numbers, seed, most)[0]()


def go_on(language, blocks: Blocks, shape: Shape, weights: Weights, rows: Rows, settings: dict, numbers, seed, most,
          state: State, passes) -> tuple[State, jax.Array]:
  """After so many passes or as many as are left; bool[]: are there more?"""
  counted = state, jnp.int32(0)
  for number, run in enumerate(shape.runs):
    _, one, unfinished = _passes(language, blocks, shape, number, weights, rows, settings, numbers, seed, most)
    if number or run.passes > 1 or len(shape.runs) == 1:        # else `begin` was all of it
      counted = jax.lax.while_loop(lambda x: (x[1] < passes) & unfinished(x[0], True).any(),
                                   lambda x: (one(x[0]), x[1] + 1), counted)
  return counted[0], unfinished(counted[0]).any()


def _passes(language, blocks: Blocks, shape: Shape, number: int, weights: Weights, rows: Rows, settings: dict, numbers, seed,
            most):
  """(() -> State behind the first pass, State -> State behind the next, (State, bool) -> bool[count]: is there one, in this
  run?) where passes are as in the run of this number.

  Columns that are void (alive 0) are seen by nobody, and what follows them is as near as if they were not there.
  """
  start, runs, sampling, some, bins, windows, chooses = shape
  sampling = dataclasses.replace(sampling, **settings)
  model, guidance = language.model(weights.params), guidance_of(sampling)
  drawable = np.concatenate([np.arange(r.start, r.stop) for r in some or (range(language.vocabulary_size),)])
  members = jnp.asarray(np.asarray(blocks.members)[:, drawable])
  bins = bins and range(*np.searchsorted(drawable, [bins.start, bins.stop]))
  all_rows, columns = rows.ids.shape
  count = numbers.shape[0]
  repeats = all_rows // count
  keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
  width, drawing, _ = runs[number]
  sides = [run.width for run in runs for _ in range(run.passes)]
  begins = np.append(np.arange(start), np.repeat(start + np.cumsum([0, *sides[:-1]]), sides))    # of each column's pass
  place, last = jnp.arange(columns), columns - width
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  every = lambda x: jnp.tile(x, (repeats, *[1] * (x.ndim - 1)))

  def extend(s: State, positions, cache, at, n, stop=columns):
    """The next n columns, which see none from `stop` on -> (hidden of those that are drawn from, cache)."""
    rule = Rule(*rows.rule)
    rule = rule._replace(segment_ids=rule.segment_ids * every(s.alive))
    if chooses:
      rule = regrouped(rule, rows.blocks >= 0, every(s.turns), every(s.passes))
    slots, of_slots = at if jnp.ndim(at) == 0 else every(at), lambda x: x[:, :stop]
    if rows.slots is not None and stop == columns:
      slots = rows.slots[at]
      of_slots = lambda x: put(x[:, rows.holds], take(x, at, n), slots)
    text = bias(s.ids)
    return model.extend(take(s.ids, at, n), positions, take(rule, at, n), cache, Rule(*map(of_slots, rule)), slots,
                        None if text is None else of_slots(text), take(s.extra, at, n), weights.layers, drawing)

  def bias(ids):
    """f32[b n] that text gets in a document whose picture is drawn (CogView2, 2204.14217), or None."""
    if not on(sampling, "text_attention"):
      return None
    drawn = (rows.blocks == blocks.image).any(1, keepdims=True)
    return jnp.where(blocks.members[blocks.text][ids] & drawn, sampling.text_attention, 0.0)

  def moved(at, alive):
    """Positions of the columns from `at` on, moved up by what is void before them."""
    void = ((every(alive) == 0) & rows.advances).astype(jnp.int32)
    return take(rows.positions, at, width) - take(jnp.cumsum(void, 1) - void, at, width)[..., None]

  def to_draw(at, alive):
    """bool[count]: is anything left to be drawn from `at` on?"""
    return ((rows.blocks[:count] >= 0) & (alive > 0) & (place >= at[..., None])).any(-1)

  def unfinished(s: State, here: bool = False):
    """bool[count]: is anything left to be drawn, and (here) the next pass one of this run?"""
    left = ((rows.blocks[:count] >= 0) & (s.turns < 0)).any(-1) if chooses else to_draw(s.at, s.alive)
    if not here or number == len(runs) - 1:
      return left
    return left & (s.at < start + sum(run.width * run.passes for run in runs[:number + 1]))

  def following(at, alive):
    """Where the next pass begins that is not void: of all rows together, or of each by itself, `last` at its end."""
    stands = rows.rule.segment_ids.reshape(repeats, count, -1) * alive > 0
    some = stands.any(0 if windows else (0, 1)) & (place >= at[..., None])
    first = jnp.where(some.any(-1), jnp.argmax(some, -1), columns)
    if windows:
      return jnp.where(to_draw(first, alive), first, last).astype(jnp.int32)
    return jnp.asarray(np.append(begins, columns), jnp.int32)[first]

  def guess(s: State) -> State:
    """With an id wherever one is asked for in the window: behind `known` that which stands `back` columns before it, or
    as many times as it takes to be known."""
    at, here = s.at, s.at[:, None] + jnp.arange(width)
    back, ahead = take(rows.back[:count], at, width), here - s.known[:, None]
    new = take(rows.asked[:count], at, width) & (ahead > 0)
    source = jnp.where(new, jnp.maximum(here + back * (-ahead // back), 0), here)
    copied = lambda x: x if x is None else jnp.where(
        every(new).reshape(all_rows, width, *[1] * (x.ndim - 2)),
        every(jax.vmap(lambda row, where: row[where])(x[:count], source)), take(x, at, width))
    return s._replace(ids=put(s.ids, copied(s.ids), at),
                      extra=None if s.extra is None else put(s.extra, copied(s.extra), at))

  def further(hidden, first, here, draw_keys, done):
    """i32[count drawing G-1]: the further codes of the places `here` whose first codes were drawn, -1 elsewhere."""
    codes = first[:, None]
    for book, ids in enumerate(language.further):
      logits = model.next_book(flat(hidden), flat(every(codes.reshape(count, drawing, -1))))
      logits = guidance(logits.reshape(all_rows, drawing, -1), done)
      keys = jax.vmap(lambda key: jax.random.fold_in(key, book))(draw_keys)
      plain = dataclasses.replace(sampling, repetition_penalty=1.0)
      choice = rules.draw(flat(logits), jnp.ones((), bool), keys, plain)
      codes = jnp.column_stack([codes, choice + ids.start])
    return jnp.where(here[:, None], codes[:, 1:], -1).reshape(count, drawing, -1)

  def seen_by(s: State, at):
    """bool[count*drawing k]: which of the drawable ids were drawn in the document before what each column draws."""
    if not on(sampling, "repetition_penalty"):
      return None
    size = language.vocabulary_size
    asked = rows.asked[:count] & (s.alive > 0)
    before = (s.turns >= 0 if chooses else asked & (place < at[..., None])).astype(jnp.int32)
    before = jnp.zeros((count, size), jnp.int32).at[jnp.arange(count)[:, None], s.ids[:count]].max(before)
    if chooses:
      return jnp.repeat(before[:, drawable] > 0, drawing, 0)
    window = take(asked, at, drawing)[..., None] & (take(s.ids[:count], at, drawing)[..., None] == drawable)
    return flat(jnp.cumsum(window, 1) + before[:, None, drawable] > 0)

  def draw(s: State, hidden) -> State:
    """With what the columns from `at` on ask for, given their last layer's output [b drawing w]."""
    at = s.at + width - drawing
    block, end, number = (flat(take(x[:count], at, drawing)) for x in (rows.blocks, rows.ends, rows.draws))
    in_rows, total = lambda x: x.reshape(count, drawing), (rows.blocks[:count] >= 0).sum(1, keepdims=True)
    before = (s.turns >= 0).sum(1, keepdims=True) + jnp.zeros_like(in_rows(number)) if chooses else in_rows(number)
    done = before / jnp.maximum(total, 1)
    if chooses:       # new noise each pass
      number = flat(in_rows(number) + total * s.passes[:, None])
    logits = guidance(model.logits(flat(hidden), weights.head).reshape(all_rows, drawing, -1), done)
    allowed = members[block] | ((drawable == end[:, None]) & (end >= 0)[:, None]) | (block < 0)[:, None]
    draw_keys = jax.vmap(jax.random.fold_in)(jnp.repeat(keys, drawing), number)
    column = rules.draw(flat(logits), allowed, draw_keys, sampling, bins, seen_by(s, at), jnp.uint32(drawable))
    choice = jnp.asarray(drawable, jnp.int32)[column]
    here = (block >= 0) & (flat(take(s.alive, at, drawing)) > 0)
    if chooses:
      here &= flat(take(s.turns, at, drawing)) < 0
    others = None if s.extra is None else further(hidden, choice, here & (block == blocks.image), draw_keys, done)
    if chooses:
      here = flat(stays(s, jnp.where(allowed, flat(logits), -jnp.inf), column, in_rows(here), draw_keys))
    choice, here, end = in_rows(choice), in_rows(here), in_rows(end)
    first, rest = (take(x[:count], at, drawing) for x in (rows.fills, rows.left))
    ends, kept, next_at = here & (choice == end), here, s.at + width
    if windows:
      stay = jnp.minimum(prefix(right(s, at, choice, others, ends & (first < rest))), most)
      kept, next_at = here & (jnp.arange(drawing) < stay[:, None]), at + stay
    target = lambda fills: jnp.where(every(here), at + jnp.arange(drawing) if chooses else take(fills, at, drawing), columns)
    where = target(rows.fills)
    row = jnp.arange(all_rows)[:, None]
    rest = (first[..., None] <= place) & (place < rest[..., None])
    void = (rest & (ends & kept)[..., None]).any(1)
    alive = jnp.where(void, 0, s.alive)
    filled = lambda x, new: x.at[row, where].set(every(new), mode="drop")
    if rows.also is not None:
      again = target(rows.also)
      filled = lambda x, new: x.at[row, where].set(every(new), mode="drop").at[row, again].set(every(new), mode="drop")
    turns = put(s.turns, jnp.where(kept, s.passes[:, None], take(s.turns, at, drawing)), at) if chooses else None
    s = s._replace(at=s.at if chooses else following(next_at, alive), alive=alive, ids=filled(s.ids, choice), turns=turns,
                   drawn=put(s.drawn, jnp.where(kept, choice, take(s.drawn, at, drawing)), at),
                   known=at + width if windows else None)
    if others is None:
      return s
    return s._replace(more=put(s.more, jnp.where(kept[..., None], others, take(s.more, at, drawing)), at),
                      extra=filled(s.extra, others))

  def stays(s: State, logits, choice, left, draw_keys):
    """bool[count drawing]: which of the places that are left have their code for good: those whose log p and noise, which
    falls to nothing, are largest. Of a place with several codes the first tells."""
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), choice[:, None], 1).reshape(count, drawing)
    known, now = rows.known[:count], s.passes[:, None]
    share = (now + 1) / (1 + (known < known[:, -1:]).sum(1, keepdims=True))
    noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, len(language.further))))(draw_keys)
    confidence = log_p + sampling.choice_temperature * (1 - share) * noise.reshape(count, drawing)
    wanted = jnp.take_along_axis(known, jnp.minimum(now, known.shape[1] - 1), 1)[:, 0]
    return surest(confidence, left, wanted - (s.turns >= 0).sum(1))

  def right(s: State, at, choice, others, closes):
    """bool[count drawing]: did a column have the id that was drawn before it, and was nothing closed there?"""
    same = take(s.ids[:count], at, drawing)[:, 1:] == choice[:, :-1]
    if others is not None:
      same &= (take(s.extra[:count], at, drawing)[:, 1:] == others[:, :-1]).all(-1)
    same = (same | ~take(rows.asked[:count], at, drawing)[:, 1:]) & ~closes[:, :-1]
    return jnp.pad(same, ((0, 0), (1, 0)), constant_values=True)

  def one(s: State) -> State:
    s = s._replace(passes=s.passes + unfinished(s))
    s = guess(s) if windows else s
    hidden, cache = extend(s, moved(s.at, s.alive), s.cache, s.at, width)
    return draw(s, hidden)._replace(cache=cache)

  def first() -> State:
    nothing = lambda x: jnp.full((count, *x.shape[1:]), -1, jnp.int32)
    at = jnp.full(count, start, jnp.int32) if windows else jnp.int32(start)
    s = State(at, jnp.asarray(rows.ids), jax.tree.map(jnp.asarray, rows.extra), jnp.ones((count, columns), jnp.int32),
              nothing(rows.ids), jax.tree.map(nothing, rows.extra), jnp.zeros(count, jnp.int32), at if windows else None,
              turns=nothing(rows.ids) if chooses else None)
    s = guess(s) if windows else s
    slots = columns if rows.holds is None else len(rows.holds)
    hidden, cache = extend(s, rows.positions[:, :start + width], model.empty_cache(all_rows, slots), 0, start + width,
                           start + width)
    return draw(s, hidden)._replace(cache=cache)

  return first, one, unfinished
