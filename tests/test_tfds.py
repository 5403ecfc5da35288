"""Sets prepared by builders of our own (without TensorFlow: pictures come encoded), and mocked coco_captions."""
import importlib.util
import io
import sys

import numpy as np
import pytest
from PIL import Image

from unitok import config
from unitok.data.record import BadRecord
from unitok.data.tfds import open_tfds

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
needs_tensorflow = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None,
                                      reason="tensorflow is not installed (pip install unitok[tfds])")
NAMES = ["cat", "hot_dog"]
SIZE = 5


def png(color, size=(8, 6), mode="RGB"):
  file = io.BytesIO()
  Image.new(mode, size, color).save(file, "PNG")
  return file.getvalue()


def example(i):
  """Example i of the sets below: a colour that tells i, its captions, its class."""
  return dict(image=png((i * 10, 0, 255)), captions=[dict(id=i, text=f"picture {i}"), dict(id=9, text=f"nr {i}")],
              label=i % 2, title=f"Título {i}", number=i)


def prepare(folder, name="tiny_pictures", version="1.0.0", builder_config=None, examples=None):
  """A set prepared under `folder`, without registering its builder: as if another program had made it."""
  made = examples or {"train": [example(i) for i in range(SIZE)], "validation": [example(7)]}
  with tfds.core.registered.skip_registration():
    class Tiny(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version(version)
      BUILDER_CONFIGS = [builder_config] if builder_config else []

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
            "label": tfds.features.ClassLabel(names=NAMES),
            "title": tfds.features.Text(),
            "number": np.int64,
        }))

      def _split_generators(self, download_manager):
        return {split: self._generate_examples(split) for split in made}

      def _generate_examples(self, split):
        yield from enumerate(made[split])

    Tiny.name = name
    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return str(prepare(tmp_path_factory.mktemp("tfds")))


def prepared(folder):
  return f"{folder}/tiny_pictures/1.0.0"


def by_number(source):
  return {record.fields["number"]: record for record in (source[i] for i in range(len(source)))}


def test_a_prepared_folder_is_read_whole(folder):
  records = by_number(open_tfds(config.Tfds(path=prepared(folder), text_field="captions/text"), "train"))
  assert sorted(records) == list(range(SIZE))
  for i, record in records.items():
    assert record.image.shape == (32, 32, 3) and record.image.dtype == np.uint8
    assert (record.image == (i * 10, 0, 255)).all()
    assert record.captions == (f"picture {i}", f"nr {i}")
    assert record.fields["label"] == NAMES[i % 2].replace("_", " ") and record.fields["title"] == f"Título {i}"
  assert len({record.key for record in records.values()}) == SIZE


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="tensorflow is installed here")
def test_preparing_and_reading_asked_for_no_tensorflow(folder):
  assert open_tfds(config.Tfds(path=prepared(folder)), "train")[0].captions == ()
  assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["tiny_pictures", "tiny_pictures:1.0.0"])
def test_by_name(folder, name):
  source = open_tfds(config.Tfds(name=name, path=folder, text_field="title"), "val")
  assert len(source) == 1 and source[0].captions == ("Título 7",) and source.captions(0) == ("Título 7",)


def test_class_names_and_templates(folder):
  data = config.Tfds(path=prepared(folder), label_field="label", caption_template="a {caption}, nr {number}: {title}")
  for i, record in by_number(open_tfds(data, "train")).items():
    assert record.captions == (f"a {('cat', 'hot dog')[i % 2]}, nr {i}: Título {i}",)


def test_part_of_a_split_and_what_there_is_not(folder):
  data = config.Tfds(path=prepared(folder), train_split="train[:2]", val_split="train[2:]")
  train, val = open_tfds(data, "train"), open_tfds(data, "val")
  assert len(train) == 2 and len(val) == SIZE - 2
  assert not set(by_number(train)) & set(by_number(val))
  assert len(open_tfds(data, "heldout")) == 0
  with pytest.raises(IndexError):
    train[2]


@pytest.mark.parametrize("options, says", [
    (dict(path="{0}", image_field="img"), "data.image_field is 'img', which {0} does not have; features: captions/id, "),
    (dict(path="{0}", text_field="captions/txt"), "features: captions/id, captions/text, image, label, number, title"),
    (dict(path="{0}", image_field="label"), "ClassLabel, not a picture"),
    (dict(path="{0}", text_field="label"), "a class label goes in data.label_field"),
    (dict(path="{0}", label_field="title"), "text goes in data.text_field"),
    (dict(path="{0}", train_split="trian"), "data.train_split is 'trian', which {0} does not have"),
    (dict(path="{0}", caption_template="a {style}"), "no field 'style'; fields: caption, captions, label, number"),
    (dict(path="{0}/nothing"), "name the folder that has dataset_info.json"),
    (dict(name="tiny_pictures:2.0.0", path="{1}"), "it has tiny_pictures/1.0.0"),
    (dict(name="minst", path="{1}"), "did you mean mnist"),
    (dict(name="../../x", path="{1}"), "no such set in the catalogue"),
    (dict(name="mnist", path="{1}"), "tfds.builder('mnist', data_dir='{1}', file_format='array_record').download_and_prepare()"),
    (dict(), "data.name and data.path are both empty"),
])
def test_errors_name_what_is_wrong_and_what_there_is(folder, options, says):
  options = {name: text.replace("{0}", prepared(folder)).replace("{1}", folder) for name, text in options.items()}
  with pytest.raises(ValueError) as error:
    open_tfds(config.Tfds(**options), "train")
  assert says.replace("{0}", prepared(folder)).replace("{1}", folder) in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes, options, says", [
    (dict(image=b"GIF89a but no more"), {}, "not a picture"),
    (dict(image=png((1, 2, 3), (500, 500))[:400]), {}, "truncated"),
    (dict(title="  "), dict(text_field="title"), "empty caption"),
    (dict(captions=[]), dict(text_field="captions/text"), "empty caption"),
    (dict(title=b"\xff\xfe"), dict(text_field="title"), "not UTF-8"),
    (dict(label=-1), dict(label_field="label"), "has no label"),
    (dict(label=-1), dict(caption_template="a {label}"), "has no label, which data.caption_template uses"),
])
def test_bad_examples(tmp_path, changes, options, says):
  prepare(tmp_path, examples={"train": [example(0) | changes]})
  source = open_tfds(config.Tfds(path=prepared(tmp_path), **options), "train")
  with pytest.raises(BadRecord) as error:
    source[0]
  assert error.value.where == "train-00000000" and says in error.value.problem and error.value.remedy


def test_pictures_of_any_kind(tmp_path):
  """What a set stores is decoded by `pictures`: palette with alpha, grey."""
  kinds = [png(7, mode="L"), png((0, 0, 0, 0), mode="RGBA")]
  prepare(tmp_path, examples={"train": [example(i) | dict(image=kind) for i, kind in enumerate(kinds)]})
  records = by_number(open_tfds(config.Tfds(path=prepared(tmp_path), background=(1, 2, 3)), "train"))
  assert (records[0].image == 7).all() and (records[1].image == (1, 2, 3)).all()


def test_a_config_of_a_set(tmp_path):
  """coco_captions/2014 as another machine would have prepared it; without its config's name the set is named."""
  prepare(tmp_path, "coco_captions", "1.1.0", tfds.core.BuilderConfig(name="2014"))
  source = open_tfds(config.Tfds(name="coco_captions/2014", path=str(tmp_path), text_field="captions/text"), "train")
  assert len(source) == SIZE and source[0].captions[0].startswith("picture ")
  with pytest.raises(ValueError, match="coco_captions/2014/1.1.0|prepared as array_record"):
    open_tfds(config.Tfds(name="coco_captions/2015", path=str(tmp_path)), "train")


@needs_tensorflow
def test_mocked_coco_captions(tmp_path):
  """The catalogue's own builder and features; tfds makes the examples up, encoded as they are stored.

  Its plain mock cannot: it draws boxes with min > max and sequences of unequal parts, which its encoder refuses.
  """
  from tensorflow_datasets.testing import mocking

  def as_data_source(self, split, decoders=None, **_):
    assert split == "train" and set(decoders) == {"image"}
    names = ("image", "captions", "image/id", "image/filename")
    features = tfds.features.FeaturesDict({name: self.info.features[name] for name in names})
    return list(mocking.EncodedRandomFakeGenerator(features, 3, constant_dynamic_shape=True))

  with tfds.testing.mock_data(as_data_source_fn=as_data_source, policy=tfds.testing.MockPolicy.USE_CODE):
    source = open_tfds(config.Tfds(name="coco_captions/2014", path=str(tmp_path), text_field="captions/text",
                                   train_split="train", val_split="val"), "train")
    records = [source[i] for i in range(len(source))]
  assert len(records) == 3
  for record in records:
    assert record.image.shape == (32, 32, 3) and len(record.captions) == 10 and all(record.captions)
    assert {"image/id", "image/filename"} <= set(record.fields)


@needs_tensorflow
def test_a_set_prepared_with_tensorflow(tmp_path):
  """Pictures handed over as arrays: tfds encodes them with TensorFlow, we read them without."""
  pixels = np.full((9, 9, 3), 40, np.uint8)
  prepare(tmp_path, examples={"train": [example(0) | dict(image=pixels)]})
  assert (open_tfds(config.Tfds(path=prepared(tmp_path)), "train")[0].image == 40).all()
