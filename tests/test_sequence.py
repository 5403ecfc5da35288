"""Parts -> arrays: ids, targets, positions and ends written out by hand; the objectives' masks are in test_forms."""
import numpy as np
import pytest

from unitok.config import Objectives
from unitok.objectives import DRAWING, OBJECTIVES
from unitok.objectives.codes import Codes
from unitok.objectives.glm import blanks
from unitok.sequence import FOREVER, Part, build, visible
from unitok.vocab import make_vocabulary

V = make_vocabulary({"text": 10, "image": 10, "location": 1024, "size": 16}, {})
TEXT, IMAGE = 64, 74   # first ids
PAD, PLACE, EOS, BOI, EOI = (V.special(name) for name in ("[pad]", "[place]", "[eos]", "[boi]", "[eoi]"))
CAPTION = np.array([1, 2], np.int32)
PICTURE = np.array([[5, 6], [7, 8]], np.int32)
BOXES = [np.array([0, 16, 32, 48], np.int32), np.array([512, 600, 700, 1023], np.int32)]
CODES = Codes((CAPTION,), PICTURE, objects=((np.array([3, 4], np.int32), BOXES[0]), (np.array([5], np.int32), BOXES[1])),
              questions=((np.array([6, 7], np.int32), np.array([8], np.int32)),), pieces=(CAPTION, PICTURE),
              coarse=PICTURE[:1, :1])
LOCATION, SIZE = 84, 84 + 1024
ROW = V.special("[row]")


def document_of(name, codes, seed, options):
  return build(OBJECTIVES[name](codes, np.random.default_rng(seed), options), V)


def document(name, codes=CODES, options=DRAWING):
  return document_of(name, codes, 0, options)


def mask(sequence):
  """Rows of "x" where token i sees token j."""
  seen = visible(sequence.order, sequence.visible_from, sequence.visible_until, np.ones(sequence.length, int))
  return ["".join(".x"[int(see)] for see in row) for row in seen]


def test_text():
  """Each token a step further, on all axes; [eos] may stand wherever a code is drawn."""
  s = document("text")
  assert s.inputs.tolist() == [V.special("[text]"), TEXT + 1, TEXT + 2]
  assert s.targets.tolist() == [TEXT + 1, TEXT + 2, EOS]
  assert s.positions.tolist() == [[0] * 3, [1] * 3, [2] * 3]
  assert s.ends.tolist() == [EOS] * 3 and s.fills.tolist() == [-1] * 3


def test_text_to_image():
  """[text_to_image] a b [boi] 5 6 7 (8 is predicted, never an input); a 2x2 picture at time 4."""
  s = document("text_to_image")
  assert s.inputs.tolist() == [V.special("[text_to_image]"), TEXT + 1, TEXT + 2, BOI, IMAGE + 5, IMAGE + 6, IMAGE + 7]
  assert s.targets.tolist() == [TEXT + 1, TEXT + 2, BOI, IMAGE + 5, IMAGE + 6, IMAGE + 7, IMAGE + 8]
  assert s.positions.tolist() == [[0] * 3, [1] * 3, [2] * 3, [3] * 3, [4, 4, 4], [4, 4, 5], [4, 5, 4]]


def test_image_to_text():
  """[image_to_text] [boi] 5 6 7 8 [eoi] a b: nothing follows a code of what is shown."""
  s = document("image_to_text")
  assert s.targets.tolist() == [BOI, PAD, PAD, PAD, PAD, EOI, TEXT + 1, TEXT + 2, EOS]
  assert s.positions[2:6].tolist() == [[2, 2, 2], [2, 2, 3], [2, 3, 2], [2, 3, 3]]
  assert s.positions[6:].tolist() == [[4] * 3, [5] * 3, [6] * 3]   # after max(height, width)


def test_infill():
  """Places 1 and 3 of a row of four are masked: kept 5 7, then [place] (6), [place] (8).

  a b 5 7 [place] 6 [place] | 8 is predicted by the last placeholder and no input.
  """
  hole = np.array([[False, True, False, True]])
  s = build([Part("text", CAPTION), Part("image", PICTURE.reshape(1, 4), 1.0, hole)], V)
  assert s.inputs.tolist() == [TEXT + 1, TEXT + 2, IMAGE + 5, IMAGE + 7, PLACE, IMAGE + 6, PLACE]
  assert s.targets.tolist() == [TEXT + 2, PAD, PAD, PAD, IMAGE + 6, PAD, IMAGE + 8]
  assert s.order.tolist() == [0, 1, 2, 2, 3, 4, 5]
  assert s.visible_until.tolist() == [FOREVER] * 4 + [3, FOREVER, 5]
  assert s.positions[2:].tolist() == [[2, 2, 2], [2, 2, 4], [2, 2, 3], [2, 2, 3], [2, 2, 5]]   # in place


def test_prefix_lm():
  """The cut is anywhere: two codes and the end are learned, one, the end alone."""
  assert {document_of("prefix_lm", CODES, seed, DRAWING).loss_weights.sum() for seed in range(30)} == {1, 2, 3}


def test_glm_spans():
  """The worked example of objectives/glm.py: blanks of a b c d e at b c and at e, the last one first."""
  a, b, c, d, e = (np.int32(TEXT + n) for n in range(5))
  task, gap, sop, eop = (V.special(name) for name in ("[glm_spans]", "[mask]", "[sop]", "[eop]"))
  control = Part("special", np.array([task], np.int32))
  s = build([control, *blanks(np.arange(5, dtype=np.int32), [(4, 5), (1, 3)], "[mask]")], V)
  assert s.inputs.tolist() == [task, a, gap, d, gap, sop, e, sop, b, c]
  assert s.targets[5:].tolist() == [e, eop, b, c, eop]
  one, two = s.positions[:, 0], s.positions[:, 1] - s.positions[:, 0]
  assert one.tolist() == [0, 1, 2, 3, 4, 4, 4, 2, 2, 2]
  assert two.tolist() == [0, 0, 0, 0, 0, 1, 2, 1, 2, 3] and np.array_equal(s.positions[:, 1], s.positions[:, 2])


def test_glm_document():
  """0 1 | 2 3: [gmask] stands at position 1 = 3, behind the prefix, for all that is written."""
  s = document("glm_document", Codes((np.array([0, 1, -1, -1], np.int32),)))
  task, gap, sop = (V.special(name) for name in ("[glm_document]", "[gmask]", "[sop]"))
  assert s.inputs.tolist() == [task, TEXT, TEXT + 1, gap, sop, -1, -1]
  assert s.targets[4:].tolist() == [-1, -1, V.special("[eop]")]
  assert s.positions[3:, 0].tolist() == [3, 3, 3, 3] and s.positions[3:, 1].tolist() == [3, 4, 5, 6]


def test_glm_beside_a_picture():
  """[boi] 5 6 7 8 [eoi] stand in front; their times count on."""
  s = document("glm_document", Codes((np.array([0, -1], np.int32),), PICTURE))
  assert s.inputs[1:7].tolist() == [BOI, IMAGE + 5, IMAGE + 6, IMAGE + 7, IMAGE + 8, EOI]
  assert s.positions[6:, 0].tolist() == [4, 5, 6, 6, 6] and s.positions[9:, 1].tolist() == [7, 8]   # eoi a gap | sop -1


def test_glm_sentences():
  """Three texts, "0 1", "2" and "3 4", without the last and the first: a blank each, [sep] between two texts."""
  s = build(blanks(np.arange(5, dtype=np.int32), [(3, 5), (0, 2)], "[smask]", [2, 3]), V)
  gap, sep, sop, eop = (V.special(name) for name in ("[smask]", "[sep]", "[sop]", "[eop]"))
  assert s.inputs.tolist() == [gap, sep, TEXT + 2, sep, gap, sop, TEXT + 3, TEXT + 4, sop, TEXT, TEXT + 1]
  assert s.targets[5:].tolist() == [TEXT + 3, TEXT + 4, eop, TEXT, TEXT + 1, eop]
  one, two = s.positions[:, 0], s.positions[:, 1] - s.positions[:, 0]
  assert one.tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 0, 0, 0]
  assert two.tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 1, 2, 3] and np.array_equal(s.positions[:, 1], s.positions[:, 2])


def test_glm_sentences_to_be_drawn():
  """Gaps at the end of one text and the beginning of the next are two; a text that is known stays whole."""
  asked = Codes((np.array([0, -1, -1], np.int32), np.array([-1], np.int32), np.array([3], np.int32)))
  s = document("glm_sentences", asked)
  gap, sep, sop = (V.special(name) for name in ("[smask]", "[sep]", "[sop]"))
  assert s.inputs[1:7].tolist() == [TEXT, gap, sep, gap, sep, TEXT + 3]
  assert s.inputs[7:].tolist() in ([sop, -1, -1, sop, -1], [sop, -1, sop, -1, -1]) and (s.fills >= 0).sum() == 3


def test_glm_limits():
  """All of it blank is the causal model, one token blank the cloze."""
  text = np.arange(4, dtype=np.int32)
  s = build(blanks(text, [(0, 4)], "[gmask]"), V)
  assert mask(s) == ["x" * n + "." * (s.length - n) for n in range(1, s.length + 1)]
  assert s.targets[1:].tolist() == [TEXT, TEXT + 1, TEXT + 2, TEXT + 3, V.special("[eop]")]
  s = build(blanks(text, [(2, 3)], "[mask]"), V)
  seen = dict(zip(s.targets[s.loss_weights > 0].tolist(), np.array(mask(s))[s.loss_weights > 0]))
  assert seen[TEXT + 2] == "xxxxx."     # 0 1 [mask] 3 [sop]: all of the others, nothing of itself


def test_parallel():
  """2x2 in groups {8}, {6, 7}, kept 5: [parallel] 1 2 [boi] 5 | [place of 8] 8 | [place of 6] [place of 7]."""
  s = document("parallel", CODES._replace(groups=np.array([[-1, 1], [1, 0]])))
  assert s.inputs.tolist() == [V.special("[parallel]"), TEXT + 1, TEXT + 2, BOI, IMAGE + 5, PLACE, IMAGE + 8, PLACE, PLACE]
  assert s.targets.tolist() == [TEXT + 1, TEXT + 2, BOI, PAD, PAD, IMAGE + 8, PAD, IMAGE + 6, IMAGE + 7]
  assert s.positions[4:].tolist() == [[4, 4, 4], [4, 5, 5], [4, 5, 5], [4, 4, 5], [4, 5, 4]]


def test_parallel_together():
  """The kept code, the token before it and the places of the first group see each other; the codes come after."""
  s = build([Part("text", CAPTION), Part("image", PICTURE, 1.0, groups=np.array([[-1, 0], [0, 1]]), together=True)], V)
  assert s.inputs.tolist() == [TEXT + 1, TEXT + 2, IMAGE + 5, PLACE, PLACE, IMAGE + 6, IMAGE + 7, PLACE]
  assert mask(s) == ["x.......", "xxxxx...", "xxxxx...", "xxxxx...", "xxxxx...",
                     "xxx..xx.", "xxx..xx.", "xxx..xxx"]


def test_parallel_in_raster_order_with_groups_of_one():
  """The ordinary factorisation: each code is predicted from those before it."""
  s = build([Part("image", PICTURE, 1.0, groups=np.arange(4).reshape(2, 2))], V)
  seen = visible(s.order, s.visible_from, s.visible_until, np.ones(s.length, int))
  for i in np.flatnonzero(s.loss_weights):
    wanted = [IMAGE + code for code in range(5, s.targets[i] - IMAGE)]
    assert [token for token in s.inputs[seen[i]] if token != PLACE] == wanted


def test_question():
  """[question] [boi] 5 6 7 8 [eoi] 6 7 [answer] 8; without a picture, the question alone."""
  s, task, answer = document("question"), V.special("[question]"), V.special("[answer]")
  assert s.targets[9:].tolist() == [TEXT + 8, EOS] and s.positions[2:10, 0].tolist() == [2, 2, 2, 2, 4, 5, 6, 7]
  about_nothing = document("question", CODES._replace(image=None))
  assert about_nothing.inputs.tolist() == [task, TEXT + 6, TEXT + 7, answer, TEXT + 8]


def test_detect():
  """[detect] [boi] 5 6 7 8 [eoi], then box name [sep] of each object in either order and [eos], all learned."""
  s = document("detect")
  sep, one, two = V.special("[sep]"), [LOCATION + n for n in BOXES[0]], [LOCATION + n for n in BOXES[1]]
  orders = [[*one, TEXT + 3, TEXT + 4, sep, *two, TEXT + 5, sep], [*two, TEXT + 5, sep, *one, TEXT + 3, TEXT + 4, sep]]
  assert s.inputs[7:].tolist() in orders and s.targets[6:].tolist() == [*s.inputs[7:].tolist(), EOS]
  seen = {tuple(document_of("detect", CODES, seed, DRAWING).inputs[7:]) for seed in range(20)}
  assert seen == set(map(tuple, orders))


def test_detect_to_be_drawn():
  """[eos] may stand where a box begins, [sep] where a name goes on; the time of all of it counts on."""
  unknown = (np.full(2, -1, np.int32), np.full(4, -1, np.int32))
  s = document("detect", CODES._replace(objects=(CODES.objects[1], unknown, unknown)))
  sep, known = V.special("[sep]"), [*(LOCATION + n for n in BOXES[1]), TEXT + 5, V.special("[sep]")]
  assert s.inputs[7:].tolist() == [*known, *[-1] * 6, sep, *[-1] * 6]
  assert s.ends[6:].tolist() == [EOS, -1, -1, -1, sep, sep] + [EOS, -1, -1, -1, sep, sep, sep] * 2
  assert s.advances.tolist() == [True] * 2 + [False] * 4 + [True] * (s.length - 6)      # a picture's codes share theirs
  assert document("glm_spans").advances.tolist()[-2:] == [False] * 2


def test_locate():
  """A name, which no other object has, and its box."""
  s = document("locate", CODES._replace(objects=(CODES.objects[1], CODES.objects[0], CODES.objects[1])))
  assert s.inputs[:9].tolist() == [V.special("[locate]"), BOI, *(IMAGE + n for n in (5, 6, 7, 8)), EOI, TEXT + 3, TEXT + 4]
  assert s.inputs[9:].tolist() == [V.special("[answer]"), *(LOCATION + n for n in BOXES[0][:3])]
  assert s.targets[9:].tolist() == [LOCATION + n for n in BOXES[0]]


def test_layout():
  """Boxes and names, then the picture; they may be dropped."""
  s = document("layout", CODES._replace(objects=CODES.objects[:1]))
  assert s.inputs.tolist() == [V.special("[layout]"), *(LOCATION + n for n in BOXES[0]), TEXT + 3, TEXT + 4, V.special("[sep]"), BOI,
                               IMAGE + 5, IMAGE + 6, IMAGE + 7]
  empty = document("layout", options=Objectives(caption_drop=1.0))
  assert empty.inputs[:2].tolist() == [V.special("[layout]"), BOI]


def test_several_questions():
  """One behind the other; those that are drawn in their order."""
  pairs = ((np.array([6], np.int32), np.array([8], np.int32)), (np.array([7], np.int32), np.array([9], np.int32)))
  codes, answer = CODES._replace(questions=pairs, image=PICTURE[:1]), V.special("[answer]")
  found = {document_of("question", codes, seed, Objectives(questions=2)).inputs.shape[0] for seed in range(20)}
  assert found == {8, 12}        # one question as often as two
  asked = codes._replace(questions=(pairs[0], (pairs[1][0], np.full(2, -1, np.int32))))
  s = document("question", asked)
  assert s.inputs.tolist() == [V.special("[question]"), BOI, IMAGE + 5, IMAGE + 6, EOI, TEXT + 6, answer, TEXT + 8, EOS,
                               TEXT + 7, answer, -1, -1]
  assert s.loss_weights.tolist() == [0] * 6 + [1, 1, 0, 0, 1, 1, 1] and s.fills.tolist()[-3:] == [11, 12, -1]


def test_interleaved():
  """A picture of one row, a text, another picture: all learned but [eoi], which must come."""
  pieces = (np.array([[5, 6]], np.int32), np.array([3], np.int32), np.array([[7], [8]], np.int32))
  s, sep = document("interleaved", CODES._replace(pieces=pieces)), V.special("[sep]")
  assert s.inputs.tolist() == [V.special("[interleaved]"), BOI, IMAGE + 5, IMAGE + 6, EOI, TEXT + 3, sep, BOI,
                               IMAGE + 7, IMAGE + 8, EOI]
  assert s.targets.tolist() == [*s.inputs.tolist()[1:], EOS]
  assert s.positions.tolist() == [[0] * 3, [1] * 3, [2, 2, 2], [2, 2, 3], [4] * 3, [5] * 3, [6] * 3, [7] * 3,
                                  [8, 8, 8], [8, 9, 8], [10] * 3]
  text = document("interleaved", CODES._replace(pieces=(pieces[0], np.array([-1, -1], np.int32))))
  assert text.inputs.tolist() == [V.special("[interleaved]"), BOI, IMAGE + 5, IMAGE + 6, EOI, -1, -1]
  assert text.fills.tolist() == [-1] * 4 + [5, 6, -1] and text.ends.tolist()[4:] == [sep] * 3
  picture = document("interleaved", CODES._replace(pieces=(CAPTION, np.full((2, 2), -1, np.int32))))
  assert picture.inputs.tolist() == [V.special("[interleaved]"), TEXT + 1, TEXT + 2, sep, BOI, -1, -1, -1]
  assert picture.fills.tolist() == [-1] * 4 + [5, 6, 7, FOREVER]


def test_sizes_and_row_ends():
  """[boi] 2 3 5 6 7 [row] 0 3 1 [row]: rows end at (t, t + row, t + 3), and the picture takes three steps of time."""
  codes = CODES._replace(image=np.array([[5, 6, 7], [0, 3, 1]], np.int32), text=(np.zeros(0, np.int32),))
  options = Objectives(caption_drop=0.0, size_tokens=True, row_ends=True, image_first=1.0)
  s = document("pair", codes, options)
  assert s.inputs.tolist() == [V.special("[pair]"), BOI, SIZE + 2, SIZE + 3, *(IMAGE + n for n in (5, 6, 7)), ROW,
                               *(IMAGE + n for n in (0, 3, 1)), ROW, EOI]
  assert s.targets.tolist() == [*s.inputs.tolist()[1:], EOS]
  assert s.loss_weights.tolist() == [1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1]
  assert s.positions[4:].tolist() == [[4, 4, 4], [4, 4, 5], [4, 4, 6], [4, 4, 7], [4, 5, 4], [4, 5, 5], [4, 5, 6],
                                      [4, 5, 7], [7, 7, 7]]
  drawn = document("pair", codes._replace(image=np.full((2, 3), -1, np.int32), text=(CAPTION,)), options)
  assert drawn.inputs.tolist()[-9:] == [SIZE + 2, SIZE + 3, -1, -1, -1, ROW, -1, -1, -1]      # a row's end is known
  at = np.flatnonzero(drawn.fills >= 0)
  assert drawn.fills[at].tolist() == np.flatnonzero(drawn.inputs < 0).tolist()
  assert drawn.targets[at].tolist() == [-1] * 6
  seen = document("image_to_text", codes, options)
  assert mask(seen)[4:12] == ["x" * 12 + "." * (seen.length - 12)] * 8      # as context they see each other, rows' ends too


def test_a_larger_picture_is_scaled_to_the_training_grid():
  """Four codes a side at the distances of two."""
  codes = CODES._replace(image=np.arange(8, dtype=np.int32).reshape(2, 4), text=(np.zeros(0, np.int32),))
  s = document("pair", codes, Objectives(training_grid=2, image_first=1.0))
  assert s.positions[2:6].tolist() == [[2, 2, 2], [2, 2, 2.5], [2, 2, 3], [2, 2, 3.5]]
  assert s.positions[6].tolist() == [2, 2.5, 2] and s.positions[-1].tolist() == [4, 4, 4]     # [eoi]: two steps later
  same = document("pair", codes, Objectives(training_grid=4, image_first=1.0))
  assert np.array_equal(same.positions, document("pair", codes, Objectives(image_first=1.0)).positions)


@pytest.mark.parametrize("part, says", [
    (Part("image", PICTURE, row_end="[row]", hole=np.eye(2, dtype=bool)), "rows that end in"),
    (Part("text", CAPTION, row_end="[row]"), "rows that end in"),
    (Part("image", PICTURE, scale=0.0), "scale 0.0 must be")])
def test_parts_that_make_no_sense(part, says):
  with pytest.raises(ValueError, match=f"part '{part.block}'.*{says}"):
    build([part], V)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_orders_begin_at_zero(name):
  """Padding alone has -1."""
  assert document(name).order[0] == 0


def test_hole_and_groups():
  with pytest.raises(ValueError, match="'image': has a hole and groups; give the groups alone"):
    build([Part("image", PICTURE, 1.0, np.ones((2, 2), bool), groups=np.zeros((2, 2), int))], V)


def test_padding_sees_and_is_seen_by_nothing():
  from unitok.sequence import PADDING
  order = np.array([0, 1, PADDING["order"]])
  seen = visible(order, np.array([0, 1, PADDING["visible_from"]]),
                 np.array([FOREVER, FOREVER, PADDING["visible_until"]]), np.array([1, 1, PADDING["segment_ids"]]))
  assert not seen[2].any() and not seen[:, 2].any()


def test_foreign_code():
  with pytest.raises(ValueError, match="block 'image': code 10 is not in 0 .. 9"):
    build([Part("image", np.array([[10]]))], V)
