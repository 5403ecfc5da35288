"""The stages that train step by step, without their arrays, and what they cost one device."""
import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unitok import config as c
from unitok.models import decoder
from unitok.models.attention import LONG_FUSED
from unitok.models.autoencoder import to_pm1
from unitok.models.lpips import shapes as lpips_shapes
from unitok.models.precision import choose
from unitok.models.quantizers import QUANTIZERS
from unitok.objectives import needed
from unitok.optim import optimizer
from unitok.plan.counting import KEY, bytes_of, causal, flops, kept, parameters
from unitok.run import block_sizes, kind_of
from unitok.sequence import Batch
from unitok.sharding import path_name
from unitok.steps import Language, Tokenizer, decoder_state, decoder_step, tokenizer_state, tokenizer_step
from unitok.vocab import make_vocabulary


class Stage(NamedTuple):
  """What a training is, for any number of rows."""
  name: str
  train: c.Train
  model: Tokenizer | Language
  tx: Any                     # its optimizer
  build: Callable             # key -> TrainState
  step: Callable              # (state, batch, key, *given) -> (state, metrics)
  batch: Callable             # rows -> a tree of ShapeDtypeStruct [rows …]
  given: tuple = ()           # shapes of what a step also takes

  def state(self):
    return jax.eval_shape(self.build, KEY)


def tokenizer_stage(config: c.Config) -> Stage:
  """ValueError for a tokenizer that cannot be, or is not trained step by step."""
  options, side = config.image_tokenizer, config.data.image_size
  kind_of(config).check(options, side, config.data.sizes)
  if not isinstance(options, c.ImageTokenizer):
    raise ValueError("image_tokenizer: one of pixels has nothing to train; plan the decoder")
  c.check_train(options.train, "image_tokenizer.train")
  tokenizer, tx = Tokenizer(options, choose(config.compute_dtype, mixed=False)), optimizer(options.train)
  pictures = lambda rows: jax.ShapeDtypeStruct((rows, side, side, 3), np.uint8)
  lpips = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in lpips_shapes().items()}
  return Stage("image_tokenizer", options.train, tokenizer, tx, functools.partial(tokenizer_state, tokenizer, tx),
               functools.partial(tokenizer_step, tokenizer, tx), pictures, (lpips,) if options.losses.perceptual else ())


def decoder_stage(config: c.Config) -> Stage:
  """Its vocabulary is what the config asks for; less where a tokenizer finds fewer pieces or colours."""
  options, image = config.decoder, config.image_tokenizer
  decoder.check(options)
  c.check_train(options.train, "decoder.train")
  learned = isinstance(image, c.ImageTokenizer)
  quantizer = QUANTIZERS[image.quantizer.kind] if learned else None
  codes, books = (quantizer.size(image.quantizer), quantizer.books(image.quantizer)) if learned else (image.colours, 1)
  sizes = block_sizes(config.text.vocab_size, codes, books, "objects" in needed(options.tasks),
                      options.objectives.size_tokens)
  precision, vocabulary = choose(config.compute_dtype), make_vocabulary(sizes, {})
  model = Language(options, vocabulary.size, tuple(options.tasks), precision, vocabulary.further, vocabulary.image)
  tx = optimizer(options.train, products=precision.products)

  def batch(rows: int) -> Batch:
    array = lambda *more, dtype=np.int32: jax.ShapeDtypeStruct((rows, options.row_length, *more), dtype)
    further = array(books - 1) if books > 1 else None
    fields = {name: array() for name in Batch._fields} | {"loss_weights": array(dtype=np.float32)}
    return Batch(**fields)._replace(positions=array(3, dtype=np.float32), extra_codes=further, extra_targets=further)

  return Stage("decoder", options.train, model, tx, functools.partial(decoder_state, model, tx),
               functools.partial(decoder_step, model, tx), batch)


STAGES: dict[str, Callable[[c.Config], Stage]] = {"image_tokenizer": tokenizer_stage, "decoder": decoder_stage}


def on_chips(config: c.Config) -> c.Config:
  """The config as GPU and TPU take it, in a form that a CPU compiles: bfloat16, and attention of long rows by blocks in
  place of the fused kernel, which keeps the same arrays."""
  long = config.decoder.row_length >= LONG_FUSED
  attention = {"auto": "blocks" if long else "dense", "fused": "blocks"}.get(config.decoder.attention)
  dtype = "bfloat16" if config.compute_dtype == "auto" else config.compute_dtype
  return dataclasses.replace(config, compute_dtype=dtype, decoder=dataclasses.replace(
      config.decoder, attention=attention or config.decoder.attention))


def tokenizer_plan(config: c.Config) -> dict[str, Any]:
  """The image tokenizer's cost; {} for one that is not trained step by step."""
  if not isinstance(config.image_tokenizer, c.ImageTokenizer):
    kind_of(config).check(config.image_tokenizer, config.data.image_size, config.data.sizes)
    return {}
  stage = tokenizer_stage(config)
  state, tokenizer, train = stage.state(), stage.model, stage.train
  each = () if tokenizer.books == 1 else (tokenizer.books,)
  grid = [config.data.image_size // config.image_tokenizer.downsampling] * 2
  codes = jax.ShapeDtypeStruct((1, *grid, *each), np.int32)
  weights, batch = (state.params, state.extra["quantizer"]), stage.batch(train.batch_size)

  def painted(params):
    carried, target = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (weights[1], batch))
    return tokenizer.finish(params, tokenizer.through(params, carried, to_pm1(target))[0])

  judge = state.extra.get("judge", {}).get("params")
  return {"parameters": parameters(state.params), "parameters_judge": parameters(judge),
          "codes_a_picture": codes.size, "codebook_size": tokenizer.codebook_size,
          "flops_encode": flops(tokenizer.encode, *weights, stage.batch(1)),
          "flops_decode": flops(tokenizer.decode, *weights, codes),
          **_training(train, tokenizer_flops_step(config), state, kept(painted, state.params))}


def tokenizer_flops_step(config: c.Config) -> int:
  stage = tokenizer_stage(config)
  return flops(stage.step, stage.state(), stage.batch(stage.train.batch_size), KEY, *stage.given)


def decoder_plan(config: c.Config) -> dict[str, Any]:
  """The decoder's cost. Of a row's pairs of tokens those count that a causal row sees, half of all: several documents in
  a row see fewer, a prefix or kept codes more.

  flops_row: of the forward pass; flops_token: of a training's passes by token, three times the forward one (what is
  computed again, and the optimizer, is in flops_step alone).
  """
  stage = decoder_stage(_counted(config))
  state, train, length, rows = stage.state(), stage.train, config.decoder.row_length, stage.train.batch_size
  row, batch = flops_row(config), stage.batch(rows)
  loss = lambda params: stage.model.loss(params, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch))[0]
  return {"parameters": parameters(state.params), "parameters_active": active(state.params, config.decoder),
          "vocabulary": stage.model.vocabulary_size, "row_length": length,
          "flops_row": row, "flops_token": 3 * row // length,
          **_training(train, flops_step(config), state, kept(loss, state.params)), "tokens": train.steps * rows * length}


def active(params, options: c.Decoder) -> int:
  """Parameters that a token goes through: of experts those chosen, of weights by modality one of two."""
  total = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = path_name(path)
    routed = re.search(r"layers/experts/(gate|up|down)/", name)
    share = options.experts_per_token / options.experts if routed else 0.5 if "/kinds/" in name or "/mlp/" in name else 1
    total += leaf.size * share
  return round(total)


def flops_row(config: c.Config) -> int:
  """Of a causal row's forward pass."""
  def of(length: int) -> int:
    stage = decoder_stage(_of_length(_counted(config), length))
    return flops(stage.model.loss, stage.state().params, stage.batch(1))
  return causal(of, config.decoder.row_length)


def flops_step(config: c.Config) -> int:
  """Of a decoder's step on causal rows, with what it computes again and the optimizer's products."""
  stage = decoder_stage(config)
  state, rows = stage.state(), stage.train.batch_size
  optimizing = flops(stage.tx.update, state.params, state.opt_state, state.params)

  def of(length: int) -> int:
    longer = decoder_stage(_of_length(_counted(config), length))
    return flops(longer.step, state, longer.batch(rows), KEY) - optimizing

  return causal(of, config.decoder.row_length) + optimizing


def _counted(config: c.Config) -> c.Config:
  """The config with a decoder whose products a trace shows: attention of all pairs, which `causal` halves, chunks of
  the loss that rows fill, and no measurements on the side."""
  options = config.decoder
  chunk = math.gcd(options.loss_chunk, options.row_length) if options.loss_chunk else 0
  return dataclasses.replace(config, decoder=dataclasses.replace(
      options, attention="dense", loss_chunk=chunk, gradients_every=0, watch_every=0))


def _of_length(config: c.Config, length: int) -> c.Config:
  return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, row_length=length))


def _training(train: c.Train, step: int, state, batch: int) -> dict[str, Any]:
  return {"batch_size": train.batch_size, "steps": train.steps, "examples": train.steps * train.batch_size,
          "flops_step": step, "flops_training": step * train.steps, "bytes_state": bytes_of(state),
          "bytes_activations": batch}
