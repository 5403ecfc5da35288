"""A TensorFlow dataset, prepared as array_record, read without TensorFlow.

`tensorflow_datasets` is imported when a set is opened, not before.
"""
import difflib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from unitok import config
from unitok.data import captions, pictures
from unitok.data.record import BadRecord, Record

DATA_DIR = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
"""Where tfds itself keeps prepared sets."""


class Examples:
  """One split: `examples[i]` reads example i, `examples.captions(i)` decodes no picture."""

  def __init__(self, data: config.Tfds, features, split: str, source):
    """`features`: the set's FeaturesDict; `source`: its DataSource with the picture still encoded."""
    self.data, self.features, self.split, self.source = data, features, split, source
    known = {name for name, feature in features.items() if _plain(feature)} | {"caption", "captions", "split"}
    self.names = sorted(known - {"caption", "captions", "split", data.image_field})
    self.template = captions.check(data.caption_template, known)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Record:
    key, example, texts, fields = self._read(index)
    value = _get(example, self.data.image_field)
    if isinstance(value, np.ndarray) and value.ndim >= 2:   # a Tensor feature: pixels, not a file
      image = _pixels(value, key)
    else:
      image = pictures.load(bytes(value), key, self.data.background)
    return Record(key, pictures.sized(image, self.data), texts, fields)

  def captions(self, index: int) -> tuple[str, ...]:
    """The captions of an example. BadRecord as `[index]`, its picture's faults apart."""
    return self._read(index)[2]

  def _read(self, index: int) -> tuple[str, dict, tuple[str, ...], dict[str, Any]]:
    """(key, example, captions with the template applied, fields)."""
    index = range(len(self))[index]   # IndexError, negative indices
    key = f"{self.split}-{index:08d}"
    try:
      example = self.source[index]
    except Exception as error:   # whatever a decoder says of a damaged record
      raise BadRecord(key, f"cannot be read ({_first(error)})", "prepare the set again") from None
    texts = self._texts(example, key)
    fields = {name: _simple(self.features[name], example[name]) for name in self.names}
    fields = {name: value for name, value in fields.items() if value is not None} | {"split": self.split}
    if texts:
      fields |= {"caption": texts[0], "captions": list(texts)}
    try:
      return key, example, captions.fill(self.template, texts, fields), fields
    except KeyError as error:
      raise BadRecord(key, f"has no {error.args[0]}, which data.caption_template uses",
                      "leave it out with data.on_bad=skip") from None

  def _texts(self, example: dict, key: str) -> tuple[str, ...]:
    name = self.data.text_field or self.data.label_field
    if not name:
      return ()
    values = np.asarray(_get(example, name), dtype=object).reshape(-1).tolist()
    if not self.data.text_field:
      names = _feature(self.features, name).names
      if not values or any(not 0 <= int(value) < len(names) for value in values):
        raise BadRecord(key, f"has no {name} ({values})", "leave it out with data.on_bad=skip")
      return tuple(names[int(value)].replace("_", " ") for value in values)
    try:
      texts = tuple(_decode(value).strip() for value in values)
    except UnicodeDecodeError:
      raise BadRecord(key, f"its {name} is not UTF-8", "leave it out with data.on_bad=skip") from None
    if not texts or not all(texts):
      raise BadRecord(key, f"its {name} is an empty caption", "leave it out with data.on_bad=skip")
    return texts


def open_tfds(data: config.Tfds, split: str) -> Examples | list:
  """The examples of "train" (data.train_split) or "val" (data.val_split); "heldout" is empty.

  ValueError: tensorflow_datasets missing, an unknown set, one that is not prepared as array_record, a split or a
  feature that it does not have (naming those that it has), a feature of the wrong kind.
  """
  if split not in ("train", "val", "heldout"):
    raise ValueError(f"split {split!r}: a TensorFlow dataset has train, val and heldout")
  if split == "heldout":
    return []
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ValueError(f"data source tfds: {error}; pip install tensorflow-datasets array_record") from None
  if not data.name and not data.path:
    raise ValueError("data.name and data.path are both empty; name a set of the catalogue, or a prepared folder")
  builder, what = _builder(tfds, data)
  features = builder.info.features
  if not hasattr(features, "items"):
    raise ValueError(f"{what}: its examples are not dictionaries, so they have no fields to name")
  image = _check_features(tfds, data, features, what)
  skip = tfds.decode.SkipDecoding()
  decoders = {name: skip for name, feature in features.items() if isinstance(feature, tfds.features.Image)}
  if isinstance(image, tfds.features.Image) and data.image_field not in decoders:
    decoders |= _nested(data.image_field, features, skip)
  wanted = data.train_split if split == "train" else data.val_split
  try:
    source = builder.as_data_source(split=wanted, decoders=decoders or None)
    empty = not len(source)
  except (NotImplementedError, OSError):   # another file format, or the code alone
    raise _not_prepared(data, what, f"no array_record files in {builder.data_dir}") from None
  except (ValueError, KeyError, AssertionError) as error:
    names = ", ".join(builder.info.splits) or "none"
    raise ValueError(f"data.{split}_split is {wanted!r}, which {what} does not have ({_first(error)}); "
                     f"splits: {names}") from None
  if split == "train" and empty:
    raise ValueError(f"{what}: split {wanted!r} has no examples; name another in data.train_split")
  return Examples(data, features, wanted, source)


def _builder(tfds, data: config.Tfds):
  """(builder, its name for messages): from the prepared files where they are, so that TensorFlow is not needed."""
  if not data.name:
    try:
      return tfds.builder_from_directory(data.path), data.path
    except Exception as error:   # tfds has no one error for a folder that is not a prepared set
      raise ValueError(f"data.path {data.path}: not a prepared set ({_first(error)}); name the folder that has "
                       "dataset_info.json, e.g. ~/tensorflow_datasets/mnist/3.0.1") from None
  options = {"data_dir": os.path.expanduser(data.path)} if data.path else {}
  try:
    return tfds.core.read_only_builder.builder_from_files(data.name, **options), data.name
  except Exception:   # not prepared, or known by its code alone
    pass
  base = data.name.split("/")[0].split(":")[0]
  if base.isidentifier() and (there := _prepared(data, base)):
    raise ValueError(f"data.name {data.name!r}: not among those prepared in {data.path or DATA_DIR}; it has {there}")
  known = tfds.list_builders(with_community_datasets=False)
  if base not in known:
    close = difflib.get_close_matches(base, known, 3, 0.6)
    hint = f"did you mean {', '.join(close)}?" if close else "tensorflow.org/datasets/catalog lists them"
    raise ValueError(f"data.name {data.name!r}: no such set in the catalogue, nor prepared in "
                     f"{data.path or DATA_DIR}; {hint}")
  if importlib.util.find_spec("tensorflow") is None:   # which the set's code wants
    raise _not_prepared(data, data.name, f"nothing in {data.path or DATA_DIR}")
  try:
    return tfds.builder(data.name, **options), data.name
  except Exception as error:   # no such version or config
    raise _not_prepared(data, data.name, _first(error)) from None


def _prepared(data: config.Tfds, base: str) -> str:
  """The sets of one name that are prepared in data_dir: "coco_captions/2014/1.1.0, …", or ""."""
  root = Path(os.path.expanduser(data.path or DATA_DIR))
  files = (file for pattern in ("*", "*/*") for file in root.glob(f"{base}/{pattern}/dataset_info.json"))
  return ", ".join(sorted(str(file.parent.relative_to(root)) for file in files))


def _not_prepared(data: config.Tfds, what: str, problem: str) -> ValueError:
  """What to run: Python, since the command `tfds build` also wants apache_beam."""
  where = f", data_dir={data.path!r}" if data.path and data.name else ""
  code = f"tfds.builder({data.name or 'NAME'!r}{where}, file_format='array_record').download_and_prepare()"
  return ValueError(f"{what}: not prepared as array_record ({problem}); pip install 'unitok[tfds]', then "
                    f'python -c "import tensorflow_datasets as tfds; {code}"')


def _first(error: BaseException) -> str:
  """The first line of the innermost cause, which tells most, without what tfds puts before it."""
  while error.__cause__ is not None:
    error = error.__cause__
  lines = [line for line in str(error).strip().splitlines() if not line.startswith("In <")] or [type(error).__name__]
  return lines[0].rsplit('}": ', 1)[-1][:160]


def _check_features(tfds, data: config.Tfds, features, what: str):
  """The picture's feature. ValueError names a field that the set lacks, or one of the wrong kind."""
  names = _names(features)
  for option in ("image_field", "text_field", "label_field"):
    name = getattr(data, option)
    if (name or option == "image_field") and _feature(features, name) is None:
      raise ValueError(f"data.{option} is {name!r}, which {what} does not have; features: {', '.join(names)}")
  image = _feature(features, data.image_field)
  pixels = isinstance(image, tfds.features.Tensor) and len(image.shape) >= 2
  if not isinstance(image, tfds.features.Image) and not pixels:
    raise ValueError(f"data.image_field {data.image_field!r} of {what} is {type(image).__name__}, not a picture")
  text, label = data.text_field, data.label_field
  if text and getattr(_feature(features, text), "np_dtype", None) not in (np.object_, np.str_, np.bytes_):
    raise ValueError(f"data.text_field {text!r} of {what} is not text; a class label goes in data.label_field")
  if not text and label and not hasattr(_feature(features, label), "names"):
    raise ValueError(f"data.label_field {label!r} of {what} has no class names; text goes in data.text_field")
  return image


def _names(features, prefix: str = "") -> list[str]:
  """a/b names of all features."""
  out = []
  for name, feature in features.items():
    inner = getattr(feature, "feature", feature)   # of a sequence
    out += _names(inner, f"{prefix}{name}/") if hasattr(inner, "items") else [prefix + name]
  return sorted(out)


def _feature(features, path: str):
  """The feature at a/b, that of a sequence its element's; None where there is none. Names may hold / themselves."""
  for name in (features if hasattr(features, "items") else ()):
    if path == name or path.startswith(name + "/"):
      inner = getattr(features[name], "feature", features[name])
      found = inner if path == name else _feature(inner, path[len(name) + 1:])
      if found is not None:
        return found
  return None


def _get(example, path: str):
  """The value at a/b of an example."""
  for name in (example if isinstance(example, dict) else ()):
    if path == name:
      return example[name]
    if path.startswith(name + "/"):
      found = _get(example[name], path[len(name) + 1:])
      if found is not None:
        return found
  return None


def _nested(path: str, features, leaf) -> dict:
  """{"a": {"b": leaf}} for a/b."""
  for name in features:
    if path == name:
      return {name: leaf}
    if path.startswith(name + "/"):
      return {name: _nested(path[len(name) + 1:], getattr(features[name], "feature", features[name]), leaf)}
  return {}


def _plain(feature) -> bool:
  """Whether a feature is one number, text or class, fit for Record.fields."""
  return not hasattr(feature, "items") and not hasattr(feature, "feature") and feature.shape == ()


def _simple(feature, value):
  """A plain feature's value as Python: text as str, a class as its name; None for an unknown class."""
  value = value.item() if hasattr(value, "item") else value
  if hasattr(feature, "names") and feature.names:
    return feature.names[value].replace("_", " ") if 0 <= value < len(feature.names) else None
  return _decode(value, "replace") if isinstance(value, (bytes, str)) else value


def _decode(value, errors: str = "strict") -> str:
  return value.decode("utf-8", errors) if isinstance(value, bytes) else str(value)


def _pixels(values: np.ndarray, key: str) -> np.ndarray:
  """u8[h w], [h w 1] or [h w 3] -> u8[h w 3]."""
  values = values[..., None] if values.ndim == 2 else values
  if values.dtype != np.uint8 or values.ndim != 3 or values.shape[-1] not in (1, 3):
    raise BadRecord(key, f"its picture is {values.dtype}{list(values.shape)}", "it must be uint8 [h w 1] or [h w 3]")
  return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))
