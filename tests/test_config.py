"""Config files: what is wrong in one is told in one line, with the file, the field and what belongs there."""
import dataclasses
import json
import re

import pytest

from unitok import config as c


@pytest.fixture
def write(tmp_path):
  """write(body of get_config) -> path of a config file."""
  def write(body: str) -> str:
    path = tmp_path / "mine.py"
    path.write_text(f"from unitok.config import *\ndef get_config():\n  {body}\n")
    return str(path)
  return write


def test_load(write):
  """Whole numbers do for floats; the fields of a source are those of its own class."""
  assert c.load(write("return Config(sampling=Sampling(temperature=1), data=Tfds(name='mnist', sizes=((48, 96),)), "
                      "decoder=Decoder(tasks=dict(text=1)))")) == c.Config(
      sampling=c.Sampling(temperature=1.0), data=c.Tfds(name="mnist", sizes=((48, 96),)), decoder=c.Decoder(tasks=dict(text=1.0)))


@pytest.mark.parametrize("config", [c.Config(), c.Config(data=c.Tfds(sizes=((48, 96), (96, 48))), image_tokenizer=c.Pixels())])
def test_json(config):
  """There and back, tuples inside tuples too."""
  assert c.from_json(c.to_json(config)) == c.from_json(json.loads(json.dumps(c.to_json(config)))) == config
  with pytest.raises(ValueError, match="config: decoder.layers is '4', must be int"):
    c.from_json({**c.to_json(config), "decoder": {"layers": "4"}})


@pytest.mark.parametrize("field, value, free", [
    ("unroll", 2, True), ("attention", "blocks", True), ("remat", "layer", True), ("row_length", 512, False)])
def test_what_may_change_on_a_workdir(field, value, free):
  """How a step is computed, not what is learned."""
  other = c.Config(decoder=dataclasses.replace(c.Decoder(), **{field: value}))
  assert (c.difference(c.Config(), other) is None) == free


@pytest.mark.parametrize("made, field, value, wanted", [
    ("Config(seed='7')", "seed", "'7'", "int"),
    ("Config(seed=1.0)", "seed", "1.0", "int"),
    ("Config(seed=True)", "seed", "True", "int"),
    ("Config(wandb=1)", "wandb", "1", "bool"),
    ("Config(name=None)", "name", "None", "str"),
    ("Config(decoder=Decoder(layers='4'))", "decoder.layers", "'4'", "int"),
    ("Config(decoder=Decoder(train=Train(learning_rate='1e-3')))", "decoder.train.learning_rate", "'1e-3'", "float"),
    ("Config(decoder=Decoder(tasks=['text']))", "decoder.tasks", "['text']", "dict[str, float]"),
    ("Config(decoder=Decoder(tasks=dict(text='0.5')))", "decoder.tasks", "{'text': '0.5'}", "dict[str, float]"),
    ("Config(decoder=Decoder(loss_weights=dict(text=True)))", "decoder.loss_weights", "{'text': True}", "dict[str, float]"),
    ("Config(image_tokenizer=ImageTokenizer(widths=64))", "image_tokenizer.widths", "64", "tuple[int, ...]"),
    ("Config(image_tokenizer=ImageTokenizer(widths=('64',)))", "image_tokenizer.widths", "('64',)", "tuple[int, ...]"),
    ("Config(data=Scenes(sizes=(48, 96)))", "data.sizes", "(48, 96)", "tuple[tuple[int, int], ...]"),
    ("Config(data=Scenes(sizes=([48, 96],)))", "data.sizes", "([48, 96],)", "tuple[tuple[int, int], ...]"),
    ("Config(data=Scenes(background=(0, 0)))", "data.background", "(0, 0)", "tuple[int, int, int]"),
    ("Config(image_tokenizer=ImageTokenizer(quantizer='fsq'))", "image_tokenizer.quantizer", "'fsq'", "Quantizer"),
    ("Config(data=ImageFolder(path=3))", "data.path", "3", "str"),
    ("Config(data=ImageFolder(holdout=Holdout(every='2')))", "data.holdout.every", "'2'", "int"),
    ("Config(data=Scenes(resize='stretch'))", "data.resize", "'stretch'", "one of fit, crop, pad"),
    ("Config(data='scenes')", "data", "'scenes'", "Data"),
])
def test_wrong_type(write, made, field, value, wanted):
  path = write(f"return {made}")
  with pytest.raises(ValueError) as told:
    c.load(path)
  assert str(told.value) == f"config {path}: {field} is {value}, must be {wanted}"


@pytest.mark.parametrize("body, says", [
    ("return Config(sead=1)", "unexpected keyword argument 'sead'.*; mend the file"),
    ("return Confik()", "name 'Confik' is not defined; mend the file"),
    ("from unitok.config import Scens", "ImportError: cannot import name 'Scens' .*; mend the file"),
    ("return dict()['seed']", "KeyError: 'seed'; mend the file"),
    ("return 1 / 0", "division by zero; mend the file"),
    ("return (", "SyntaxError: .*; mend the file"),
    ("return 5", r"get_config\(\) returned int, not unitok.config.Config"),
    ("pass\ndel get_config", r"no function get_config\(\); add one"),
])
def test_no_config(write, body, says):
  path = write(body)
  with pytest.raises(ValueError, match=f"config {re.escape(path)}: .*{says}"):
    c.load(path)
