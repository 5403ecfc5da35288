"""Folders in every layout, every way a row can be bad, the splits, the holdout and the caption template."""
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unitok import config
from unitok.config import Holdout, ImageFolder
from unitok.data import captions, sources
from unitok.data.imagefolder import open_imagefolder
from unitok.data.record import BadRecord

EMOJI = Path(__file__).parents[2] / "shared" / "data" / "emoji"
PHOTOS = EMOJI.parent / "photos"


def picture(file, color=(1, 2, 3)):
  file.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", (6, 4), color).save(file)


def folder(root, names, lines=None, metadata="metadata.jsonl"):
  """Pictures, and a metadata file of dicts, texts or bytes as its lines."""
  for name in names:
    picture(root / name)
  if lines is not None:
    rows = [json.dumps(line).encode() if isinstance(line, dict) else line if isinstance(line, bytes) else line.encode()
            for line in lines]
    (root / metadata).write_bytes(b"\n".join(rows) + b"\n")
  return root


def read(root, split="train", **options):
  source = open_imagefolder(ImageFolder(path=str(root), **options), split)
  return {record.key: record for record in (source[i] for i in range(len(source)))}


def spoken(root, split="train", **options):
  return {key: record.captions for key, record in read(root, split, **options).items()}


def test_metadata_jsonl(tmp_path):
  picture(tmp_path / "images/b.png", (200, 100, 0))
  folder(tmp_path, ["images/a.png"], [
      b"\xef\xbb\xbf" + json.dumps({"file_name": "./images/b.png", "captions": [" two ", "zwei"], "style": "flat"}).encode(),
      "", {"file_name": "images/a.png", "text": "eins: ü 🎈"}])
  records = read(tmp_path, image_size=16)
  assert list(records) == ["images/b.png", "images/a.png"]
  record = records["images/b.png"]
  assert record.captions == ("two", "zwei") and record.image.shape == (16, 16, 3)
  assert (record.image == (200, 100, 0)).all()
  assert record.fields["style"] == "flat" and record.fields["caption"] == "two" and record.fields["split"] == "train"
  assert records["images/a.png"].captions == ("eins: ü 🎈",)


def test_text_field(tmp_path):
  folder(tmp_path, ["a.png"], [{"file_name": "a.png", "text": "no", "prompt": ["yes", "ja"]}])
  assert spoken(tmp_path, text_field="prompt") == {"a.png": ("yes", "ja")}


def test_metadata_csv(tmp_path):
  folder(tmp_path, ["a.png", "b.png"], [
      "file_name,text,split,note", 'a.png,"red, ""round""\nand big",train,', "b.png,blau\u2028grün,validation,x"],
      "metadata.csv")
  assert spoken(tmp_path) == {"a.png": ('red, "round"\nand big',)}
  assert spoken(tmp_path, "val") == {"b.png": ("blau\u2028grün",)}


def test_split_folders_each_with_its_metadata(tmp_path):
  folder(tmp_path / "train", ["x.png"], [{"file_name": "x.png", "text": "a"}])
  folder(tmp_path / "validation", ["x.png"], ["file_name,text", "x.png,b"], "metadata.csv")
  folder(tmp_path / "test", ["y.png"], [{"file_name": "y.png", "text": "c"}])
  assert spoken(tmp_path) == {"train/x.png": ("a",)}
  assert spoken(tmp_path, "val", val_share=.9) == {"validation/x.png": ("b",)}
  assert spoken(tmp_path, "heldout") == {}
  assert spoken(tmp_path, "test") == {"test/y.png": ("c",)}


def test_test_is_val_where_there_is_no_val(tmp_path):
  folder(tmp_path, ["train/x.png", "test/y.png"])
  assert spoken(tmp_path) == {"train/x.png": ()} and spoken(tmp_path, "val") == {"test/y.png": ()}
  assert spoken(tmp_path, "test") == {}


def test_problems_of_every_split(tmp_path):
  """Those of test too, where it is not val: each record once."""
  folder(tmp_path, [f"{split}/{n}.png" for split in ("train", "val", "test") for n in range(3)])
  for split in ("train", "val", "test"):
    (tmp_path / split / "1.png").write_bytes(b"no picture")
  found = sources.problems(ImageFolder(path=str(tmp_path)))
  assert [error.where for error in found] == ["train/1.png", "val/1.png", "test/1.png"]


def test_one_metadata_for_split_folders(tmp_path):
  folder(tmp_path, ["train/x.png", "val/y.png"], [{"file_name": "train/x.png", "text": "a"},
                                                  {"file_name": "val/y.png", "text": "b"}])
  assert spoken(tmp_path, "val") == {"val/y.png": ("b",)}


def test_a_txt_beside_each_picture(tmp_path):
  folder(tmp_path, ["a.png", "sub/b.jpg"])
  (tmp_path / "a.txt").write_text("one\r\n\r\nuno \n")
  (tmp_path / "sub/b.txt").write_text("two")
  assert spoken(tmp_path) == {"a.png": ("one", "uno"), "sub/b.jpg": ("two",)}


def test_class_folders(tmp_path):
  folder(tmp_path, ["train/hot_dog/a.png", "train/ice-cream/b.png", "val/hot_dog/c.png"])
  assert spoken(tmp_path) == {"train/hot_dog/a.png": ("hot dog",), "train/ice-cream/b.png": ("ice cream",)}
  assert spoken(tmp_path, "val", caption_template="a photo of a {label}") == {
      "val/hot_dog/c.png": ("a photo of a hot dog",)}


def test_pictures_alone(tmp_path):
  folder(tmp_path, ["images/a.png", "images/b.png"])
  (tmp_path / "images" / "README.md").write_text("not a picture")
  picture(tmp_path / "images" / ".thumbs" / "c.png")
  assert spoken(tmp_path) == {"images/a.png": (), "images/b.png": ()}
  assert spoken(tmp_path, caption_template="a drawing") == {"images/a.png": ("a drawing",), "images/b.png": ("a drawing",)}
  folder(tmp_path, [], [{"file_name": "images/a.png"}])
  assert spoken(tmp_path) == {"images/a.png": ()}
  folder(tmp_path, [], [{"file_name": "images/a.png", "title": "x"}])
  assert spoken(tmp_path, caption_template="") == {"images/a.png": ()}


def test_forty_rows_by_val_share(tmp_path):
  names = [f"{i:02d}.png" for i in range(40)]
  folder(tmp_path, names, [{"file_name": name, "text": f"nr {name}"} for name in names])
  train, val = spoken(tmp_path, val_share=.25), spoken(tmp_path, "val", val_share=.25)
  assert set(train) | set(val) == set(names) and not set(train) & set(val)
  assert 4 <= len(val) <= 16
  assert list(train) == sorted(train)
  folder(tmp_path, ["new.png"], [{"file_name": name, "text": "other"} for name in ["new.png", *reversed(names)]])
  assert set(spoken(tmp_path, "val", val_share=.25)) - {"new.png"} == set(val)   # by name alone
  assert not spoken(tmp_path, "val")


GOOD = {"file_name": "a.png", "text": "fine"}
LINES = {
    "no JSON": ("{file_name: 'b.png'}", "is not JSON", "mend the line"),
    "cut": ('{"file_name": "b.png", "te', "is not JSON", "mend the line"),
    "too deep": ("[" * 100_000, "is not JSON", "mend the line"),
    "no object": ('["b.png", "text"]', "is a JSON list, not an object", "write {"),
    "no file_name": ({"text": "x"}, "has no file_name", "name the picture"),
    "empty file_name": ({"file_name": " ", "text": "x"}, "its file_name is ' '", "name the picture"),
    "file_name a number": ({"file_name": 3, "text": "x"}, "its file_name is 3", "name the picture"),
    "file_name with nul": ({"file_name": "b\0.png", "text": "x"}, "is no legal name", "mend the name"),
    "no caption": ({"file_name": "b.png", "title": "x"}, "has no captions or text", "data.text_field"),
    "empty caption": ({"file_name": "b.png", "text": " \t"}, "has an empty caption", "write a caption"),
    "no captions in the list": ({"file_name": "b.png", "captions": []}, "has an empty caption", "write a caption"),
    "an empty one in the list": ({"file_name": "b.png", "captions": ["x", ""]}, "has an empty caption", "write a caption"),
    "caption a number": ({"file_name": "b.png", "text": 7}, "its caption is '7', not text", "write a text"),
    "half a surrogate": ('{"file_name": "b.png", "text": "\\ud83c"}', "half of a surrogate pair", "mend the text"),
    "not UTF-8": (b'{"file_name": "b.png", "text": "caf\xe9"}', "is not UTF-8 (byte 36)", "save the file as UTF-8"),
    "absolute": ({"file_name": "/etc/passwd", "text": "x"}, "is an absolute path", "inside the folder"),
    "absolute on Windows": ({"file_name": "C:\\b.png", "text": "x"}, "is an absolute path", "inside the folder"),
    "outside": ({"file_name": "../b.png", "text": "x"}, "leads outside the folder", "inside the folder"),
    "outside, hidden": ({"file_name": "x/../../b.png", "text": "x"}, "leads outside the folder", "inside the folder"),
    "a link outside": ({"file_name": "link.png", "text": "x"}, "is a link that leads outside", "copy the picture"),
    "a folder linked outside": ({"file_name": "linked/b.png", "text": "x"}, "is a link that leads outside", "copy the picture"),
    "twice": ({"file_name": "./a.png", "text": "x"}, "lists a.png a second time (first: metadata.jsonl line 1)", "remove one"),
    "unknown split": ({"file_name": "b.png", "text": "x", "split": "trian"}, "its split is 'trian'", "use one of train"),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_bad_line(kind, tmp_path):
  line, problem, remedy = LINES[kind]
  picture(tmp_path / "outside/b.png")
  root = folder(tmp_path / "in", ["a.png", "b.png"], [GOOD, line, {"file_name": "c.png", "text": "after"}])
  (root / "link.png").symlink_to(tmp_path / "outside/b.png")
  (root / "linked").symlink_to(tmp_path / "outside")
  with pytest.raises(BadRecord) as error:
    open_imagefolder(ImageFolder(path=str(root)), "train")
  assert error.value.where == "metadata.jsonl line 2"
  assert problem in error.value.problem and remedy in error.value.remedy and "\n" not in str(error.value)

  source = open_imagefolder(ImageFolder(path=str(root), on_bad="skip"), "train")
  assert len(source) == 3 and source[0].captions == ("fine",)
  with pytest.raises(BadRecord, match="metadata.jsonl line 2"):
    source[1]
  with pytest.raises(BadRecord, match="^c.png: no such file"):
    source[2]
  assert source.captions(2) == ("after",)


@pytest.mark.parametrize("lines, where, problem", [
    (["file_name,text", "a.png"], "metadata.csv line 2", "has 1 cells, the header 2"),
    (["file_name,text", "a.png,"], "metadata.csv line 2", "empty caption"),
    (["file_name,text", ",x"], "metadata.csv line 2", "has no file_name"),
    (["file_name,text", b"a.png,caf\xe9"], "metadata.csv line 2", "is not UTF-8"),
    (["file_name,text", 'a.png,"two\nlines"', 'b.png,"x" y'], "metadata.csv line 4", "is not CSV"),
    (["name,text", "a.png,x"], "metadata.csv line 1", "lacks file_name"),
])
def test_a_bad_csv(tmp_path, lines, where, problem):
  root = folder(tmp_path, ["a.png"], lines, "metadata.csv")
  with pytest.raises(BadRecord) as error:
    open_imagefolder(ImageFolder(path=str(root)), "train")
  assert error.value.where == where and problem in error.value.problem and error.value.remedy


def test_bad_texts_and_classes(tmp_path):
  folder(tmp_path / "txt", ["a.png", "b.png", "c.png", "d.png"])
  for name, text in (("a", b"fine"), ("b", b" \n"), ("c", b"caf\xe9")):
    (tmp_path / "txt" / f"{name}.txt").write_bytes(text)
  found = {error.where: error.problem for error in sources.problems(ImageFolder(path=str(tmp_path / "txt")))}
  assert found == {"b.txt": "has an empty caption", "c.txt": "is not UTF-8 (byte 4)",
                   "d.png": "has no .txt beside it, as other pictures here do"}
  folder(tmp_path / "classes", ["x/a.png", "y/b.png", "c.png"])
  with pytest.raises(BadRecord, match="^c.png: lies beside the class folders"):
    open_imagefolder(ImageFolder(path=str(tmp_path / "classes")), "train")


def test_links_in_a_folder_without_metadata(tmp_path):
  picture(tmp_path / "outside/b.png")
  root = folder(tmp_path / "in", ["a.png"])
  (root / "link.png").symlink_to(tmp_path / "outside/b.png")
  (root / "linked").symlink_to(tmp_path / "outside")
  (root / "same.png").symlink_to(root / "a.png")
  found = sources.problems(ImageFolder(path=str(root)))
  assert [error.where for error in found] == ["link.png", "linked"]


@pytest.mark.parametrize("make, says", [
    (lambda root: root / "none", "none: no such folder; set data.path"),
    (lambda root: folder(root, ["a.png"]) / "a.png", "a.png: is not a folder; set data.path"),
    (lambda root: root, "holds no pictures; add pictures"),
    (lambda root: folder(root, [], [""]), "holds no pictures; add pictures"),
    (lambda root: folder(root, ["val/a.png"]), "has no record in the train split; add pictures to train"),
    (lambda root: folder(folder(root, ["a.png"], [GOOD]), [], ["file_name"], "metadata.csv"), "metadata.csv: a metadata.jsonl"),
])
@pytest.mark.parametrize("on_bad", ["stop", "skip"])
def test_nothing_to_read(tmp_path, make, says, on_bad):
  with pytest.raises(BadRecord) as error:
    open_imagefolder(ImageFolder(path=str(make(tmp_path)), on_bad=on_bad), "train")
  assert says in str(error.value)


def test_problems_lists_every_bad_record_once(tmp_path):
  folder(tmp_path, ["a.png", "b.png", "v.png"], [
      GOOD, {"file_name": "b.png", "text": ""}, "nonsense", {"file_name": "gone.png", "text": "x"},
      {"file_name": "cut.png", "text": "x", "split": "val"}, {"file_name": "v.png", "text": "x", "split": "val"}])
  (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
  found = sources.problems(ImageFolder(path=str(tmp_path)))
  assert sorted(error.where for error in found) == ["cut.png", "gone.png", "metadata.jsonl line 2", "metadata.jsonl line 3"]
  assert [str(e) for e in sources.problems(ImageFolder(path=str(tmp_path / "no")))] == [
      f"{tmp_path / 'no'}: no such folder; set data.path to the folder of pictures"]


def styled(root):
  """Names 0..4 in the styles flat and deep; name 4 in deep alone; name 2's flat is val."""
  rows = [{"file_name": f"{style}{i}.png", "captions": [f"thing {i}", "more"], "style": style}
          for i in range(5) for style in ("flat", "deep") if (i, style) != (4, "flat")]
  for row in rows:
    row["split"] = "val" if row["file_name"] == "flat2.png" else "train"
  return folder(root, [row["file_name"] for row in rows], rows)


@pytest.mark.parametrize("group_by", ["captions", "caption"])
def test_the_holdout(tmp_path, group_by):
  """Groups 0, 2, 4: name 0 loses its deep drawing; 2 and 4 keep theirs, since nothing else of them is in train."""
  rule = dict(holdout=Holdout(group_by, 2, "style", "deep"))
  root = styled(tmp_path)
  assert set(spoken(root, "heldout", **rule)) == {"deep0.png"}
  assert set(spoken(root, "val", **rule)) == {"flat2.png"}
  assert set(spoken(root, "train", **rule)) == {"flat0.png", "flat1.png", "deep1.png", "deep2.png", "flat3.png",
                                                "deep3.png", "deep4.png"}
  assert read(root, "heldout", **rule)["deep0.png"].fields["split"] == "heldout"
  assert not spoken(root, "heldout")


@pytest.mark.parametrize("rule, says", [
    (Holdout("name", 2, "style", "deep"), "data.holdout.group_by: no field 'name'; fields: caption, captions, file_name"),
    (Holdout("captions", 2, "styl", "deep"), "data.holdout.field: no field 'styl'"),
    (Holdout("captions", 2, "style", "3d"), "no record has style '3d'; values: deep, flat"),
    (Holdout("captions", 0, "style", "deep"), "data.holdout.every is 0, must be at least 1"),
])
def test_a_wrong_holdout(tmp_path, rule, says):
  with pytest.raises(ValueError) as error:
    open_imagefolder(ImageFolder(path=str(styled(tmp_path)), holdout=rule), "train")
  assert says in str(error.value)


def test_the_template(tmp_path):
  folder(tmp_path, ["a.png"], [{"file_name": "a.png", "captions": ["cat", "Katze"], "style": "flat", "n": 3,
                                "keywords": ["x", "y"]}])
  assert spoken(tmp_path, caption_template="a {style} {caption} {{{n}}} ({keywords})") == {
      "a.png": ("a flat cat {3} (x, y)", "a flat Katze {3} (x, y)")}
  assert spoken(tmp_path, caption_template="{style}") == {"a.png": ("flat",)}


@pytest.mark.parametrize("template", [
    "{caption.__class__}", "{caption[0]}", "{caption!r}", "{caption:>999999999}", "{}", "{0}", "{ caption }",
    "{caption.__init__.__globals__}", "{styl}"])
def test_a_template_reaches_nothing_but_fields(tmp_path, template):
  folder(tmp_path, ["a.png"], [{"file_name": "a.png", "text": "x"}])
  with pytest.raises(ValueError) as error:
    open_imagefolder(ImageFolder(path=str(tmp_path), caption_template=template), "train")
  assert f"no field {template[1:-1]!r}; fields: caption, captions, file_name, split, text" in str(error.value)


def test_braces_in_a_value_stay_as_they_are(tmp_path):
  text = "{style.__class__} {style} {{x}} %s ${HOME}"
  folder(tmp_path, ["a.png"], [{"file_name": "a.png", "text": text, "style": "{caption}"}])
  assert spoken(tmp_path, caption_template="{style}: {caption}") == {"a.png": ("{caption}: " + text,)}


@pytest.mark.parametrize("template", ["{caption", "caption}", "{cap{tion}", "{{caption}"])
def test_a_lone_brace(template):
  with pytest.raises(ValueError, match="a lone .* at character [0-9]+; write"):
    captions.parse(template)


def test_a_record_without_the_templates_field(tmp_path):
  folder(tmp_path, ["a.png", "b.png"], [{"file_name": "a.png", "text": "x", "style": "flat"},
                                        {"file_name": "b.png", "text": "y", "style": None}])
  with pytest.raises(BadRecord, match="^metadata.jsonl line 2: has no style, which data.caption_template uses"):
    open_imagefolder(ImageFolder(path=str(tmp_path), caption_template="{style} {caption}"), "train")


@pytest.mark.parametrize("options, split, says", [
    (dict(val_share=1.5), "train", "data.val_share is 1.5"), (dict(), "dev", "has train, val, heldout and test")])
def test_wrong_options(tmp_path, options, split, says):
  folder(tmp_path, ["a.png"])
  with pytest.raises(ValueError, match=says):
    open_imagefolder(ImageFolder(path=str(tmp_path), **options), split)


def test_sources_are_those_of_the_config():
  assert list(sources.SOURCES) == list(config.DATA)


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
def test_captions_need_no_picture(tmp_path, on_bad):
  folder(tmp_path, [], [{"file_name": "gone.png", "text": "x"}])
  source = sources.open_source(ImageFolder(path=str(tmp_path), on_bad=on_bad), "train")
  assert sources.captions(source, 0) == ("x",)


@pytest.mark.skipif(not EMOJI.is_dir(), reason="../shared/data/emoji is not here")
def test_emoji():
  data = ImageFolder(path=str(EMOJI), caption_template="a {style} emoji of {caption}",
                     holdout=Holdout("captions", 20, "style", "fluent3d"))
  train, val, held = (open_imagefolder(data, split) for split in sources.SPLITS)
  assert (len(train), len(val), len(held)) == (4229, 232, 63)
  record = train[0]
  assert record.key == "images/fluent3d_0023-20e3.webp" and record.captions == ("a fluent3d emoji of keycap: #",)
  assert record.image.shape == (32, 32, 3) and record.image.std() > 10
  names = {train.rows[i].fields["caption"] for i in range(len(train))}
  assert all(row.fields["style"] == "fluent3d" and row.fields["caption"] in names for row in held.rows)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="../shared/data/photos is not here")
def test_seven_thousand_photographs_open_in_seconds():
  start = time.monotonic()
  source = open_imagefolder(ImageFolder(path=str(PHOTOS)), "train")
  assert len(source) == 6673 and len(source.captions(0)) == 5
  assert time.monotonic() - start < 5   # 0.6 s on an idle core
  assert np.ptp(source[0].image) > 100


def test_copies_of_training_pictures(tmp_path):
  """Each once as it is, then moved; another key each, the same captions; val stays as it is."""
  folder(tmp_path, ["a.png", "b.png", "c.png"], [
      {"file_name": name, "text": name, "split": split} for name, split in (("a.png", "train"), ("b.png", "train"), ("c.png", "val"))])
  Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "a.png")
  plain, records = read(tmp_path, image_size=16), read(tmp_path, image_size=16, copies=3)
  assert list(records) == ["a.png", "b.png", "a.png#1", "b.png#1", "a.png#2", "b.png#2"]
  assert np.array_equal(records["a.png"].image, plain["a.png"].image) and records["a.png#2"].captions == ("a.png",)
  pictures = [records[key].image for key in ("a.png", "a.png#1", "a.png#2")]
  assert len({image.tobytes() for image in pictures}) == 3
  again = read(tmp_path, image_size=16, copies=3)
  assert all(np.array_equal(again[key].image, records[key].image) for key in records)
  assert list(read(tmp_path, "val", copies=3)) == ["c.png"]
  with pytest.raises(ValueError, match="data.copies is 0, must be at least 1"):
    read(tmp_path, copies=0)


def test_boxes_move_with_a_copy(tmp_path):
  """A dark square stays inside its box."""
  pixels = np.full((60, 60, 3), 255, np.uint8)
  pixels[20:40, 10:30] = 0
  Image.fromarray(pixels).save(tmp_path / "a.png")
  folder(tmp_path, [], [{"file_name": "a.png", "text": "a", "objects": {"bbox": [[10, 20, 20, 20]], "categories": ["x"]}}])
  for record in read(tmp_path, image_size=60, copies=5).values():
    rows, columns = np.nonzero(record.image[..., 0] < 128)
    x0, y0, x1, y1 = (60 * edge for edge in record.objects[0].box)
    np.testing.assert_allclose((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), (x0, y0, x1, y1), atol=1.6)


def test_pieces(tmp_path):
  """An interleaved document: texts, and pictures of the folder in their own sizes."""
  folder(tmp_path, ["x/a.png", "x/b.png"], [
      {"file_name": "a.png", "pieces": ["first", {"file_name": "a.png"}, "then", {"file_name": "b.png"}]},
      {"file_name": "b.png"}], metadata="x/metadata.jsonl")
  picture(tmp_path / "x/b.png", (9, 9, 9))
  one, other = read(tmp_path, image_size=16).values()
  assert one.pieces[::2] == ("first", "then") and (one.pieces[3] == 9).all() and (one.pieces[1] == (1, 2, 3)).all()
  assert not other.pieces and one.captions == ()
  sized = open_imagefolder(ImageFolder(path=str(tmp_path), sizes=((16, 16), (16, 24))), "train")[0]
  assert sized.pieces[1].shape == sized.image.shape == (16, 24, 3)


@pytest.mark.parametrize("pieces, says", [
    ("one", "its pieces are one"), ([], "its pieces are"), ([3], "its pieces are"), ([{"file": "a.png"}], "its pieces are"),
    ([{"file_name": "../a.png"}], "leads outside the folder")])
def test_bad_pieces(tmp_path, pieces, says):
  folder(tmp_path, ["a.png"], [{"file_name": "a.png", "text": "a", "pieces": pieces}])
  with pytest.raises(BadRecord, match=says):
    read(tmp_path)
