"""The id space: codes and ids are exact inverses, blocks are disjoint and cover it."""
import json

import numpy as np
import pytest

from unitok.vocab import SPECIAL, SPECIAL_SIZE, Block, Vocabulary, make_vocabulary

OURS = make_vocabulary({"text": 300, "image": 64}, {"text": "aa", "image": "bb"})
INTERLEAVED = Vocabulary((  # as published vocabularies have it: a block in several ranges, out of order
    Block("special", (range(0, 64),)), Block("text", (range(70, 80), range(64, 66))), Block("image", (range(66, 70), range(80, 90)))))


@pytest.mark.parametrize("vocabulary", [OURS, INTERLEAVED], ids=["ours", "interleaved"])
def test_codes_and_ids(vocabulary):
  seen = []
  for block in vocabulary.blocks:
    codes = np.arange(block.size)
    ids = vocabulary.to_ids(block.name, codes)
    assert np.array_equal(vocabulary.to_codes(block.name, ids), codes)
    assert np.array_equal(np.flatnonzero(vocabulary.allowed(block.name)), np.sort(ids))
    seen += ids.tolist()
  assert sorted(seen) == list(range(vocabulary.size))
  assert vocabulary.allowed(*(b.name for b in vocabulary.blocks)).all()


def test_worked_example():
  assert OURS.to_ids("text", [[0, 5, -1]]).tolist() == [[64, 69, -1]]
  assert INTERLEAVED.to_ids("text", [0, 9, 10, 11]).tolist() == [70, 79, 64, 65]
  assert OURS.to_codes("image", [364, -1]).tolist() == [0, -1]
  assert [OURS.special(name) for name in SPECIAL] == list(range(len(SPECIAL)))
  assert (OURS.name(3), OURS.name(364 + 17), OURS.name(63)) == ("[boi]", "image 17", "special 63")


@pytest.mark.parametrize("call, says", [
    (lambda: OURS.to_ids("image", [3, 64]), "block 'image': code 64 is not in 0 .. 63"),
    (lambda: OURS.to_ids("image", [-2]), "code -2 is not in 0 .. 63"),
    (lambda: OURS.to_codes("image", [70]), "id 70 is not one of its 64 ids 364 .. 427"),
    (lambda: OURS.to_codes("image", [428]), "id 428 is not"),
    (lambda: INTERLEAVED.to_codes("text", [66]), "id 66 is not one of its 12 ids 70 .. 79, 64 .. 65"),
    (lambda: OURS.block("audio"), "no block 'audio'; it has special, text, image"),
    (lambda: OURS.special("[bos]"), r"no control token '\[bos\]'; it has \[pad\]"),
    (lambda: Vocabulary((Block("a", (range(0, 4),)), Block("b", (range(3, 8),)))), "disjoint and cover"),
    (lambda: Vocabulary((Block("a", (range(0, 4),)), Block("b", (range(5, 8),)))), "disjoint and cover"),
])
def test_refused(call, says):
  with pytest.raises(ValueError, match=says):
    call()


def test_fingerprint_stays():
  """Of a vocabulary of ours, as it was before other systems' had control tokens of their own; so is its manifest."""
  assert OURS.fingerprint == "384480f5e31580de"
  assert OURS.to_json() == {"blocks": [{"name": "special", "ranges": [[0, 64]]}, {"name": "text", "ranges": [[64, 364]]},
                                       {"name": "image", "ranges": [[364, 428]]}],
                            "special": list(SPECIAL), "fingerprints": {"text": "aa", "image": "bb"}}
  old = {**OURS.to_json(), "special": list(SPECIAL[:9])}      # of a version with fewer
  assert Vocabulary.from_json(old) == OURS


def test_control_tokens_of_another_system():
  foreign = Vocabulary((Block("text", (range(0, 5), range(6, 9))), Block("special", (range(9, 10), range(5, 6)))),
                       controls=("<s>", "</s>"))
  assert (foreign.special("<s>"), foreign.special("</s>"), foreign.name(5), foreign.name(6)) == (9, 5, "</s>", "text 5")
  with pytest.raises(ValueError, match=r"no control token '\[pad\]'; it has <s> </s>"):
    foreign.special("[pad]")
  again = Vocabulary.from_json(json.loads(json.dumps(foreign.to_json())))
  assert again == foreign and again.fingerprint == foreign.fingerprint
  assert Vocabulary(foreign.blocks, controls=("</s>", "<s>")).fingerprint != foreign.fingerprint
  with pytest.raises(ValueError, match=f"{len(SPECIAL)} control tokens for the 2 ids of the block 'special'"):
    Vocabulary(foreign.blocks)


def test_saved_manifest():
  again = Vocabulary.from_json(json.loads(json.dumps(OURS.to_json())))
  assert again == OURS and again.fingerprint == OURS.fingerprint
  assert make_vocabulary({"text": 300, "image": 64}, {"text": "aa", "image": "cc"}).fingerprint != OURS.fingerprint
  more = make_vocabulary({"text": 300, "image": 64, "audio": 8}, {})
  assert all(np.array_equal(more.block(b.name).table, b.table) for b in OURS.blocks)   # old ids stay
  value = OURS.to_json()
  value["special"] = value["special"][1:]
  with pytest.raises(ValueError, match="control tokens"):
    Vocabulary.from_json(value)
  assert OURS.block("special").size == SPECIAL_SIZE
