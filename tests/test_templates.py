"""The templates of published systems: ids, weights, visibility and positions written out from the facts about each
system (their papers and published code), not from our code."""
import inspect
import json

import numpy as np
import pytest

from unitok import cli
from unitok.sequence import FOREVER, Part, build, visible
from unitok.templates import TEMPLATES, document, example
from unitok.templates.template import picture
from unitok.vocab import Vocabulary

FORMS = [(name, form) for name, template in TEMPLATES.items() for form in template.forms]
CAPTION, LINE = np.array([5, 6], np.int32), dict(on_grid=False)
PICTURE = np.array([[17, 3, 90], [2, 8000, 41]], np.int32)
FLAT = PICTURE.ravel().tolist()


def mask(s):
  return visible(s.order, s.visible_from, s.visible_until, np.ones(s.length, int))


def predicted(s):
  """The documents' targets in the row's order, and their weights: what is learned, and with what weight."""
  return s.targets.tolist(), s.loss_weights.tolist()


def is_causal(s):
  return np.array_equal(mask(s), np.tri(s.length, dtype=bool))


def is_line(s):
  """Every token at its index, on all axes."""
  return np.array_equal(s.positions, np.repeat(np.arange(s.length)[:, None], 3, 1))


def plain(s, ids, weights):
  """A causal document: the inputs are all ids but the last, the targets all but the first; weights of the targets."""
  assert s.inputs.tolist() == ids[:-1]
  assert s.targets.tolist() == ids[1:]
  assert s.loss_weights.tolist() == pytest.approx(weights)
  assert is_causal(s)


def by_position(s):
  """(inputs, targets, weights, mask) in the order of the system's row; of documents whose positions count along it."""
  order = np.argsort(s.positions[:, 0], kind="stable")
  return s.inputs[order].tolist(), s.targets[order].tolist(), s.loss_weights[order].tolist(), mask(s)[order][:, order]


# ---- vocabularies


SIZES = {      # (all ids, picture's codes)
    "cogview": (8192 + 50000 + 27, 8192), "cogview2": (150000 + 3, 20000), "glm": (50257 + 8, None), "chameleon": (65536, 8192),
    "lumina_mgpt": (65536, 8192), "lwm": (32000 + 8448, 8192), "emu3": (184622, 32768), "show_o": (50295 + 10 + 8192 + 1, 8192)}


@pytest.mark.parametrize("name", TEMPLATES)
def test_vocabularies(name):
  """Blocks are disjoint and cover every id; codes and ids are inverses; a manifest keeps it all."""
  v = TEMPLATES[name].vocabulary
  size, codes = SIZES[name]
  assert v.size == size and (codes is None or v.block("image").size == codes)
  seen = np.concatenate([v.to_ids(b.name, np.arange(b.size)) for b in v.blocks])
  assert np.array_equal(np.sort(seen), np.arange(size))
  for b in v.blocks:
    assert np.array_equal(v.to_codes(b.name, v.to_ids(b.name, np.arange(b.size))), np.arange(b.size))
  assert v.block("special").size == len(v.controls) == len(set(v.controls))
  assert [v.name(v.special(token)) for token in v.controls] == list(v.controls)
  again = Vocabulary.from_json(json.loads(json.dumps(v.to_json())))
  assert again == v and again.fingerprint == v.fingerprint


@pytest.mark.parametrize("name, ids", [
    ("cogview", {"[PAD]": 58192, "[BOI1]": 58193, "[EOI1]": 58196, "[ROI1]": 58199, "[ROI2]": 58200, "[TINY]": 58206,
                 "[BASE]": 58208, "[BIG]": 58209, "[POS0]": 58210, "[POS8]": 58218}),
    ("cogview2", {"<start_of_image>": 150000, "<start_of_english>": 150001, "<start_of_chinese>": 150002}),
    ("glm", {"<|endoftext|>": 50256, "[sop]": 50257, "[eop]": 50258, "[CLS]": 50259, "[MASK]": 50260, "[gMASK]": 50263,
             "[sMASK]": 50264}),
    ("chameleon", {"<s>": 0, "[eoi]": 8196, "[boi]": 8197, "[end_of_turn]": 8710}),
    ("lumina_mgpt", {"<s>": 0, "[eoi]": 8196, "[boi]": 8197, "[end_of_turn]": 8710, "[new_line]": 8803, "[size 16]": 8820,
                     "[size 24]": 8828}),
    ("lwm", {"<s>": 1, "</s>": 2, "<eof>": 32000 + 8192, "<eov>": 32000 + 8193}),
    ("emu3", {"<|endoftext|>": 151643, "[eol]": 151846, "[eof]": 151847, "[BOS]": 151849, "[EOS]": 151850, "[img]": 151851,
              "[boi]": 151852, "[eoi]": 151853}),
    ("show_o", {"<|endoftext|>": 50256, "[PAD]": 50295, "<soi>": 50296, "<eoi>": 50297, "<t2i>": 50300, "<mmu>": 50301,
                "[place]": 58497})])
def test_control_tokens(name, ids):
  v = TEMPLATES[name].vocabulary
  assert {token: v.special(token) for token in ids} == ids


@pytest.mark.parametrize("name, first", [("cogview", 0), ("cogview2", 0), ("chameleon", 4), ("lumina_mgpt", 4), ("lwm", 32000),
                                         ("emu3", 151854), ("show_o", 50305)])
def test_picture_codes(name, first):
  v = TEMPLATES[name].vocabulary
  last = v.block("image").size - 1
  assert v.to_ids("image", [0, 17, last]).tolist() == [first, first + 17, first + last]


def test_text_codes():
  """Where control tokens or a picture's codes lie among the text's ids, its codes step over them."""
  assert TEMPLATES["cogview"].vocabulary.to_ids("text", [0, 49999]).tolist() == [8192, 58191]
  assert TEMPLATES["emu3"].vocabulary.to_ids("text", [0, 151642]).tolist() == [0, 151642]
  assert TEMPLATES["chameleon"].vocabulary.to_codes("text", [8198, 8709, 8711, 65535]).tolist() == [0, 511, 512, 57336]
  assert TEMPLATES["show_o"].vocabulary.to_codes("text", [50255, 50257, 50294]).tolist() == [50255, 50256, 50293]
  assert TEMPLATES["lwm"].vocabulary.to_codes("text", [3, 31999]).tolist() == [0, 31996]
  for name, not_text in (("chameleon", 4), ("chameleon", 8197), ("show_o", 50256), ("lumina_mgpt", 8803), ("lwm", 2)):
    with pytest.raises(ValueError, match=f"block 'text': id {not_text} is not one of its"):
      TEMPLATES[name].vocabulary.to_codes("text", [not_text])


# ---- CogView: [ROI1] text [BASE] [BOI1] image [EOI1]; commands from 58192 in the order of the paper's appendix


COMMANDS = ("[PAD] [BOI1] [BOI2] [BOI3] [EOI1] [EOI2] [EOI3] [ROI1] [ROI2] [ROI3] [SEP] [MASK] [CLS] [ENC] [TINY] [SMALL] "
            "[BASE] [BIG] [POS0] [POS1] [POS2] [POS3] [POS4] [POS5] [POS6] [POS7] [POS8]").split()
COGVIEW = {name: 58192 + n for n, name in enumerate(COMMANDS)}


def square(side, seed=0):
  return np.random.default_rng(seed).integers(0, 8192, (side, side), np.int32)


@pytest.mark.parametrize("side, size", [(8, "[TINY]"), (16, "[SMALL]"), (32, "[BASE]")])
def test_cogview_text_to_image(side, size):
  image = square(side)
  ids = [COGVIEW["[ROI1]"], 8192 + 5, 8192 + 6, COGVIEW[size], COGVIEW["[BOI1]"], *image.ravel().tolist(), COGVIEW["[EOI1]"]]
  plain(document("cogview", text=CAPTION, image=image), ids, [1] * (len(ids) - 1))
  assert is_line(document("cogview", text=CAPTION, image=image, **LINE))


def test_cogview_image_to_text():
  image = square(32)
  ids = [COGVIEW["[BASE]"], COGVIEW["[BOI1]"], *image.ravel().tolist(), COGVIEW["[EOI1]"], COGVIEW["[ROI1]"], 8197, 8198]
  plain(document("cogview", "image_to_text", text=CAPTION, image=image), ids, [1] * (len(ids) - 1))


def test_cogview_super_resolution():
  """… [ROI2] [POS0] [BASE] [BOI2] image; its own positions begin again at [ROI2]."""
  image, larger = square(8), square(8, 1)
  first = [COGVIEW["[ROI1]"], 8197, 8198, COGVIEW["[TINY]"], COGVIEW["[BOI1]"], *image.ravel().tolist(), COGVIEW["[EOI1]"]]
  ids = [*first, COGVIEW["[ROI2]"], COGVIEW["[POS0]"], COGVIEW["[TINY]"], COGVIEW["[BOI2]"], *larger.ravel().tolist(),
         COGVIEW["[EOI2]"]]
  given = dict(text=CAPTION, image=image, larger=larger)
  plain(document("cogview", "super_resolution", **given), ids, [1] * (len(ids) - 1))
  s = document("cogview", "super_resolution", **given, **LINE)
  assert s.inputs.tolist() == ids[:-1]
  assert s.positions[:, 2].tolist() == [*range(len(first)), *range(4 + 64)]
  drawn = document("cogview", "super_resolution", text=CAPTION, image=image, place=8)
  assert drawn.inputs.tolist() == [*first, COGVIEW["[ROI2]"], COGVIEW["[POS8]"], *ids[len(first) + 2:len(first) + 4], *[-1] * 64]


# ---- CogView2: text seen both ways, <start_of_image>, image causal; positions 0 .. and 512 ..


def test_cogview2_text_to_image():
  given = dict(text=CAPTION, image=PICTURE)
  s = document("cogview2", **given, **LINE)
  assert s.inputs.tolist() == [20005, 20006, 150000, *FLAT[:-1]]
  assert s.targets[2:].tolist() == FLAT and s.loss_weights.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
  wanted = np.tri(8, dtype=bool)
  wanted[0, 1] = True          # the text's two tokens see each other, and not what follows
  assert np.array_equal(mask(s), wanted)
  assert s.positions[:, 0].tolist() == [0, 1, 512, 513, 514, 515, 516, 517]
  assert (s.positions == s.positions[:, :1]).all()
  ours = document("cogview2", **given)
  assert ours.positions[2:].tolist() == [[2, 2, 2], [3, 3, 3], [3, 3, 4], [3, 3, 5], [3, 4, 3], [3, 4, 4]]
  assert np.array_equal(mask(ours), wanted)


def test_cogview2_image_to_text():
  """Its row is <start> text picture: the text sees all of the picture, the picture nothing of the text; two masked runs
  of a 2x4 grid, 1 2 and 5 6: kept codes see the kept ones, masked ones also those masked before; 1 predicts 2, 5 predicts
  6, nothing predicts 1 and 5."""
  image = np.arange(100, 108, dtype=np.int32).reshape(2, 4)
  hole = np.array([[0, 1, 1, 0], [0, 1, 1, 0]], bool)
  s = document("cogview2", "image_to_text", text=CAPTION, image=image, hole=hole, **LINE)
  inputs, targets, weights, seen = by_position(s)
  assert inputs == [150001, 20005, *range(100, 108)]         # the last piece of text is predicted and no input
  assert weights == [1, 1, 0, 1, 0, 0, 0, 1, 0, 0]
  assert (targets[0], targets[1], targets[3], targets[7]) == (20005, 20006, 102, 106)
  wanted = np.zeros((10, 10), bool)
  wanted[:2, :2] = np.tri(2)
  wanted[:2, 2:] = True
  wanted[2:, 2:] = ~hole.ravel()
  wanted[2:, 2:] |= np.tri(8, dtype=bool) & hole.ravel() & hole.ravel()[:, None]
  assert np.array_equal(seen, wanted)
  assert sorted(s.positions[:, 0].tolist()) == [0, 1, *range(513, 521)]
  assert document("cogview2", "image_to_text", text=np.array([83823 - 20000]), image=image).inputs[-1] == 150002
  ours = document("cogview2", "image_to_text", text=CAPTION, image=image, hole=hole)
  assert np.array_equal(mask(ours), mask(s)) and np.array_equal(ours.inputs, s.inputs)
  assert ours.positions[:4].tolist() == [[0, 0, 0], [0, 0, 3], [0, 1, 0], [0, 1, 3]]
  assert ours.positions[8:].tolist() == [[4] * 3, [5] * 3]   # behind max(2, 4)


# ---- GLM: [CLS] corrupted text <|endoftext|>, then [sop] span and the label [eop]; two positions


def test_glm_spans():
  """a b c d e with blanks b c and e, written in the other order; position 1 is our time, position 2 is added to it."""
  text = np.array([10, 11, 12, 13, 14], np.int32)
  s = document("glm", text=text, blanked=[(4, 5), (1, 3)])
  assert s.inputs.tolist() == [50259, 10, 50260, 13, 50260, 50256, 50257, 14, 50257, 11, 12]
  assert s.targets[6:].tolist() == [14, 50258, 11, 12, 50258]
  assert s.loss_weights.tolist() == [0] * 6 + [1] * 5
  assert s.positions[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 4, 2, 2, 2]
  assert (s.positions[:, 1] - s.positions[:, 0]).tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 1, 2, 3]
  assert np.array_equal(s.positions[:, 1], s.positions[:, 2])
  wanted = np.tri(11, dtype=bool)
  wanted[:6, :6] = True
  assert np.array_equal(mask(s), wanted)


def test_glm_sentences_and_chance():
  text = np.arange(10, 110, dtype=np.int32)
  s = document("glm", "sentences", text=text, blanked=[(0, 3)])
  assert s.inputs[:3].tolist() == [50259, 50264, 13] and s.targets[-1] == 50258
  drawn = document("glm", text=text)
  masks = (drawn.inputs == 50260).sum()
  assert (drawn.inputs == 50257).sum() == masks and 15 <= drawn.loss_weights.sum() - masks < 15 + 39
  other = document("glm", text=text, seed=1)
  assert other.length != drawn.length or not np.array_equal(other.inputs, drawn.inputs)


def test_glm_document():
  """prefix [gMASK] [sop] the rest, which ends with the text's own end; position 1 stays at [gMASK]."""
  s = document("glm", "document", text=np.array([10, 11, 12, 13], np.int32), start=2)
  assert s.inputs.tolist() == [50259, 10, 11, 50263, 50257, 12, 13]
  assert s.targets[4:].tolist() == [12, 13, 50256] and s.loss_weights.tolist() == [0, 0, 0, 0, 1, 1, 1]
  assert s.positions[:, 0].tolist() == [0, 1, 2, 3, 3, 3, 3]
  assert (s.positions[:, 1] - s.positions[:, 0]).tolist() == [0, 0, 0, 0, 1, 2, 3]
  wanted = np.tri(7, dtype=bool)
  wanted[:4, :4] = True
  assert np.array_equal(mask(s), wanted)


# ---- Chameleon: <s> text boi image eoi; text's first free id is 8198


CHAMELEON_PICTURE = [8197, *(4 + code for code in FLAT), 8196]


@pytest.mark.parametrize("form, ids", [
    ("text_to_image", [0, 8203, 8204, *CHAMELEON_PICTURE]),
    ("image_to_text", [0, *CHAMELEON_PICTURE, 8203, 8204, 2])])
def test_chameleon(form, ids):
  plain(document("chameleon", form, text=CAPTION, image=PICTURE), ids, [1] * (len(ids) - 1))
  assert is_line(document("chameleon", form, text=CAPTION, image=PICTURE, **LINE))


def test_chameleon_interleaved():
  ids = [0, *CHAMELEON_PICTURE, 8203, 8204, *CHAMELEON_PICTURE, 8203, 8204, 2]
  plain(document("chameleon", "interleaved", pieces=(PICTURE, CAPTION, PICTURE, CAPTION)), ids, [1] * (len(ids) - 1))


def test_positions_on_the_grid():
  """<s> a b [boi] take times 0 .. 3; a 2x3 picture at time 4; what follows at 4 + 3."""
  s = document("chameleon", "interleaved", pieces=(CAPTION, PICTURE, CAPTION))
  assert s.positions.tolist() == [[0] * 3, [1] * 3, [2] * 3, [3] * 3, [4, 4, 4], [4, 4, 5], [4, 4, 6], [4, 5, 4], [4, 5, 5],
                                  [4, 5, 6], [7] * 3, [8] * 3, [9] * 3]


# ---- Lumina-mGPT: boi, height and width in 32 pixels (two codes), rows with a new-line token, eoi; answers are learned


WIDE = np.arange(8, dtype=np.int32).reshape(2, 4)
LUMINA_PICTURE = [8197, 8804 + 1, 8804 + 2, 4, 5, 6, 7, 8803, 8, 9, 10, 11, 8803, 8196]


def test_lumina_mgpt():
  ids = [0, 8203, 8204, 8710, *LUMINA_PICTURE, 8710]
  plain(document("lumina_mgpt", text=CAPTION, image=WIDE), ids, [0] * 3 + [1] * 15)
  assert is_line(document("lumina_mgpt", text=CAPTION, image=WIDE, **LINE))
  ids = [0, *LUMINA_PICTURE, 8207, 8710, 8203, 8204, 8710]
  plain(document("lumina_mgpt", "image_to_text", text=CAPTION, image=WIDE, question=np.array([9])), ids, [0] * 16 + [1] * 3)


def test_row_ends_on_the_grid():
  """Rows' ends at (t, t+row, t+width), what follows at t + max(height, width), in a wide picture and in a high one."""
  s = document("lumina_mgpt", text=CAPTION, image=WIDE)
  assert s.positions[7:].tolist() == [[7, 7, 7], [7, 7, 8], [7, 7, 9], [7, 7, 10], [7, 7, 11],
                                      [7, 8, 7], [7, 8, 8], [7, 8, 9], [7, 8, 10], [7, 8, 11], [11] * 3]
  s = document("lumina_mgpt", text=CAPTION, image=WIDE.reshape(4, 2))
  assert s.positions[[9, 12, 15, 18, 19]].tolist() == [[7, 7, 9], [7, 8, 9], [7, 9, 9], [7, 10, 9], [11] * 3]


# ---- LWM: <s> text <vision> codes <eov> </vision>; two tables; ½ (vision + text)


OPEN, CLOSE = [529, 4924, 29958], [1533, 4924, 29958]
LWM_CODES = [32000 + code for code in FLAT]


def test_lwm_text_to_image():
  """Text has 2 + 3 + 3 + 1 learned tokens, vision 6 + 1: each kind has half of the weight, whose mean is 1."""
  ids = [1, 3 + 5, 3 + 6, *OPEN, *LWM_CODES, 32000 + 8193, *CLOSE, 2]
  words, codes = 16 / (2 * 9), 16 / (2 * 7)
  plain(document("lwm", text=CAPTION, image=PICTURE), ids, [words] * 5 + [codes] * 7 + [words] * 4)
  assert is_line(document("lwm", text=CAPTION, image=PICTURE, **LINE))


def test_lwm_image_to_text_and_unscored_fields():
  ids = [1, *OPEN, *LWM_CODES, 32000 + 8193, *CLOSE, 8, 9, 2]
  plain(document("lwm", "image_to_text", text=CAPTION, image=PICTURE, unscored=("vision",)), ids, [0] * 13 + [1] * 3)
  s = document("lwm", text=CAPTION, image=PICTURE, unscored=("text",))
  assert s.loss_weights[:2].tolist() == [0, 0] and (s.loss_weights[2:] > 0).all()
  is_code = (s.targets >= 32000)
  assert s.loss_weights[is_code].sum() == pytest.approx(s.loss_weights[~is_code].sum()) == pytest.approx(7)


def test_lwm_film():
  """<eof> between frames, <eov> behind the last."""
  film = np.stack([PICTURE, PICTURE[::-1]])
  s = document("lwm", text=CAPTION, image=film)
  again = [32000 + code for code in PICTURE[::-1].ravel().tolist()]
  assert s.inputs.tolist() == [1, 8, 9, *OPEN, *LWM_CODES, 40192, *again, 40193, *CLOSE] and is_causal(s)
  assert s.positions[[6, 12, 13]].tolist() == [[6] * 3, [9] * 3, [10] * 3]


# ---- Emu3: [BOS] prompt [boi] {h}*{w} [img] row [eol] … [eof] [eoi] [EOS]; codes weigh half


EMU_PICTURE = [151852, 15 + 2, 9, 15 + 3, 151851, *(151854 + code for code in FLAT[:3]), 151846,
               *(151854 + code for code in FLAT[3:]), 151846, 151847, 151853]
EMU_WEIGHTS = [1, 1, 1, 1, 1, .5, .5, .5, 1, .5, .5, .5, 1, 1, 1]


def test_emu3():
  ids = [151849, 5, 6, *EMU_PICTURE, 151850]
  plain(document("emu3", text=CAPTION, image=PICTURE), ids, [1, 1, *EMU_WEIGHTS, 1])
  assert is_line(document("emu3", text=CAPTION, image=PICTURE, **LINE))
  ids = [151849, *EMU_PICTURE, 5, 6, 151850]
  plain(document("emu3", "image_to_text", text=CAPTION, image=PICTURE), ids, [*EMU_WEIGHTS, 1, 1, 1])


def test_emu3_chat_and_large_sizes():
  ids = [151849, 7, *EMU_PICTURE, 8, 9, 5, 6, 151850]
  s = document("emu3", "chat", text=CAPTION, image=PICTURE, before=np.array([7]), after=np.array([8, 9]))
  plain(s, ids, [0] * (len(ids) - 4) + [1] * 3)
  s = document("emu3", text=CAPTION, image=np.zeros((90, 120), np.int32))
  assert s.inputs[3:11].tolist() == [151852, 15 + 9, 15 + 0, 9, 15 + 1, 15 + 2, 15 + 0, 151851]   # "90*120"


# ---- Show-o: <t2i><sot>text<eot><soi>image<eoi>, masks in place; <mmu><soi>image<eoi> and text


def test_show_o_text_to_image():
  """Codes 1 and 4 of a 2x3 picture are masked: the row is the system's, a mask predicts its own code, the picture's
  part sees all of the row and the text is causal."""
  hole = np.array([[0, 1, 0], [0, 1, 0]], bool)
  s = document("show_o", text=CAPTION, image=PICTURE, hole=hole, **LINE)
  inputs, targets, weights, seen = by_position(s)
  codes = [50305 + code for code in FLAT]
  assert inputs == [50300, 50256, 5, 6, 50256, 50296, codes[0], 58497, codes[2], codes[3], 58497, codes[5], 50297]
  assert weights == [0] * 7 + [1, 0, 0, 1, 0, 0] and (targets[7], targets[10]) == (codes[1], codes[4])
  wanted = np.tri(13, dtype=bool)
  wanted[5:] = True
  assert np.array_equal(seen, wanted)
  assert sorted(s.positions[:, 1].tolist()) == list(range(13))
  ours = document("show_o", text=CAPTION, image=PICTURE, hole=hole)
  assert np.array_equal(mask(ours), mask(s))
  at = {int(one): place for one, place in zip(ours.inputs, ours.positions.tolist())}
  assert (at[50296], at[codes[0]], at[codes[5]], at[50297]) == ([5] * 3, [6, 6, 6], [6, 7, 8], [9] * 3)
  drawing = document("show_o", text=CAPTION, image=np.full((2, 3), -1), **LINE)
  assert by_position(drawing)[0] == [50300, 50256, 5, 6, 50256, 50296, *[58497] * 6, 50297]
  assert (drawing.fills >= 0).sum() == 6


def test_show_o_text():
  s = document("show_o", "image_to_text", text=CAPTION, image=PICTURE, **LINE)
  ids = [50301, 50296, *(50305 + code for code in FLAT), 50297, 50256, 5, 6, 50256]
  assert s.inputs.tolist() == ids[:-1] and s.targets[8:].tolist() == ids[9:]
  assert s.loss_weights.tolist() == [0] * 8 + [1] * 4 and is_line(s)
  wanted = np.tri(12, dtype=bool)
  wanted[:9, :9] = True
  assert np.array_equal(mask(s), wanted)
  plain(document("show_o", "text_alone", text=CAPTION), [50256, 5, 6, 50256], [0.1] * 3)


# ---- all of them


def arguments(name, form, on_grid=True):
  """Of a form, with codes that occur once: (keyword arguments)."""
  height, width = TEMPLATES[name].grid
  text, image = np.arange(300, 306, dtype=np.int32), np.arange(height * width, dtype=np.int32).reshape(height, width)
  hole = np.random.default_rng(0).random(image.shape) < 0.4
  given = dict(text=text, image=image, larger=image + image.size, hole=hole, blanked=[(1, 3), (4, 5)],
               pieces=(text, image), on_grid=on_grid)
  wanted = inspect.signature(TEMPLATES[name].forms[form]).parameters
  return {key: value for key, value in given.items() if key in wanted}


@pytest.mark.parametrize("name, form", FORMS)
def test_target_is_not_visible_to_its_predictor(name, form):
  s = document(name, form, **arguments(name, form))
  seen, own = mask(s), ~TEMPLATES[name].vocabulary.allowed("special")[s.targets]
  once = [i for i in np.flatnonzero(own & (s.loss_weights > 0)) if (s.inputs == s.targets[i]).sum() <= 1]
  assert len(once) >= 3
  for i in once:
    assert not seen[i, s.inputs == s.targets[i]].any()


@pytest.mark.parametrize("name, form", FORMS)
def test_both_kinds_of_positions(name, form):
  """They differ in positions alone, and only where there is a picture."""
  ours, theirs = (document(name, form, **arguments(name, form, on_grid)) for on_grid in (True, False))
  for field in ("inputs", "targets", "loss_weights", "order", "visible_from", "visible_until", "blocks", "ends"):
    assert np.array_equal(getattr(ours, field), getattr(theirs, field)), field
  has_picture = "on_grid" in inspect.signature(TEMPLATES[name].forms[form]).parameters
  assert np.array_equal(ours.positions, theirs.positions) == (not has_picture)
  assert has_picture == ("image" in arguments(name, form) or form == "interleaved")


@pytest.mark.parametrize("name, form", FORMS)
def test_drawn_form_is_the_training_form(name, form):
  """With what is learned replaced by -1 the same arrays come out, except the ids, and `fills` says where they go."""
  t = TEMPLATES[name]
  parts = t.forms[form](**arguments(name, form))
  known = build(parts, t.vocabulary)
  drawn = build([part._replace(codes=np.where(part.groups >= 0 if part.groups is not None else True, -1, part.codes))
                 if part.loss_weight and part.block != "special" else part for part in parts], t.vocabulary)
  for field in ("order", "visible_until", "positions", "loss_weights", "ends"):
    assert np.array_equal(getattr(known, field), getattr(drawn, field)), field
  assert (drawn.fills >= 0).any()
  by = np.flatnonzero((drawn.fills >= 0) & (drawn.fills < FOREVER))
  assert np.array_equal(known.inputs[drawn.fills[by]], known.targets[by])


@pytest.mark.parametrize("name, form", FORMS)
def test_explain(name, form, capsys):
  """`unitok explain --template` prints the document's tokens under the system's ids."""
  s, v = example(name, form), TEMPLATES[name].vocabulary
  assert cli.main(["explain", "--template", name, "--form", form, "--json"]) == 0
  tokens = json.loads(capsys.readouterr().out)["tokens"]
  assert [int(token["id"]) for token in tokens] == s.inputs.tolist()
  assert [token["token"] for token in tokens] == [v.name(int(one)) for one in s.inputs]
  if form == next(iter(TEMPLATES[name].forms)):
    assert cli.main(["explain", "--template", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == tokens


def test_explain_takes_the_seed(capsys):
  def said(seed):
    assert cli.main(["explain", "--template", "glm", "--seed", str(seed)]) == 0
    return capsys.readouterr().out
  assert said(0) == said(0) and len({said(seed) for seed in range(5)}) > 1


# ---- what is refused


@pytest.mark.parametrize("call, says", [
    (lambda: document("dalle", text=CAPTION), r"template 'dalle': there is none of that name; legal: cogview, cogview2"),
    (lambda: document("glm", "text_to_image"), r"template 'glm': it has no form 'text_to_image'; legal: spans, sentences"),
    (lambda: document("chameleon", text=CAPTION, image=np.array([[8192]])), r"block 'image': code 8192 is not in 0 .. 8191"),
    (lambda: document("show_o", text=np.array([50294]), image=PICTURE), r"block 'text': code 50294 is not in 0 .. 50293"),
    (lambda: document("cogview", text=CAPTION, image=PICTURE), r"cogview: a picture of \(2, 3\) codes; must be one of \(8, 8\)"),
    (lambda: document("cogview", text=np.zeros(62, np.int32), image=square(32)), "cogview: 1090 tokens; .* at most 1089; shorten"),
    (lambda: document("cogview", "super_resolution", text=CAPTION, image=square(8), place=9), "place 9; must be in 0 .. 8"),
    (lambda: document("cogview2", text=np.zeros(112, np.int32), image=np.zeros((20, 20), np.int32)), "513 tokens; .* at most 512"),
    (lambda: document("glm", text=CAPTION, blanked=[(1, 3)]), r"spans \[\(1, 3\)\]; each must be .* within 0 .. 2"),
    (lambda: document("lumina_mgpt", text=CAPTION, image=PICTURE), r"\(2, 3\) codes; its sides must be even, 2 .. 128"),
    (lambda: document("lwm", text=CAPTION, image=PICTURE, unscored=("picture",)), "the fields are text and vision"),
    (lambda: picture(CAPTION, 1.0, True), r"picture: codes of shape \(2,\); must be a grid \[h w\]")])
def test_refused(call, says):
  with pytest.raises(ValueError, match=says) as error:
    call()
  assert "\n" not in str(error.value)


def test_longest_fit():
  """61 pieces and 32x32 codes are CogView's 1,089 tokens, 111 and 20x20 CogView2's 512."""
  assert document("cogview", text=np.zeros(61, np.int32), image=square(32)).length == 1089 - 1
  assert document("cogview2", text=np.zeros(111, np.int32), image=np.zeros((20, 20), np.int32)).length == 512 - 1


def test_the_command_line_refuses(capsys):
  for argv, says in [((), "give --objective or --template, one of the two"),
                     (("--objective", "text", "--template", "glm"), "one of the two"),
                     (("--template", "dalle"), "template 'dalle': there is none of that name; legal: cogview"),
                     (("--template", "glm", "--form", "x"), "template 'glm': it has no form 'x'; legal: spans"),
                     (("--template", "glm", "--model", "runs/x"), "--model goes with --objective"),
                     (("--objective", "text", "--form", "x"), "--form with --template")]:
    assert cli.main(["explain", *argv]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1


def test_no_time_passes_twice():
  """A picture on the grid leaves the time where a part of its longer side would."""
  end = Part("special", np.array([0], np.int32))
  for row_end in (None, end):
    parts = [*picture(np.zeros((5, 2), np.int32), 1.0, True, row_end), end, end]
    assert build(parts, TEMPLATES["chameleon"].vocabulary).positions[-1].tolist() == [5] * 3
