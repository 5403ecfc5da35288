"""Tar shards as img2dataset writes them: splits, captions, every way a shard or a record can be bad, and no way out."""
import gzip
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unitok import cli
from unitok import config as c
from unitok.data import sources, webdataset
from unitok.data.record import BadRecord
from unitok.data.webdataset import open_webdataset


def png(color=(1, 2, 3), kind="PNG") -> bytes:
  out = io.BytesIO()
  Image.new("RGB", (6, 4), color).save(out, kind)
  return out.getvalue()


def told(caption, **more) -> bytes:
  """KEY.json as img2dataset writes it."""
  return json.dumps({"caption": caption, "url": "http://a/b.jpg", "status": "success", "width": 6, **more}, indent=4).encode()


def shard(file: Path, members) -> Path:
  """members: (name, bytes or a finished TarInfo) …, in a tar of that order."""
  file.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
    for name, content in members:
      if isinstance(content, tarfile.TarInfo):
        content.name = name
        tar.addfile(content)
      else:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
  return file


def record(key: str, color=(1, 2, 3)) -> list:
  return [(f"{key}.jpg", png(color)), (f"{key}.json", told(f"picture {key}")), (f"{key}.txt", f"picture {key}".encode())]


def several(root: Path, shards: int = 3, each: int = 4) -> Path:
  for number in range(shards):
    shard(root / f"{number:05d}.tar", [one for n in range(each) for one in record(f"{number:05d}{n:04d}", (number, n, 0))])
    (root / f"{number:05d}_stats.json").write_text("{}")
    (root / f"{number:05d}.parquet").write_bytes(b"PAR1")
  return root


def opened(root, split="train", **options):
  return open_webdataset(c.WebDataset(path=str(root), **options), split)


def spoken(root, split="train", **options) -> dict:
  source = opened(root, split, **options)
  assert [source.captions(n) for n in range(len(source))] == [source[n].captions for n in range(len(source))]
  return {source[n].key: source[n].captions for n in range(len(source))}


def test_records(tmp_path):
  """In any order, each the bytes of its own members; a long name in one of its own headers, capital suffixes."""
  root, key = several(tmp_path), "deep/" + "k" * 150
  shard(root / "00003.tar", [(f"{key}.txt", "ä ü\n".encode()), ("x.cls", b"7"), (f"{key}.PNG", png((9, 9, 9)))])
  source = opened(root, image_size=16)
  assert len(source) == 13
  for index in np.random.default_rng(0).permutation(12):
    record, (number, n) = source[int(index)], divmod(int(index), 4)
    assert record.key == f"{number:05d}.tar/{number:05d}{n:04d}" and record.captions == (f"picture {number:05d}{n:04d}",)
    assert record.image.shape == (16, 16, 3) and (record.image == (number, n, 0)).all()
    assert record.fields["url"] == "http://a/b.jpg" and record.fields["split"] == "train"
  assert source[12].key == f"00003.tar/{key}" and source[12].captions == ("ä ü",) and (source[12].image == 9).all()
  for index in (-1, 13):
    with pytest.raises(IndexError):
      source[index]


def test_read_from_its_place(tmp_path, monkeypatch):
  """Headers are read when a shard is first opened, and again where it has changed; captions read no picture."""
  root = several(tmp_path)
  spoken(root)
  monkeypatch.setattr(webdataset, "_members", None)
  read, seen = webdataset._read, []
  monkeypatch.setattr(webdataset, "_read", lambda shard, row, part, where: seen.append(part) or read(shard, row, part, where))
  source = opened(root, "val", val_share=.5)
  assert len(source) and all(source.captions(n) for n in range(len(source)))
  assert set(seen) == {"text", "json"}
  shard(root / "00001.tar", record("new") * 1 + record("newer"))
  with pytest.raises(TypeError):
    opened(root)


def test_splits_by_name(tmp_path):
  root = several(tmp_path)
  assert {key[:5] for key in spoken(root, "val", val_shards="0000[2-9].tar")} == {"00002"}
  assert {key[:5] for key in spoken(root, "train", val_shards="0000[2-9].tar")} == {"00000", "00001"}
  assert not spoken(root, "val") and not opened(root, "heldout")
  several(tmp_path / "two" / "train", 2), several(tmp_path / "two" / "val", 1)
  kinds = dict(shards="train/*.tar", val_shards="val/*.tar")
  assert len(spoken(tmp_path / "two", "train", **kinds)) == 8
  assert set(spoken(tmp_path / "two", "val", **kinds)) == {f"val/00000.tar/00000000{n}" for n in range(4)}


def test_splits_by_share(tmp_path):
  """Every record in one of the two; a shard more moves none."""
  root = several(tmp_path, 10)
  train, val = spoken(root, val_share=.25), spoken(root, "val", val_share=.25)
  assert not set(train) & set(val) and len(train) + len(val) == 40 and 4 <= len(val) <= 16
  several(root, 11)
  assert set(spoken(root, "val", val_share=.25)) >= set(val)
  with pytest.raises(ValueError, match="data.val_shards is '1.tar', data.val_share 0.5; set one of the two"):
    opened(root, val_shards="1.tar", val_share=.5)
  with pytest.raises(ValueError, match="data.val_share is 1.0, must be at least 0 and below 1"):
    opened(root, val_share=1.0)


def test_captions(tmp_path):
  """KEY.txt before `caption` before nothing; a field by its name; the template with fields of KEY.json."""
  root = tmp_path / "told"
  shard(root / "0.tar", [("a.webp", png(kind="WEBP")), ("a.json", told("in json", alt=["one", "two"], style="flat"))])
  assert spoken(root) == {"0.tar/a": ("in json",)}
  assert spoken(root, text_field="alt") == {"0.tar/a": ("one", "two")}
  assert spoken(root, caption_template="{style}: {caption}") == {"0.tar/a": ("flat: in json",)}
  assert spoken(root, caption_template="") == {"0.tar/a": ()}
  shard(tmp_path / "alone" / "0.tar", [("a.png", png())])
  assert spoken(tmp_path / "alone") == {"0.tar/a": ()}
  with pytest.raises(BadRecord, match=r"^0.tar/a: has no hue, which data.caption_template uses \(it has .*style, url"):
    spoken(root, caption_template="{hue}")
  with pytest.raises(ValueError, match="a lone '{' at character 1"):
    opened(root, caption_template="{")


def link(kind=tarfile.SYMTYPE, target="/etc/passwd") -> tarfile.TarInfo:
  info = tarfile.TarInfo()
  info.type, info.linkname = kind, target
  return info


BAD = {
    "a link": ([("b.jpg", link())], "0.tar/b.jpg", "is a link or a device, not a file"),
    "a hard link": ([("b.jpg", link(tarfile.LNKTYPE, "a.jpg"))], "0.tar/b.jpg", "is a link or a device, not a file"),
    "a device": ([("b.txt", link(tarfile.CHRTYPE, ""))], "0.tar/b.txt", "is a link or a device, not a file"),
    "two pictures": ([("b.jpg", png()), ("b.png", png()), ("b.txt", b"x")], "0.tar/b.png", "is the second image of its key"),
    "a key twice": ([("b.jpg", png()), ("b.txt", b"x"), ("b.txt", b"y")], "0.tar/b.txt", "is the second text of its key"),
    "no picture": ([("b.txt", b"x"), ("b.json", told("x"))], "0.tar/b", "has no picture, only text and json"),
    "a name not in UTF-8": ([("b\udcff.jpg", png())], "0.tar/b\\udcff.jpg", "its name is not UTF-8"),
    "no text": ([("b.jpg", png())], "0.tar/b", "has no captions or text"),
    "an empty text": ([("b.jpg", png()), ("b.txt", b" \n")], "0.tar/b", "has an empty caption"),
    "a text not in UTF-8": ([("b.jpg", png()), ("b.txt", b"caf\xe9")], "0.tar/b", "its text is not UTF-8 (byte 4)"),
    "no JSON": ([("b.jpg", png()), ("b.txt", b"x"), ("b.json", b"{")], "0.tar/b", "its .json is not JSON"),
    "no object": ([("b.jpg", png()), ("b.txt", b"x"), ("b.json", b"[]")], "0.tar/b", "its .json is a JSON list"),
    "an empty picture": ([("b.jpg", b""), ("b.txt", b"x")], "0.tar/b", "is empty (zero bytes)"),
    "a cut picture": ([("b.jpg", png()[:-25]), ("b.txt", b"x")], "0.tar/b", "is truncated or broken"),
    "no picture's bytes": ([("b.jpg", b"GIF?"), ("b.txt", b"x")], "0.tar/b", "is not a picture that can be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record(kind, tmp_path):
  """Named once by `problems`, passed over or told as on_bad says; the records around it are read."""
  members, where, problem = BAD[kind]
  shard(tmp_path / "0.tar", [*record("a"), *members, *record("c")])
  data = c.WebDataset(path=str(tmp_path))
  error, = sources.problems(data)
  assert error.where == where and problem in error.problem and error.remedy and "\n" not in str(error)
  source, good = opened(tmp_path, on_bad="skip"), []
  for index in range(len(source)):
    try:
      good.append(source[index].key)
    except BadRecord as again:
      assert str(again) == str(error)
  assert good == ["0.tar/a", "0.tar/c"] and len(source) == 3
  with pytest.raises(BadRecord, match=re.escape(str(error))):
    spoken(tmp_path)


@pytest.mark.parametrize("names", [("../../out.jpg", "../../out.txt"), ("/etc/out.jpg", "/etc/out.txt")])
def test_names_are_keys_only(names, tmp_path, monkeypatch):
  """A name that would lead outside leads nowhere: its record is the bytes that lie in the shard."""
  (tmp_path / "out.jpg").write_bytes(png((7, 7, 7)))
  root = tmp_path / "a" / "b"
  shard(root / "0.tar", [(names[0], png((5, 5, 5))), (names[1], b"x")])
  before = sorted(tmp_path.rglob("*"))
  source = opened(root)
  assert (source[0].image == 5).all() and source[0].key == f"0.tar/{names[0][:-4]}"
  assert sorted(tmp_path.rglob("*")) == before


def damaged(file: Path, how: str) -> None:
  content = bytearray(file.read_bytes())
  if how == "cut in a picture":      # the second record's, which begins at 6 * 512
    content = content[:7 * 512 + 10]
  elif how == "cut between":
    content = content[:6 * 512]
  elif how == "a header overwritten":
    content[6 * 512:7 * 512] = b"x" * 512
  elif how == "gzip":
    content = gzip.compress(content)
  elif how == "no tar":
    content = b"<html>404</html>" * 100
  elif how == "empty":
    content = b""
  elif how == "a negative size":     # base 256, as GNU tar writes large ones
    content[6 * 512 + 124:6 * 512 + 136] = b"\xff" * 11 + b"\x00"
    header = content[6 * 512:7 * 512]
    header[148:156] = b" " * 8
    content[6 * 512 + 148:6 * 512 + 156] = b"%06o\0 " % sum(header)
  file.write_bytes(content)


@pytest.mark.parametrize("how, problem, left", [
    ("cut in a picture", "is cut inside 'b.jpg'", 1), ("cut between", "ends without the empty blocks", 1),
    ("a header overwritten", "is damaged at byte 3072", 1), ("a negative size", "is cut inside 'b.jpg'", 1),
    ("gzip", "is not an uncompressed tar", 0), ("no tar", "is not an uncompressed tar", 0),
    ("empty", "is not an uncompressed tar, or is damaged (empty file)", 0)])
def test_a_damaged_shard(how, problem, left, tmp_path):
  """Named once; what lies before the damage is used."""
  several(tmp_path, 1)
  damaged(shard(tmp_path / "1.tar", [*record("a"), *record("b")]), how)
  found = sources.problems(c.WebDataset(path=str(tmp_path)))
  assert [error.where for error in found if problem in error.problem][:1] == ["1.tar"]
  source = opened(tmp_path, on_bad="skip")
  good = [source[n].key for n in range(len(source) - len(source.bad))]
  assert [key for key in good if key.startswith("1.tar")] == ["1.tar/a"][:left] and len(good) >= 4
  with pytest.raises(BadRecord, match="^1.tar: "):
    opened(tmp_path)


@pytest.mark.parametrize("make, options, says", [
    (lambda root: "", {}, "data.path: is empty; name the folder of shards"),
    (lambda root: root / "none", {}, "none: no such folder; set data.path to the folder of tar shards"),
    (lambda root: several(root) / "00000.tar", {}, "00000.tar: no such folder"),
    (lambda root: several(root), dict(shards="x*.tar"), "has no shard of data.shards 'x*.tar'; mend the pattern; it has 00000.p"),
    (lambda root: several(root), dict(val_shards="v*"), "has no shard of data.val_shards 'v*'; mend the pattern"),
    (lambda root: several(root), dict(val_shards="*.tar"), "has no record in the train split; add shards to train"),
])
@pytest.mark.parametrize("on_bad", ["stop", "skip"])
def test_nothing_to_read(tmp_path, make, options, says, on_bad):
  with pytest.raises(BadRecord, match=re.escape(says)):
    opened(make(tmp_path), on_bad=on_bad, **options)


def test_validate_command(tmp_path, capsys):
  shard(tmp_path / "tars" / "0.tar", [*record("a"), ("b.jpg", link()), *record("c")])
  (tmp_path / "mine.py").write_text("from unitok.config import *\ndef get_config():\n  return Config(data=WebDataset())\n")
  code = cli.main(["validate", "--config", str(tmp_path / "mine.py"), "--data.path", str(tmp_path / "tars"), "--json"])
  said = json.loads(capsys.readouterr().out)["outputs"][0]
  assert code == 1 and said["bad"][0]["where"] == "0.tar/b.jpg" and said["records"] == {"train": 3, "val": 0, "heldout": 0}
