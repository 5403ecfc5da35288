"""The one id space: disjoint blocks of global ids, each with its own local codes.

`codes` are local to a block (0 .. size-1), `ids` are global. The first block of our own
vocabularies is "special"; new blocks append, so old ids never move.
"""
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

SPECIAL = ("[pad]", "[place]", "[eos]", "[boi]", "[eoi]",
           "[text]", "[text_to_image]", "[image_to_text]", "[infill]",
           "[image]", "[pair]", "[prefix_lm]", "[parallel]", "[glm_spans]", "[glm_document]",
           "[mask]", "[gmask]", "[sop]", "[eop]",
           "[question]", "[answer]", "[detect]", "[locate]", "[layout]", "[sep]",
           "[row]", "[interleaved]", "[glm_sentences]", "[smask]", "[refine]")
"""Control tokens by code; the block has room for more, so that new ones move nothing."""
SPECIAL_SIZE = 64


@dataclass(frozen=True)
class Block:
  """A named set of ids. Usually one range; published vocabularies interleave several."""
  name: str
  ranges: tuple[range, ...]

  @cached_property
  def size(self) -> int:
    return sum(len(r) for r in self.ranges)

  @cached_property
  def table(self) -> np.ndarray:
    """i32[size]: the id of each code."""
    return np.concatenate([np.arange(r.start, r.stop, dtype=np.int32) for r in self.ranges])


@dataclass(frozen=True)
class Vocabulary:
  """Disjoint blocks covering ids 0 .. size-1, with the fingerprints of the tokenizers they belong to.

  `controls` names the tokens of the block "special" by code: ours, or those of a published system.
  """
  blocks: tuple[Block, ...]
  fingerprints: dict[str, str] = field(default_factory=dict)
  controls: tuple[str, ...] = SPECIAL

  def __post_init__(self):
    ids = np.sort(np.concatenate([b.table for b in self.blocks]))
    if not np.array_equal(ids, np.arange(len(ids))):
      raise ValueError("vocabulary: the blocks' ids must be disjoint and cover 0 .. size-1; give each block its own "
                       "range")
    named = [b for b in self.blocks if b.name == "special" and b.size < len(self.controls)]
    if named:
      raise ValueError(f"vocabulary: {len(self.controls)} control tokens for the {named[0].size} ids of the block "
                       "'special'; name fewer, or give it more ids")

  @cached_property
  def size(self) -> int:
    return sum(b.size for b in self.blocks)

  @cached_property
  def _by_name(self) -> dict[str, Block]:
    return {b.name: b for b in self.blocks}

  @cached_property
  def _codes(self) -> np.ndarray:
    """i32[size]: the local code of each id."""
    out = np.empty(self.size, np.int32)
    for b in self.blocks:
      out[b.table] = np.arange(b.size)
    return out

  def block(self, name: str) -> Block:
    if name not in self._by_name:
      raise ValueError(f"vocabulary: no block {name!r}; it has {', '.join(self._by_name)}")
    return self._by_name[name]

  def to_ids(self, block: str, codes) -> np.ndarray:
    """Global ids of local codes, same shape; -1 (still to be drawn) stays -1.

    text = range(64, 1000): to_ids("text", [0, 5, -1]) -> [64, 69, -1].
    """
    b, codes = self.block(block), np.asarray(codes, np.int32)
    least, most = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    if least >= 0 and most < b.size:
      return b.table[codes]
    bad = codes[(codes < -1) | (codes >= b.size)]
    if bad.size:
      raise ValueError(f"block {block!r}: code {bad.flat[0]} is not in 0 .. {b.size - 1}; "
                       "the codes are from another tokenizer than the vocabulary's")
    return np.where(codes < 0, np.int32(-1), b.table[codes])

  @cached_property
  def further(self) -> tuple[range, ...]:
    """The ids of a picture's second, third … book, the blocks "image.1", "image.2" …; () where a place has one code."""
    names = image_blocks(len(self.blocks))[1:]
    return tuple(self.block(name).ranges[0] for name in names if name in self._by_name)

  @property
  def image(self) -> tuple[range, ...]:
    """The ids of the block "image"; () where there is none."""
    return self.block("image").ranges if "image" in self._by_name else ()

  @property
  def books(self) -> int:
    """Codes that a place of a picture has."""
    return 1 + len(self.further)

  def image_codes(self, ids) -> np.ndarray:
    """Local codes of a picture's ids [n], or [n G] where a place has G > 1; same shape."""
    ids = np.asarray(ids, np.int32)
    if self.books == 1:
      return self.to_codes("image", ids)
    return np.stack([self.to_codes(name, some) for name, some in zip(image_blocks(self.books), ids.T, strict=True)], -1)

  def to_codes(self, block: str, ids) -> np.ndarray:
    """Exact inverse of `to_ids`."""
    ids, member = np.asarray(ids, np.int32), self.allowed(block)
    inside = (ids >= 0) & (ids < self.size)
    bad = ids[(ids != -1) & ~(inside & member[np.where(inside, ids, 0)])]
    if bad.size:
      raise ValueError(f"block {block!r}: id {bad.flat[0]} is not one of its {self.block(block).size} ids "
                       f"{', '.join(f'{r.start} .. {r.stop - 1}' for r in self.block(block).ranges)}")
    return np.where(ids < 0, np.int32(-1), self._codes[np.maximum(ids, 0)])

  def allowed(self, *blocks: str) -> np.ndarray:
    """bool[size]: the ids of these blocks."""
    out = np.zeros(self.size, bool)
    for name in blocks:
      out[self.block(name).table] = True
    return out

  def special(self, name: str) -> int:
    """Id of a control token."""
    if name not in self.controls:
      raise ValueError(f"vocabulary: no control token {name!r}; it has {' '.join(self.controls)}")
    return int(self.block("special").table[self.controls.index(name)])

  def name(self, id: int) -> str:
    """For people: "[boi]", "image 17"."""
    b = next(b for b in self.blocks if self.allowed(b.name)[id])
    code = int(self._codes[id])
    return self.controls[code] if b.name == "special" and code < len(self.controls) else f"{b.name} {code}"

  def to_json(self) -> dict:
    """"special" holds our control tokens, which may grow; "controls" those of another system, which may not."""
    names = "special" if self.controls == SPECIAL else "controls"
    return {"blocks": [{"name": b.name, "ranges": [[r.start, r.stop] for r in b.ranges]} for b in self.blocks],
            names: list(self.controls), "fingerprints": self.fingerprints}

  @classmethod
  def from_json(cls, value: dict) -> "Vocabulary":
    known = () if "controls" in value else value["special"]
    if tuple(known) != SPECIAL[:len(known)]:
      raise ValueError(f"vocabulary: control tokens {known} are not this version's {list(SPECIAL)}; use the version "
                       "that made it")
    blocks = tuple(Block(b["name"], tuple(range(*r) for r in b["ranges"])) for b in value["blocks"])
    return cls(blocks, dict(value["fingerprints"]), tuple(value.get("controls", SPECIAL)))

  @cached_property
  def fingerprint(self) -> str:
    """16 hex digits that change with any block or tokenizer, but not where a control token takes a free place."""
    fixed = {name: value for name, value in self.to_json().items() if name != "special"}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def image_blocks(books: int) -> tuple[str, ...]:
  """The blocks of a picture's codes by book: "image", "image.1", "image.2" …"""
  return ("image", *(f"image.{book}" for book in range(1, books)))


def make_vocabulary(sizes: dict[str, int], fingerprints: dict[str, str]) -> Vocabulary:
  """"special" first, then one block after another in the order given."""
  blocks, start = [], 0
  for name, size in {"special": SPECIAL_SIZE, **sizes}.items():
    blocks.append(Block(name, (range(start, start + size),)))
    start += size
  return Vocabulary(tuple(blocks), dict(fingerprints))
