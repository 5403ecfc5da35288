"""What holds for every objective."""
import numpy as np
import pytest

from unitok.config import Objectives
from unitok.objectives import DRAWING, NEEDS, OBJECTIVES, drawing, possible
from unitok.objectives.codes import Codes
from unitok.objectives.glm import random_sentences, random_spans
from unitok.objectives.infill import HOLES
from unitok.objectives.parallel import SCHEDULES
from unitok.sequence import build, visible
from unitok.vocab import make_vocabulary

V = make_vocabulary({"text": 100, "image": 1000, "location": 1024, "size": 32}, {})


def distinct_codes(rng, grid=(4, 5), length=6):
  """Every code occurs once, so that a target can be found among the inputs."""
  cells = rng.permutation(1000).astype(np.int32)
  picture = cells[:grid[0] * grid[1]].reshape(grid)
  words, bins = rng.permutation(100).astype(np.int32), rng.permutation(1024).astype(np.int32)
  objects = tuple((words[20 + 3 * n:23 + 3 * n], bins[4 * n:4 * n + 4]) for n in range(3))
  questions = (words[40:45], words[50:52]), (words[46:49], words[55:58])
  pieces = (words[60:63], cells[500:510].reshape(2, 5), words[70:75], cells[600:606].reshape(3, 2))
  coarse = cells[700:700 + -(-grid[0] // 2) * -(-grid[1] // 2)].reshape(-(-grid[0] // 2), -1)
  return Codes((words[:length], words[10:13]), picture, objects=objects, questions=questions, pieces=pieces, coarse=coarse)


SETTINGS = {"plain": Objectives(), "framed": Objectives(size_tokens=True, row_ends=True, training_grid=3)}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_target_is_not_visible_to_its_predictor(name, settings):
  """loss weight > 0 => the target's own input token, if there is one, is not visible to its predictor."""
  found = 0
  for seed in range(20):
    rng = np.random.default_rng(seed)
    s = build(OBJECTIVES[name](distinct_codes(rng), rng, SETTINGS[settings]), V)
    seen = visible(s.order, s.visible_from, s.visible_until, np.ones(s.length, int))
    for i in np.flatnonzero((s.loss_weights > 0) & ~V.allowed("special")[s.targets]):
      own = np.flatnonzero(s.inputs == s.targets[i])
      assert len(own) <= 1
      assert not seen[i, own].any(), (name, seed, i)
      found += len(own)
  assert found


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_loss_counts_once(name, settings):
  """Nothing is learned twice, and what is learned is legal in the block it says."""
  for seed in range(20):
    rng = np.random.default_rng(seed)
    s = build(OBJECTIVES[name](distinct_codes(rng), rng, SETTINGS[settings]), V)
    at = np.flatnonzero(s.loss_weights)
    once = s.targets[at][~V.allowed("special")[s.targets[at]]]
    assert len(set(once)) == len(once) and len(at)
    for i in at:
      assert V.allowed(V.blocks[s.blocks[i]].name)[s.targets[i]] or s.targets[i] == s.ends[i]
    assert (s.order[1:] >= s.order[:-1]).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_a_placeholder_asks_for_stands_at_its_own_position(name):
  rng = np.random.default_rng(1)
  s = build(OBJECTIVES[name](distinct_codes(rng), rng, DRAWING), V)
  for i in np.flatnonzero(s.inputs == V.special("[place]")):
    own = np.flatnonzero(s.inputs == s.targets[i])
    assert all(np.array_equal(s.positions[i], s.positions[j]) for j in own)


def read_back(s) -> list[tuple[str, int]]:
  """(block, code) of all but control tokens and sizes, in the order of their positions; what is predicted and never an
  input stands where its placeholder does, or right behind its predictor."""
  tokens = [(*where, 0, id) for where, id in zip(s.positions.tolist(), s.inputs.tolist())]
  tokens += [(*s.positions[i].tolist(), 1, int(s.targets[i])) for i in np.flatnonzero(s.loss_weights)
             if s.targets[i] not in s.inputs]
  blocks = [(block, id) for *_, id in sorted(tokens) for block in ("text", "image", "location") if V.allowed(block)[id]]
  return [(block, int(V.to_codes(block, [id])[0])) for block, id in blocks]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_document_reads_back_as_its_codes(name, settings):
  """Ordered by position it is captions, pictures, names and boxes of the record, each whole, and nothing else; of what
  the objective needs there is all that it takes."""
  takes = {"text": 1, "image": 1, "coarse": 1, "objects": 3 * 2, "questions": 2, "pieces": 4}
  takes |= {"locate": {"objects": 2}, "glm_sentences": {"text": 2}}.get(name, {})
  for seed in range(20):
    rng = np.random.default_rng(seed)
    codes = distinct_codes(rng)
    arrays = [("text", "text", one) for one in codes.text]
    arrays += [(name, "image", getattr(codes, name)) for name in ("image", "coarse")]
    arrays += [("objects", block, one) for pair in codes.objects for block, one in zip(("text", "location"), pair)]
    arrays += [("questions", "text", one) for pair in codes.questions for one in pair]
    arrays += [("pieces", "image" if one.ndim == 2 else "text", one) for one in codes.pieces]
    wholes = {(block, int(one.flat[0])): (kind, [(block, code) for code in one.ravel().tolist()])
              for kind, block, one in arrays}
    left, kinds = read_back(build(OBJECTIVES[name](codes, rng, drawing(SETTINGS[settings])), V)), []
    while left:
      kind, whole = wholes.pop(left[0])
      assert left[:len(whole)] == whole, (name, seed, kind)
      left, kinds = left[len(whole):], [*kinds, kind]
    assert all(kinds.count(kind) == takes[kind] for kind in NEEDS[name])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_same_rng_same_parts(name):
  codes = distinct_codes(np.random.default_rng(0))
  one, two = (build(OBJECTIVES[name](codes, np.random.default_rng(3), Objectives(caption_drop=0.5)), V) for _ in range(2))
  assert all(np.array_equal(a, b) for a, b in zip(one, two))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_needs(name):
  """An objective runs with what it says it needs, and is not chosen without."""
  whole = distinct_codes(np.random.default_rng(0))
  least = Codes(**{kind: getattr(whole, kind) for kind in NEEDS[name]})
  assert possible(name, least) and possible(name, whole) and not possible(name, Codes())
  build(OBJECTIVES[name](least, np.random.default_rng(0), DRAWING), V)
  assert NEEDS.keys() == OBJECTIVES.keys()


def test_dropped_captions():
  """A dropped caption leaves no token; infill drops at least three in ten."""
  codes = distinct_codes(np.random.default_rng(0))
  def without(name, drop):
    rng, options = np.random.default_rng(0), Objectives(caption_drop=drop)
    return np.mean([sum(len(p.codes) for p in OBJECTIVES[name](codes, rng, options) if p.block == "text") == 0
                    for _ in range(500)])
  assert without("text_to_image", 0.0) == 0 and without("text_to_image", 1.0) == 1
  assert 0.05 < without("text_to_image", 0.1) < 0.15
  assert 0.24 < without("infill", 0.1) < 0.36
  assert without("image_to_text", 1.0) == without("text", 1.0) == 0


@pytest.mark.parametrize("name", HOLES)
def test_holes(name):
  """Something is masked and something kept, in any grid of two places or more."""
  for grid in ((2, 2), (8, 8), (3, 7), (1, 5), (16, 16)):
    for seed in range(100):
      hole = HOLES[name](grid, np.random.default_rng(seed), 0.1, 0.9)
      assert hole.shape == grid and 0 < hole.sum() < hole.size, (grid, seed)


def test_kinds_of_holes():
  """Patches are 4x4 squares of a 16x16 grid, halves reach from one side to a line; the shares are kept."""
  shares = []
  for seed in range(200):
    rng = np.random.default_rng(seed)
    hole = HOLES["patches"]((16, 16), rng, 0.25, 0.5)
    squares = hole.reshape(4, 4, 4, 4).transpose(0, 2, 1, 3).reshape(16, 16)
    assert (squares.all(1) | ~squares.any(1)).all() and 0.25 <= hole.mean() <= 0.5
    half = HOLES["halves"]((10, 10), rng, 0.2, 0.6)
    lines = half.all(0) if half.all(0).any() else half.all(1)
    assert half.sum() == 10 * lines.sum() and lines[0] != lines[-1] and np.count_nonzero(np.diff(lines.astype(int))) == 1
    shares.append(half.mean())
  assert min(shares) == 0.2 and max(shares) == 0.6
  kinds = Objectives(holes=dict(rectangles=0.0, patches=0.0, halves=1.0))
  codes = distinct_codes(np.random.default_rng(0), (6, 6))
  for seed in range(20):
    hole = OBJECTIVES["infill"](codes, np.random.default_rng(seed), kinds)[-1].hole
    assert hole.all(0).any() or hole.all(1).any()


def test_what_is_to_be_drawn_is_the_hole():
  codes = distinct_codes(np.random.default_rng(0))
  asked = codes._replace(image=np.where(np.arange(20).reshape(4, 5) == 7, -1, codes.image))
  parts = OBJECTIVES["infill"](asked, np.random.default_rng(0), Objectives(caption_drop=1.0))
  assert np.flatnonzero(parts[-1].hole).tolist() == [7] and parts[1].codes.size   # and the caption stays


def test_spans():
  """Blanks cover their share, Poisson lengths on the long run, never touch, and lie anywhere."""
  lengths, firsts, covered = [], [], []
  for seed in range(300):
    spans = random_spans(200, np.random.default_rng(seed), 0.15, 3.0)
    assert all(a[1] < b[0] for a, b in zip(spans, spans[1:])) and 0 <= spans[0][0] and spans[-1][1] <= 200
    lengths += [stop - start for start, stop in spans]
    firsts += [spans[0][0]]
    covered.append(sum(stop - start for start, stop in spans))
  assert min(covered) >= 30 and np.mean(covered) < 34
  assert abs(np.mean(lengths) - 3 / (1 - np.exp(-3))) < 0.1 and max(lengths) <= 39   # a zero is left out
  assert abs(np.mean(np.array(lengths) == 1) - 3 * np.exp(-3) / (1 - np.exp(-3))) < 0.02
  assert 0 in firsts and max(firsts) > 40
  for length in range(12):       # short texts
    for seed in range(30):
      spans = random_spans(length, np.random.default_rng(seed), 0.9, 3.0)
      assert bool(spans) == (length > 0) and all(0 <= a < b <= length for a, b in spans)
      assert all(a[1] < b[0] for a, b in zip(spans, spans[1:]))


@pytest.mark.parametrize("name", ["glm_spans", "glm_sentences"])
def test_order_of_blanks(name):
  """Shuffled: of a text's two blanks either comes first, in training and where they are to be drawn."""
  known, asked = np.arange(6, dtype=np.int32), np.array([-1, 1, -1, -1], np.int32)
  both = Codes((known[:3], known[3:4], known[4:])) if name == "glm_sentences" else Codes((known,))
  first = set()
  for seed in range(20):
    parts = lambda codes, options: OBJECTIVES[name](codes, np.random.default_rng(seed), options)
    drawn, trained = ([part.codes for part in some if part.loss_weight]
                      for some in (parts(Codes((asked,)), DRAWING), parts(both, Objectives(blank_share=0.6))))
    first |= {("drawn", len(drawn[0]))} | ({("trained", trained[0][0] < trained[1][0])} if len(trained) == 2 else set())
  assert first == {("drawn", 1), ("drawn", 2), ("trained", True), ("trained", False)}


def test_sentences():
  """The fewest of a random order that have the share, one at least left; each is drawn as often as the others."""
  sentences, found = [(0, 4), (4, 5), (5, 25), (25, 30)], []
  for seed in range(600):
    rng = np.random.default_rng(seed)
    some = random_sentences(sentences, rng, 0.15)
    lengths = [stop - start for start, stop in some]
    assert set(some) < set(sentences) and len(set(some)) == len(some)
    assert (sum(lengths) >= 4.5 or len(some) == 3) and sum(lengths[:-1]) < 4.5
    found.append(some[0])
    assert len(random_sentences(sentences, rng, 1.0)) == 3
  assert all(120 < found.count(one) < 180 for one in sentences)
  assert random_sentences([(0, 7)], rng, 0.15) == [(0, 7)] and random_sentences([], rng, 0.15) == []
  for seed in range(20):     # two: one of them, however long
    assert len(random_sentences([(0, 1), (1, 99)], np.random.default_rng(seed), 0.15)) == 1


def test_sentences_of_a_record():
  """Those of all its captions: cut where the record says, each a whole where it says nothing."""
  captions = np.arange(6, dtype=np.int32), np.arange(10, 13, dtype=np.int32)
  def blanked(**more):
    found = set()
    for seed in range(40):
      parts = OBJECTIVES["glm_sentences"](Codes(captions, **more), np.random.default_rng(seed), Objectives(blank_share=0.01))
      found |= {tuple(part.codes.tolist()) for part in parts if part.loss_weight}
    return found
  assert blanked() == {tuple(range(6)), (10, 11, 12)}
  assert blanked(sentences=(np.array([2, 3, 6]), np.array([3]))) == {(0, 1), (2,), (3, 4, 5), (10, 11, 12)}


@pytest.mark.parametrize("name", SCHEDULES)
def test_group_sizes(name):
  """Every group has a code, all codes are drawn; the cosine's groups grow from one code on."""
  for size in (1, 2, 7, 36, 64):
    for count in range(1, size + 1):
      sizes = SCHEDULES[name](size, count)
      assert len(sizes) == count and sizes.min() >= 1 and sizes.sum() == size, (size, count)
  assert SCHEDULES["uniform"](64, 8).tolist() == [8] * 8 and SCHEDULES["uniform"](7, 2).tolist() == [3, 4]
  known = np.cumsum(SCHEDULES["cosine"](64, 8))
  assert np.abs(known - 1 - 63 * (1 - np.cos(np.pi / 2 * np.arange(8) / 7))).max() <= 1
  assert SCHEDULES["cosine"](36, 5).tolist() == [1, 3, 7, 12, 13]


def test_orders_of_groups():
  """Between the least number of groups and one a code; the share of raster orders is the one asked for."""
  codes, options = distinct_codes(np.random.default_rng(0), (4, 4)), Objectives(raster_share=0.3, least_groups=2)
  counts, raster = [], 0
  for seed in range(400):
    groups = OBJECTIVES["parallel"](codes, np.random.default_rng(seed), options)[-1].groups.ravel()
    counts.append(groups.max() + 1)
    raster += bool((np.diff(groups) >= 0).all())
  assert min(counts) == 2 and max(counts) == 16 and 0.22 < raster / 400 < 0.38
  asked = codes._replace(groups=np.full((4, 4), 5))
  assert (OBJECTIVES["parallel"](asked, np.random.default_rng(0), options)[-1].groups == 5).all()


def test_parts_of_a_picture_in_detail():
  """Windows begin at even places and come with the coarse codes that cover them, at every second row and column."""
  codes, found = distinct_codes(np.random.default_rng(0), (6, 4)), set()
  for seed in range(40):
    s = build(OBJECTIVES["refine"](codes, np.random.default_rng(seed), Objectives(refine_window=2, caption_drop=1.0)), V)
    at = np.flatnonzero(s.loss_weights)
    where = dict(zip(V.to_codes("image", s.targets[at]).tolist(), (s.positions - s.positions[:, :1])[at, 1:].astype(int).tolist()))
    (row, column), = {(int(r) - where[code][0], int(c) - where[code][1]) for code in where for r, c in np.argwhere(codes.image == code)}
    assert len(where) == 4 and row % 2 == column % 2 == 0
    assert V.to_codes("image", s.inputs[2:3]).tolist() == [codes.coarse[row // 2, column // 2]]
    found.add((row, column))
  assert found == {(row, column) for row in (0, 2, 4) for column in (0, 2)}
  s = build(OBJECTIVES["refine"](codes, np.random.default_rng(0), DRAWING), V)
  coarse = np.flatnonzero(np.isin(s.inputs, V.to_ids("image", codes.coarse.ravel())))
  assert (s.positions - s.positions[:, :1])[coarse, 1:].tolist() == [[2 * r, 2 * c] for r in range(3) for c in range(2)]


def test_orders_of_a_pair():
  codes = distinct_codes(np.random.default_rng(0))
  def first(share, codes=codes):
    rng = np.random.default_rng(0)
    return np.mean([OBJECTIVES["pair"](codes, rng, Objectives(image_first=share))[1].block == "special"
                    for _ in range(300)])
  assert first(0.0) == 0 and first(1.0) == 1 and 0.2 < first(0.3) < 0.4
  assert first(0.0, codes._replace(text=(np.array([-1, -1]),))) == 1      # a caption is written behind its picture
  assert first(1.0, codes._replace(image=np.full((4, 5), -1))) == 0
