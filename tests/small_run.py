"""A whole run of seconds, for tests: every stage, a few steps each. Its weights know nothing, its forms are all legal."""
import dataclasses

import train.decoder
import train.encode
import train.image_tokenizer
import train.text_tokenizer
from train.stage import open_workdir
from unitok import config as c
from unitok.objectives import OBJECTIVES

TRAIN = c.Train(steps=3, batch_size=4, warmup_steps=1, log_every=1, save_every=3, sample_every=3)
CONFIG = c.Config(
    name="small",
    data=c.Scenes(image_size=16, train_examples=48, val_examples=9),
    text=c.Text(vocab_size=300),
    image_tokenizer=c.ImageTokenizer(widths=(8,), blocks=(1,), patch=4, train=TRAIN,
                                     quantizer=c.Quantizer(codebook_size=32, code_dim=4)),
    decoder=c.Decoder(layers=1, width=32, heads=2, kv_heads=1, hidden=32, row_length=128, train=TRAIN))


def make(workdir, config: c.Config = CONFIG):
  """All stages into `workdir`."""
  workdir = open_workdir(workdir, config)
  for stage in (train.text_tokenizer, train.image_tokenizer, train.encode, train.decoder):
    stage.run(config, workdir)
  return workdir


VERSATILE = dataclasses.replace(CONFIG, decoder=dataclasses.replace(
    CONFIG.decoder, row_length=192, loss_weights={}, tasks={name: 1.0 for name in OBJECTIVES if name != "glm_sentences"}))
"""Of all objectives that fit into its rows: the captions of a scene, all together, do not."""
MADE = []


def made(tmp_path_factory, config: c.Config = CONFIG):
  """One such folder for all tests of a session; they leave it as it is."""
  for known, folder in MADE:
    if known == config:
      return folder
  MADE.append((config, make(tmp_path_factory.mktemp("small_run"), config)))
  return MADE[-1][1]
