"""Questions and boxes of an imagefolder: read, placed as the picture is, refused where they are malformed."""
import json

import numpy as np
import pytest
from PIL import Image

from unitok import config
from unitok.data.annotations import Boxed, placed
from unitok.data.imagefolder import open_imagefolder
from unitok.data.pictures import frame
from unitok.data.record import BadRecord
from unitok.data.sources import problems, texts

WHOLE = Boxed("ring", (30.0, 0.0, 30.0, 60.0))    # the middle third of 90 x 60 pixels


@pytest.mark.parametrize("resize, box", [
    ("fit", (1 / 3, 0.0, 2 / 3, 1.0)), ("crop", (0.25, 0.0, 0.75, 1.0)), ("pad", (1 / 3, 1 / 6, 2 / 3, 5 / 6))])
def test_boxes_follow_the_picture(resize, box):
  assert placed([WHOLE], (60, 90), frame((60, 90), (32, 32), resize), "x")[0].box == pytest.approx(box)


def test_what_a_crop_leaves_out_is_gone():
  left, edge = Boxed("left", (0.0, 0.0, 15.0, 60.0)), Boxed("edge", (0.0, 0.0, 30.0, 60.0))
  assert [one.name for one in placed([left, edge], (60, 90), frame((60, 90), (32, 32), "crop"), "x")] == ["edge"]
  assert placed([edge], (60, 90), frame((60, 90), (32, 32), "crop"), "x")[0].box == pytest.approx((0, 0, 0.25, 1))


def folder(tmp_path, **fields):
  pixels = np.zeros((60, 90, 3), np.uint8)
  pixels[:, 30:60] = 255
  Image.fromarray(pixels).save(tmp_path / "a.png")
  (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", **fields}))
  return config.ImageFolder(path=str(tmp_path), image_size=30, resize="fit")


GOOD = dict(objects={"bbox": [[30, 0, 30, 60], [0, 0, 10, 10]], "categories": ["ring", 7]},
            questions=[{"question": "what is it? ", "answer": "a ring"}])


@pytest.mark.parametrize("resize", ["fit", "crop", "pad"])
def test_read(tmp_path, resize):
  """The box covers just the white of the resized picture. No caption is needed beside these."""
  import dataclasses
  data = dataclasses.replace(folder(tmp_path, **GOOD), resize=resize, background=(0, 0, 0))
  record = open_imagefolder(data, "train")[0]
  assert record.questions == (("what is it?", "a ring"),) and record.captions == ()
  names = [one.name for one in record.objects]
  assert names == (["ring"] if resize == "crop" else ["ring", "7"])
  x0, y0, x1, y1 = (np.array(record.objects[0].box) * 30).round().astype(int)
  white = record.image[..., 0] > 128
  assert white[y0:y1, x0:x1].all() and white.sum() == (y1 - y0) * (x1 - x0)


def test_texts(tmp_path):
  """What a text tokenizer is trained on, by what the tasks need."""
  source = open_imagefolder(folder(tmp_path, text="a caption", **GOOD), "train")
  assert texts(source, 0, ("image", "text")) == ("a caption",)
  assert texts(source, 0, ("questions",)) == ("a caption", "what is it?", "a ring")
  assert texts(source, 0, ("objects", "questions"))[-2:] == ("ring", "7")


@pytest.mark.parametrize("fields, says", [
    (dict(questions="why?"), "its questions are why"),
    (dict(questions=[{"question": "why?"}]), "its questions are"),
    (dict(questions=[{"question": "why?", "answer": " "}]), "its questions are"),
    (dict(objects=[1]), "its objects are"),
    (dict(objects={"bbox": [[0, 0, 1, 1]], "categories": []}), "its objects are"),
    (dict(objects={"bbox": [[0, 0, 1]], "categories": ["a"]}), "its box"),
    (dict(objects={"bbox": [[0, 0, 1, 0]], "categories": ["a"]}), "its box"),
    (dict(objects={"bbox": [[0, 0, 1, float("nan")]], "categories": ["a"]}), "its box"),
    (dict(objects={"bbox": [[0, 0, 1, 1]], "categories": [None]}), "its category None is no name"),
    (dict(objects={"bbox": [[80, 0, 20, 1]], "categories": ["a"]}), "leaves the picture of 90 x 60 pixels")])
def test_malformed(tmp_path, fields, says):
  data = folder(tmp_path, text="a caption", **fields)
  found = problems(data)
  assert len(found) == 1 and says in str(found[0]) and "metadata.jsonl line 1" in str(found[0])
  with pytest.raises(BadRecord, match=says):
    open_imagefolder(data, "train")[0]
