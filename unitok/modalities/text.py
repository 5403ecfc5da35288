"""Text <-> SentencePiece codes (Kudo & Richardson, 1808.06226) with byte fallback: nothing is unknown.

A code is a SentencePiece id less one: its id 0, the unknown piece it insists on, never occurs. Codes 0 .. 255 are
the bytes, pieces follow. There is no dummy blank in front, so decode(a + b) = decode(a) + decode(b) at any cut
between characters.
"""
import dataclasses
import functools
import hashlib
import io
import json
import re
from collections.abc import Iterable

import numpy as np
import sentencepiece
from etils import epath

from unitok import config
from unitok.files import write, write_json

BYTES = 256
BLANK = "\u2581"      # SentencePiece's own sign for a blank; in a text it is spelt in bytes
MODEL, MANIFEST = "sentencepiece.model", "text_tokenizer.json"
SENTENCE = re.compile(r"""\s*\S.*?(?:[.!?]["'”’)\]]*(?=\s)|[。！？][”’」』）]*|(?=\n)|\Z)""")
RESERVED = "\u2585"   # a sentence with this one is dropped by SentencePiece's trainer


class TextModality:
  """`encode(decode(...))` is exact for every valid Unicode text; `size` codes; `fingerprint` of the model."""

  def __init__(self, model: bytes):
    self.model = model
    self.sha256 = hashlib.sha256(model).hexdigest()
    self.fingerprint = self.sha256[:16]
    self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.size = self._pieces.get_piece_size() - 1

  def encode(self, text: str) -> np.ndarray:
    """i32[n] codes of a text; n = 0 for ""."""
    try:
      text.encode()
    except UnicodeEncodeError:
      raise ValueError(f"text {text[:40]!r}: half of a surrogate pair is not valid Unicode; mend the text") from None
    blank = [byte + 1 for byte in BLANK.encode()]
    ids = []
    for number, run in enumerate(text.split(BLANK)):
      ids += (blank if number else []) + self._pieces.encode(run)
    return np.array(ids, np.int32) - np.int32(1)

  def decode(self, codes) -> str:
    """The text of i32[n] codes; bytes that are no UTF-8 become U+FFFD. ValueError for a code outside 0 .. size-1."""
    codes = np.asarray(codes, np.int32)
    bad = codes[(codes < 0) | (codes >= self.size)]
    if bad.size:
      raise ValueError(f"text: code {bad[0]} is not in 0 .. {self.size - 1}; the codes are from another tokenizer")
    return self._pieces.decode((codes + 1).tolist())

  def sentence_ends(self, text: str, codes: np.ndarray) -> np.ndarray:
    """i32[m]: how many of a text's codes there are up to the end of each sentence, all of them last.

    A sentence ends with . ! or ? before a blank, with 。！ or ？, or with its line; the blank belongs to the next. A
    code that holds an end and more belongs to the sentence before it. "Yes! No." -> "Yes!" " No."
    """
    ends = np.cumsum([len(sentence.encode()) for sentence in SENTENCE.findall(text.rstrip())])[:-1]
    inside = 1 + np.searchsorted(np.cumsum(self._bytes[codes]), ends)
    return np.unique(np.append(inside, len(codes))).astype(np.int32)

  @functools.cached_property
  def _bytes(self) -> np.ndarray:
    """i32[size]: the bytes of text that each code stands for."""
    pieces = (self.piece(code).replace(BLANK, " ") for code in range(BYTES, self.size))
    return np.array([1] * BYTES + [len(piece.encode()) for piece in pieces], np.int32)

  def piece(self, code: int) -> str:
    """For people: "▁red", "<0x0A>"."""
    return self._pieces.id_to_piece(int(code) + 1)

  @classmethod
  def load(cls, folder) -> "TextModality":
    """What `train` left. ValueError where there is none, or the model is not the one the manifest names."""
    folder, manifest = epath.Path(folder), read_manifest(folder)
    if manifest is None:
      raise ValueError(f"{folder}: no text tokenizer; train one with python -m train.text_tokenizer")
    model = (folder / MODEL).read_bytes() if (folder / MODEL).exists() else b""
    if hashlib.sha256(model).hexdigest() != manifest["sha256"]:
      raise ValueError(f"{folder / MODEL}: not the model that {MANIFEST} names; remove the folder and train again")
    return cls(model)


def read_manifest(folder) -> dict | None:
  """{"sha256", "size", "options"} of a finished tokenizer's folder, or None. ValueError where it is damaged."""
  path = epath.Path(folder) / MANIFEST
  if not path.exists():
    return None
  try:
    manifest = json.loads(path.read_text())
    return {name: manifest[name] for name in ("sha256", "size", "options")}
  except (ValueError, KeyError, TypeError):
    raise ValueError(f"{path}: damaged; remove the folder and train the text tokenizer again") from None


def train(captions: Iterable[str], folder, options: config.Text) -> TextModality:
  """A SentencePiece model of the captions, saved in `folder`; the manifest is written last.

  The same captions give the same bytes. Without any text it holds the 256 bytes and the blank.
  ValueError where options.vocab_size is below the 256 bytes and the text's characters.
  """
  tokenizer = TextModality(_fit(captions, options))
  manifest = {"sha256": tokenizer.sha256, "size": tokenizer.size, "options": settings(options)}
  _save(tokenizer.model, epath.Path(folder), manifest)
  return tokenizer


def copy(source, folder) -> TextModality:
  """Another run's tokenizer into `folder`."""
  tokenizer = TextModality.load(source)
  _save(tokenizer.model, epath.Path(folder), read_manifest(source))
  return tokenizer


def _save(model: bytes, folder: epath.Path, manifest: dict) -> None:
  write(folder / MODEL, model)
  write_json(folder / MANIFEST, manifest)


def settings(options: config.Text) -> dict:
  """Those of `options` that the tokenizer depends on, as its manifest has them."""
  return dataclasses.asdict(options)


def _fit(captions: Iterable[str], options: config.Text) -> bytes:
  usable = [c for c in captions if c.strip() and RESERVED not in c] or [" "]
  out = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(usable), model_writer=out, model_type=options.model, vocab_size=options.vocab_size + 1,
        split_by_whitespace=options.split_by_whitespace, hard_vocab_limit=False, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
        unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1,
        required_chars=BLANK,   # else, without a blank in the captions, one would be spelt as the sign's bytes
        max_sentence_length=2**20, num_threads=1, minloglevel=2)   # one thread: sums in the same order every time
  except RuntimeError as error:
    least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
    if not least and options.vocab_size > BYTES:
      raise ValueError(f"text: SentencePiece failed ({' '.join(str(error).split())}); mend text or data") from None
    least = int(least[1]) - 1 if least else BYTES + 1
    raise ValueError(f"text.vocab_size is {options.vocab_size}, must be at least {least}: the {BYTES} bytes and the "
                     "characters of the captions; raise it") from None
  return out.getvalue()
