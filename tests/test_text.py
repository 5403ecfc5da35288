"""SentencePiece codes: exact for any text, the same from the same captions."""
import numpy as np
import pytest

from unitok import config
from unitok.modalities import text
from unitok.modalities.image import ImageModality

CAPTIONS = ["a small red ring at the top", "a large blue square, on white", "two  blanks and a cross"] * 3
ANYTHING = ["", " ", "  a  b ", "a red ring", "😀👩‍👩‍👧 ok", "▁ x▁▁ y", "▅", "a\nb\x00c\t", "\ufeffe\u0301ﬁ", "日本語 テキスト",
            "⁇ <unk> <0x41> <s>", "".join(map(chr, range(32, 700))), "\U0010ffff\u2028"]


@pytest.fixture(scope="module", params=["unigram", "bpe", "bpe across words"])
def tokenizer(request, tmp_path_factory):
  model, *across = request.param.split(" ", 1)
  return text.train(CAPTIONS, tmp_path_factory.mktemp(model),
                    config.Text(vocab_size=300, model=model, split_by_whitespace=not across))


@pytest.mark.parametrize("string", ANYTHING)
def test_exact(tokenizer, string):
  codes = tokenizer.encode(string)
  assert codes.dtype == np.int32 and codes.ndim == 1
  assert tokenizer.decode(codes) == string
  assert not codes.size or (0 <= codes.min() and codes.max() < tokenizer.size)


def test_no_unknown_no_control(tokenizer):
  """The 256 bytes come first; no code is SentencePiece's unknown, begin, end or pad."""
  pieces = [tokenizer.piece(code) for code in range(tokenizer.size)]
  assert pieces[:256] == [f"<0x{byte:02X}>" for byte in range(256)]
  assert not {"<unk>", "<s>", "</s>", "<pad>"} & set(pieces) and len(set(pieces)) == tokenizer.size


def test_pieces_join(tokenizer):
  one, two = tokenizer.encode("a red"), tokenizer.encode(" ring")
  assert tokenizer.decode(np.concatenate([one, two])) == "a red ring"


@pytest.mark.parametrize("string, sentences", [
    ("a red ring", ["a red ring"]),
    ("A ring. Two bars!  Is it 3.5 m? Yes", ["A ring.", " Two bars!", "  Is it 3.5 m?", " Yes"]),
    ('He said "no." Then … ', ['He said "no."', " Then … "]),
    ("one\n\ntwo\r\nthree.\n", ["one", "\n\ntwo\r", "\nthree.\n"]),
    ("赤い輪。「青い！」四角", ["赤い輪。", "「青い！」", "四角"]),
    ("...", ["..."]), ("wait... what?!", ["wait...", " what?!"]), ("   ", ["   "]), ("▁.▁ . ▁", ["▁.▁ .", " ▁"])])
def test_sentences(tokenizer, string, sentences):
  """Cut at the codes' edges, so that the sentences' codes are the text's, none lost."""
  codes = tokenizer.encode(string)
  ends = tokenizer.sentence_ends(string, codes)
  assert [tokenizer.decode(codes[a:b]) for a, b in zip([0, *ends], ends)] == sentences


def test_a_piece_over_the_end_of_a_sentence(tmp_path):
  """It belongs to the sentence that it ends. The trainer makes hardly any: here "see" stands for three other bytes."""
  made = text.train(["see. you"] * 50, tmp_path, config.Text(vocab_size=280))
  codes = np.concatenate([made.encode("see"), made.encode("s")])
  assert len(codes) == 2 and made.sentence_ends("a. b", codes).tolist() == [1, 2]
  assert made.sentence_ends("sea.", codes).tolist() == [2] and made.sentence_ends("a.b. c", np.tile(codes[:1], 2)).tolist() == [2]


def test_pieces_across_words(tmp_path):
  """Only where they are asked for; the same caption is shorter then."""
  made = {split: text.train(CAPTIONS, tmp_path / str(split), config.Text(vocab_size=400, split_by_whitespace=split))
          for split in (True, False)}
  across = {split: [p for p in map(t.piece, range(256, t.size)) if "▁" in p[1:]] for split, t in made.items()}
  assert across[False] and not across[True]
  assert len(made[False].encode(CAPTIONS[0])) < len(made[True].encode(CAPTIONS[0]))
  manifest = text.read_manifest(tmp_path / "False")
  assert manifest["options"]["split_by_whitespace"] is False


def test_bytes_that_are_no_text(tokenizer):
  assert "\ufffd" in tokenizer.decode([0xff]) and "\ufffd" in tokenizer.decode([0xe2, 0x96])


def test_saved(tmp_path):
  options = config.Text(vocab_size=290)
  made = text.train(CAPTIONS, tmp_path / "one", options)
  loaded = text.TextModality.load(tmp_path / "one")
  assert loaded.fingerprint == made.fingerprint and loaded.size == made.size <= 290
  again = text.train(CAPTIONS, tmp_path / "two", options)
  assert again.model == made.model
  other = text.train(CAPTIONS[:1], tmp_path / "three", options)
  assert other.fingerprint != made.fingerprint
  assert text.copy(tmp_path / "one", tmp_path / "four").model == made.model
  assert text.TextModality.load(tmp_path / "four").fingerprint == made.fingerprint
  (tmp_path / "one" / text.MODEL).write_bytes(other.model)
  with pytest.raises(ValueError, match="not the model that text_tokenizer.json names"):
    text.TextModality.load(tmp_path / "one")
  with pytest.raises(ValueError, match="no text tokenizer; train one"):
    text.TextModality.load(tmp_path / "none")
  (tmp_path / "one" / text.MANIFEST).write_text("{")
  with pytest.raises(ValueError, match="damaged"):
    text.TextModality.load(tmp_path / "one")


@pytest.mark.parametrize("model", ["unigram", "bpe"])
@pytest.mark.parametrize("captions", [[], ["", "  "], ["a"], ["▅"], ["ab"] * 5, ["word"]])
def test_little_text(tmp_path, captions, model):
  """More pieces asked for than the text has: there are fewer; with no text there are the bytes and the blank."""
  made = text.train(captions, tmp_path, config.Text(vocab_size=5000, model=model))
  assert made.decode(made.encode("any text 😀")) == "any text 😀"
  assert made.size < 280 and (made.size == 257 or any(c.strip("▅ ") for c in captions))


@pytest.mark.parametrize("size", [0, 10, 256, 258])
def test_too_few_pieces(tmp_path, size):
  """`a b c`: 256 bytes, three letters and the blank."""
  with pytest.raises(ValueError, match=f"text.vocab_size is {size}, must be at least 260"):
    text.train(["a b c"], tmp_path, config.Text(vocab_size=size))
  assert text.train(["a b c"], tmp_path, config.Text(vocab_size=260)).size == 260


def test_refused(tokenizer):
  with pytest.raises(ValueError, match=rf"code {tokenizer.size} is not in 0 .. {tokenizer.size - 1}"):
    tokenizer.decode([0, tokenizer.size])
  with pytest.raises(ValueError, match="code -1 is not in"):
    tokenizer.decode([-1])
  with pytest.raises(ValueError, match="surrogate"):
    tokenizer.encode("a\ud800")


def test_image_modality():
  def encode(pixels):
    return pixels[:, ::4, ::4, 0] // 64
  image = ImageModality(encode, lambda codes: np.repeat(np.repeat(codes, 4, 1), 4, 2)[..., None] * np.full(3, 64), (2, 2), 4, 4, "f")
  pixels = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
  codes = image.encode(pixels)
  assert codes.shape == (2, 2, 2) and codes.dtype == np.int32 and image.size == 4
  assert image.decode(codes).shape == (2, 8, 8, 3)
  with pytest.raises(ValueError, match="multiples of 4"):
    image.encode(pixels[:, :7])
  with pytest.raises(ValueError, match=r"float32\[2, 8, 8, 3\]"):
    image.encode(pixels.astype(np.float32))
  with pytest.raises(ValueError, match="code 4 is not in 0 .. 3"):
    image.decode(codes + 4)
