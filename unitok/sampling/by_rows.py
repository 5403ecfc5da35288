"""A row of a picture is begun before the row above has ended, and several go on in one pass (ZipAR, He 2024, 2412.04062).

A place is drawn behind the one left of it and behind `sampling.row_window` places of each row above, from the one above it
on. A token sees what it sees code by code, less what is not drawn yet: approximate, and any model will do. 3 x 6 places with
a window of 2, by the passes that draw them:

    0 1 2 3 4 5
    2 3 4 5 6 7
    4 5 6 7 8 9

The first code of a row is predicted by the last of the row above. Where that is not there yet a stand-in is: a token at its
position that sees what it would, with the code drawn last in its row, and is seen by nobody else. Row-end tokens are known,
and need none. Holes are drawn so, too: a run of places in a row waits until none of them comes too early.
"""
import numpy as np

from unitok.config import Sampling
from unitok.sampling.rows import places_of
from unitok.sampling.strategy import Placed, Strategy, first_drawn, one_by_one
from unitok.sequence import FOREVER, Sequence


def by_rows(d: Sequence, sampling: Sampling, image: int) -> Placed:
  """The picture of a document by rows, what is around it token by token. image: the number of its block.

  ValueError for two pictures to be drawn.
  """
  first, at = first_drawn(d), np.flatnonzero((d.fills >= 0) & (d.blocks == image))
  if not at.size:
    return Placed(d, one_by_one(d))
  inside = d.fills[at] < d.length
  tokens, time = np.where(inside, d.fills[at], at), d.positions[:, 0]
  if len(set(time[tokens])) > 1:
    raise ValueError("sampling.strategy: rows draws one picture of a document, and this has more; draw it by sequential or "
                     "jacobi")
  here = np.flatnonzero(time == time[tokens[0]])
  places = places_of(d.positions[here])[np.searchsorted(here, tokens)]
  places[:, 2] += ~inside & (d.inputs[at] < 0)        # the last is no token: it stands right of the one it is predicted by
  linked = np.append(False, d.fills[at[:-1]] == at[1:])
  drawn, begins = _passes(places[:, 1], places[:, 2], linked, sampling.row_window)
  drawn += at[0] - first
  of = np.full(d.length, -1)
  of[first:at[0]] = np.arange(at[0] - first)
  of[at] = drawn
  of[d.fills[at][inside]] = drawn[inside] + 1
  left = first + np.flatnonzero(of[first:] < 0)
  of[left] = of.max() + 1 + np.arange(len(left))
  early = np.flatnonzero(linked & (drawn <= np.append(-1, drawn[:-1])))
  if not early.size:
    return Placed(d, of[first:].astype(np.int32))
  latest = begins[early - 1] + drawn[early] - 1 - drawn[begins[early - 1]]
  return _with_stand_ins(d, of, at, early, np.minimum(latest, early - 1), drawn)


def _passes(row, column, linked, window: int) -> tuple[np.ndarray, np.ndarray]:
  """(pass of each draw, the draw that begins its run in a row) of places i[n] in raster order, from pass 0 on. linked:
  bool[n], is it predicted by the code before it? Such a row begins behind the first code of the run before."""
  begin = np.append(True, ~linked[1:] | (np.diff(row) != 0))
  starts = np.flatnonzero(begin)
  out, begins = np.zeros(len(row), int), starts[np.cumsum(begin) - 1]
  column = column - column.min()
  width = column.max() + 1
  window = min(window or -(-width // 2), width)
  latest, now = np.full(width, -1), None
  for run in np.split(np.arange(len(row)), starts[1:]):
    if row[run[0]] != now:
      now, above, least = row[run[0]], np.maximum.accumulate(latest), -1
    if linked[run[0]]:
      least = max(least, out[begins[run[0] - 1]])
    waits = above[np.minimum(column[run] + window, width) - 1] - np.arange(len(run))
    out[run] = max(least, waits.max()) + 1 + np.arange(len(run))
    latest[column[run]] = np.maximum(latest[column[run]], out[run])
    least = out[run[-1]]
  return out, begins


def _with_stand_ins(d: Sequence, of, at, early, copied, drawn) -> Placed:
  """With a token behind each predictor of the draws `early`, which draws in its place, and takes what the draw `copied`
  fills. Orders are doubled, so that there is one between two tokens."""
  ends = at[early]
  source = np.sort(np.append(np.arange(d.length), ends))
  number = np.searchsorted(source, np.arange(d.length))
  stand = number[ends] + 1
  fills = np.where((d.fills >= 0) & (d.fills < d.length), number[np.clip(d.fills, 0, d.length - 1)], d.fills)
  new = Sequence(*(None if field is None else field[source] for field in d._replace(
      fills=fills, order=2 * d.order, visible_from=2 * d.visible_from,
      visible_until=np.where(d.visible_until < FOREVER, 2 * d.visible_until, FOREVER))))
  new.fills[number[ends]] = new.blocks[number[ends]] = -1
  for field in (new.order, new.visible_from, new.visible_until):
    field[stand] = 2 * d.order[ends] - 1
  of = of[source]
  of[stand] = drawn[early]
  predictors = number[at]
  predictors[early] += 1
  also = np.full(len(source), -1)
  also[predictors[copied]] = stand
  return Placed(new, of[first_drawn(d):].astype(np.int32), also)


ROWS = Strategy(one_by_one, place=by_rows)
