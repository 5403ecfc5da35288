"""Parts -> arrays: ids, targets, positions and masks written out by hand."""
import numpy as np
import pytest

from unitok.objectives import OBJECTIVES
from unitok.objectives.codes import Codes
from unitok.sequence import FOREVER, Part, build, visible
from unitok.vocab import make_vocabulary

V = make_vocabulary({"text": 10, "image": 10}, {})
TEXT, IMAGE = 64, 74   # first ids
PAD, PLACE, EOS, BOI, EOI = (V.special(name) for name in ("[pad]", "[place]", "[eos]", "[boi]", "[eoi]"))
CAPTION = np.array([1, 2], np.int32)
PICTURE = np.array([[5, 6], [7, 8]], np.int32)
CODES = Codes((CAPTION,), PICTURE)


def document(name, codes=CODES):
  return build(OBJECTIVES[name](codes, np.random.default_rng(0), 0.0), V)


def mask(sequence):
  """Rows of "x" where token i sees token j."""
  seen = visible(sequence.order, sequence.visible_from, sequence.visible_until, np.ones(sequence.length, int))
  return ["".join(".x"[int(see)] for see in row) for row in seen]



def test_text():
  s = document("text")
  task = V.special("[text]")
  assert s.inputs.tolist() == [task, TEXT + 1, TEXT + 2]
  assert s.targets.tolist() == [TEXT + 1, TEXT + 2, EOS]
  assert s.loss_weights.tolist() == [1, 1, 1]
  assert s.positions.tolist() == [[0] * 3, [1] * 3, [2] * 3]
  assert mask(s) == ["x..", "xx.", "xxx"]
  assert s.ends.tolist() == [EOS] * 3 and s.fills.tolist() == [-1] * 3


def test_text_to_image():
  """[text_to_image] a b [boi] 5 6 7 (8 is predicted, never an input); a 2x2 picture at time 4."""
  s = document("text_to_image")
  task = V.special("[text_to_image]")
  assert s.inputs.tolist() == [task, TEXT + 1, TEXT + 2, BOI, IMAGE + 5, IMAGE + 6, IMAGE + 7]
  assert s.targets.tolist() == [TEXT + 1, TEXT + 2, BOI, IMAGE + 5, IMAGE + 6, IMAGE + 7, IMAGE + 8]
  assert s.loss_weights.tolist() == [0, 0, 0, 1, 1, 1, 1]
  assert s.positions.tolist() == [[0] * 3, [1] * 3, [2] * 3, [3] * 3, [4, 4, 4], [4, 4, 5], [4, 5, 4]]
  assert mask(s) == ["x......",
                     "xx.....",
                     "xxx....",
                     "xxxx...",
                     "xxxxx..",
                     "xxxxxx.",
                     "xxxxxxx"]


def test_image_to_text():
  """[image_to_text] [boi] 5 6 7 8 [eoi] a b: the codes see each other, the caption is causal."""
  s = document("image_to_text")
  task = V.special("[image_to_text]")
  assert s.inputs.tolist() == [task, BOI, IMAGE + 5, IMAGE + 6, IMAGE + 7, IMAGE + 8, EOI, TEXT + 1, TEXT + 2]
  assert s.targets.tolist() == [BOI, PAD, PAD, PAD, PAD, EOI, TEXT + 1, TEXT + 2, EOS]
  assert s.loss_weights.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1]
  assert s.positions[2:6].tolist() == [[2, 2, 2], [2, 2, 3], [2, 3, 2], [2, 3, 3]]
  assert s.positions[6:].tolist() == [[4] * 3, [5] * 3, [6] * 3]   # after max(height, width)
  assert mask(s) == ["x........",
                     "xx.......",
                     "xxxxxx...",
                     "xxxxxx...",
                     "xxxxxx...",
                     "xxxxxx...",
                     "xxxxxxx..",
                     "xxxxxxxx.",
                     "xxxxxxxxx"]


def test_infill():
  """Places 1 and 3 of a row of four are masked: kept 5 7, then [place] (6), [place] (8).

  [infill] a b [boi] 5 7 [place] 6 [place] | 8 is predicted by the last placeholder and no input.
  """
  parts = [Part("special", np.array([8], np.int32)), Part("text", CAPTION), Part("special", np.array([3], np.int32)),
           Part("image", PICTURE.reshape(1, 4), 1.0, np.array([[False, True, False, True]]))]
  s = build(parts, V)
  assert s.inputs.tolist() == [V.special("[infill]"), TEXT + 1, TEXT + 2, BOI, IMAGE + 5, IMAGE + 7, PLACE, IMAGE + 6, PLACE]
  assert s.targets.tolist() == [TEXT + 1, TEXT + 2, BOI, PAD, PAD, PAD, IMAGE + 6, PAD, IMAGE + 8]
  assert s.loss_weights.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 1]
  assert s.order.tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 7]
  assert s.visible_until.tolist() == [FOREVER] * 6 + [5, FOREVER, 7]
  assert s.positions[4:].tolist() == [[4, 4, 4], [4, 4, 6], [4, 4, 5], [4, 4, 5], [4, 4, 7]]   # in place
  assert mask(s) == ["x........",
                     "xx.......",
                     "xxx......",
                     "xxxx.....",
                     "xxxxxx...",
                     "xxxxxx...",
                     "xxxxxxx..",
                     "xxxxxx.x.",   # the first placeholder is gone
                     "xxxxxx.xx"]


def test_infill_run_in_one():
  """A run of two: its first code is asked for by the placeholder, its second by its first."""
  hole = np.array([[False, True], [True, False]])
  s = build([Part("image", PICTURE, 1.0, hole)], V)
  assert s.inputs.tolist() == [IMAGE + 5, IMAGE + 8, PLACE, IMAGE + 6]
  assert s.targets.tolist() == [PAD, PAD, IMAGE + 6, IMAGE + 7]
  assert mask(s) == ["xx..", "xx..", "xxx.", "xx.x"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_drawn_form_is_the_training_form(name):
  """With what carries loss replaced by -1 the same arrays come out, except the ids; `fills` tells where they go."""
  parts = OBJECTIVES[name](CODES, np.random.default_rng(0), 0.0)
  known = build(parts, V)
  drawn = build([part._replace(codes=np.where(part.hole if part.hole is not None else True, -1, part.codes))
                 if part.loss_weight else part for part in parts], V)
  for field in ("order", "visible_from", "visible_until", "positions", "loss_weights", "blocks", "ends"):
    assert np.array_equal(getattr(known, field), getattr(drawn, field)), field
  by = np.flatnonzero((drawn.fills >= 0) & (drawn.fills < FOREVER))
  assert np.array_equal(known.inputs[drawn.fills[by]], known.targets[by])
  asked = (drawn.fills >= 0)
  assert np.array_equal(asked, (known.loss_weights > 0) & (known.targets != EOS))


def test_padding_sees_and_is_seen_by_nothing():
  from unitok.sequence import PADDING
  order = np.array([0, 1, PADDING["order"]])
  seen = visible(order, np.array([0, 1, PADDING["visible_from"]]),
                 np.array([FOREVER, FOREVER, PADDING["visible_until"]]), np.array([1, 1, PADDING["segment_ids"]]))
  assert not seen[2].any() and not seen[:, 2].any()


def test_foreign_code():
  with pytest.raises(ValueError, match="block 'image': code 10 is not in 0 .. 9"):
    build([Part("image", np.array([[10]]))], V)
