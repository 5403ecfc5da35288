"""What a run's networks cost, before anything is made: parameters, products, bytes.

All is counted on the traced programs that training runs, with arrays that are not there; so the cost of a network for
a large machine is known in seconds on a small one.
"""
import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unitok import config as c
from unitok.models import decoder
from unitok.models.autoencoder import to_pm1
from unitok.models.precision import choose
from unitok.models.quantizers import QUANTIZERS
from unitok.objectives import needed
from unitok.optim import optimizer, path_name
from unitok.run import block_sizes, kind_of
from unitok.sequence import Batch
from unitok.steps import Language, Tokenizer, decoder_state, decoder_step, tokenizer_state, tokenizer_step
from unitok.vocab import make_vocabulary

KEY = jax.ShapeDtypeStruct((), jax.eval_shape(lambda: jax.random.key(0)).dtype)


def flops(function, *arguments) -> int:
  """Of the matrix products and convolutions of function(*arguments), a multiply-add is two.

  Arguments may be abstract; the longest branch of a condition counts. ValueError for a loop whose length only the data
  knows.
  """
  return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    name, out = equation.primitive.name, equation.outvars[0].aval if equation.outvars else None
    if name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      total += 2 * out.size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    elif name == "conv_general_dilated":
      kernel, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
      total += 2 * out.size * kernel.size // kernel.shape[numbers.rhs_spec[0]] // equation.params["batch_group_count"]
    inner = [_flops(getattr(one, "jaxpr", one)) for value in equation.params.values()
             for one in (value if isinstance(value, (tuple, list)) else (value,))
             if hasattr(getattr(one, "jaxpr", one), "eqns")]
    if name == "while" and any(inner):
      raise ValueError("flops: a loop's length is known to the data alone; count a form without it")
    total += max(inner, default=0) if name == "cond" else equation.params.get("length", 1) * sum(inner)
  return total


def parameters(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def active(params, options: c.Decoder) -> int:
  """Parameters that a token goes through: of experts those chosen, of weights by modality one of two."""
  total = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = path_name(path)
    routed = re.search(r"layers/experts/(gate|up|down)/", name)
    share = options.experts_per_token / options.experts if routed else 0.5 if "/kinds/" in name or "/mlp/" in name else 1
    total += leaf.size * share
  return round(total)


def bytes_of(tree) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if leaf.dtype != KEY.dtype)


def kept(function, params) -> int:
  """Bytes that function(params) leaves for its backward pass beside the parameters, as traced: a compiler that fuses
  keeps less."""
  traced = jax.make_jaxpr(lambda params: jax.tree.leaves(jax.vjp(function, params)[1]))(params).jaxpr
  left = {id(var): var.aval for var in traced.outvars if var not in traced.invars}
  return sum(aval.size * aval.dtype.itemsize for aval in left.values())


def tokenizer_plan(config: c.Config) -> dict[str, Any]:
  """The image tokenizer's cost; {} for one that is not trained step by step."""
  options, side = config.image_tokenizer, config.data.image_size
  kind_of(config).check(options, side, config.data.sizes)
  if not isinstance(options, c.ImageTokenizer):
    return {}
  tokenizer, train = Tokenizer(options, choose(config.compute_dtype, mixed=False)), options.train
  tx = optimizer(train)
  state = jax.eval_shape(functools.partial(tokenizer_state, tokenizer, tx), KEY)
  pictures = lambda count: jax.ShapeDtypeStruct((count, side, side, 3), np.uint8)
  each = () if tokenizer.books == 1 else (tokenizer.books,)
  codes = jax.ShapeDtypeStruct((1, *[side // options.downsampling] * 2, *each), np.int32)
  weights, batch = (state.params, state.extra["quantizer"]), pictures(train.batch_size)
  step = flops(functools.partial(tokenizer_step, tokenizer, tx), state, batch, KEY)

  def painted(params):
    carried, target = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (weights[1], batch))
    return tokenizer.finish(params, tokenizer.through(params, carried, to_pm1(target))[0])

  judge = state.extra.get("judge", {}).get("params")
  return {"parameters": parameters(state.params), "parameters_judge": parameters(judge),
          "codes_a_picture": codes.size, "codebook_size": tokenizer.codebook_size,
          "flops_encode": flops(tokenizer.encode, *weights, pictures(1)),
          "flops_decode": flops(tokenizer.decode, *weights, codes),
          **_training(train, step, state, kept(painted, state.params))}


def decoder_plan(config: c.Config) -> dict[str, Any]:
  """The decoder's cost, all pairs of a row's tokens counted; less where a tokenizer finds fewer pieces or colours."""
  options = dataclasses.replace(config.decoder, attention="dense")
  decoder.check(options)
  train, image = options.train, config.image_tokenizer
  learned = isinstance(image, c.ImageTokenizer)
  quantizer = QUANTIZERS[image.quantizer.kind] if learned else None
  codes, books = (quantizer.size(image.quantizer), quantizer.books(image.quantizer)) if learned else (image.colours, 1)
  sizes = block_sizes(config.text.vocab_size, codes, books, "objects" in needed(options.tasks),
                      options.objectives.size_tokens)
  precision, tasks = choose(config.compute_dtype), tuple(options.tasks)
  vocabulary = make_vocabulary(sizes, {})
  model = Language(options, vocabulary.size, tasks, precision, vocabulary.further, vocabulary.image)
  tx = optimizer(train, products=precision.products)
  state = jax.eval_shape(functools.partial(decoder_state, model, tx), KEY)
  rows = lambda *more, dtype=np.int32: jax.ShapeDtypeStruct((train.batch_size, options.row_length, *more), dtype)
  further = rows(books - 1) if books > 1 else None
  batch = Batch(**{name: rows() for name in Batch._fields})._replace(
      loss_weights=rows(dtype=np.float32), positions=rows(3), extra_codes=further, extra_targets=further)
  step = flops(functools.partial(decoder_step, model, tx), state, batch, KEY)
  loss = lambda params: model.loss(params, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch))[0]
  return {"parameters": parameters(state.params), "parameters_active": active(state.params, options),
          "vocabulary": model.vocabulary_size, "row_length": options.row_length,
          "flops_row": flops(model.loss, state.params, batch) // train.batch_size,
          **_training(train, step, state, kept(loss, state.params))}


def _training(train: c.Train, step: int, state, batch: int) -> dict[str, Any]:
  return {"batch_size": train.batch_size, "steps": train.steps, "examples": train.steps * train.batch_size,
          "flops_step": step, "flops_training": step * train.steps, "bytes_state": bytes_of(state),
          "bytes_batch": batch}
