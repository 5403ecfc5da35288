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
