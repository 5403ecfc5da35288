"""The pure train and eval steps: scripts, benchmarks and notebooks call the same."""
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from unitok import config as c
from unitok.losses import by_task, cross_entropy, cross_entropy_in_chunks, picture_losses, weighted
from unitok.metrics import Mean, usage
from unitok.models.adversary import Adversary
from unitok.models.autoencoder import Autoencoder, to_pm1, to_u8
from unitok.models.decoder import Decoder
from unitok.models.experts import balanced as balanced_experts
from unitok.models.int8 import to_int8
from unitok.models.precision import FLOAT32, Precision
from unitok.models.ring_attention import balanced
from unitok.models.rule import Rule, rule_of
from unitok.models.quantizers import QUANTIZERS
from unitok.optim import averaged
from unitok.sharding import devices


class TrainState(NamedTuple):
  step: jax.Array           # i32[]
  params: Any
  opt_state: Any
  extra: dict               # "average": the weights' running mean; "quantizer": its state; "judge": where there is one


def unless_broken(finite, new, old):
  """The tree `new`, or `old` where the loss or a gradient is not finite: such a step changes nothing but its number.

  A choice by number in the loops that update the weights anyway: there is no second pass over them.
  """
  return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


# ---- image tokenizer

class Tokenizer:
  """Pure functions of one autoencoder and its quantizer, closed over the config."""

  def __init__(self, options: c.ImageTokenizer, precision: Precision = FLOAT32):
    self.options, self.precision = options, precision
    self.quantizer = QUANTIZERS[options.quantizer.kind]
    self.adversary = Adversary(options.losses, precision) if options.losses.adversarial else None
    self.graph = nnx.graphdef(nnx.eval_shape(lambda: Autoencoder(options, precision, nnx.Rngs(0))))

  @property
  def codebook_size(self) -> int:
    return self.quantizer.size(self.options.quantizer)

  @property
  def books(self) -> int:
    return self.quantizer.books(self.options.quantizer)

  def init(self, key):
    """(params, quantizer state)."""
    network, codes = jax.random.split(key)
    params = nnx.to_pure_dict(nnx.state(Autoencoder(self.options, self.precision, nnx.Rngs(network)), nnx.Param))
    params["quantizer"], state = self.quantizer.init(codes, self.options.quantizer)
    return params, state

  def _model(self, params) -> Autoencoder:
    return nnx.merge(self.graph, {k: v for k, v in params.items() if k != "quantizer"})

  def features(self, params, pixels_pm1):
    """f32[b h w d] before quantization."""
    return self._model(params).encoder(pixels_pm1)

  def encode(self, params, state, pixels):
    """u8[b H W 3] -> codes i32[b h w], or i32[b h w G] of G > 1 books."""
    z = self.features(params, to_pm1(pixels))
    codes = self.quantizer.quantize(params["quantizer"], state, z.reshape(-1, z.shape[-1]), self.options.quantizer).codes
    return codes.reshape(*z.shape[:-1], *codes.shape[1:])

  def decode(self, params, state, codes):
    """codes as `encode` makes them -> u8[b H W 3]."""
    flat = codes.reshape(-1, *codes.shape[3:])
    values = self.quantizer.lookup(params["quantizer"], state, flat, self.options.quantizer)
    painter = self._model(params).painter
    return to_u8(painter.finish(painter.paint(values.reshape(*codes.shape[:3], -1))))

  def through(self, params, state, target):
    """Pictures f32[b h w 3] through the codes: (what the last layer paints from, Quantized, z f32[n d])."""
    model = self._model(params)
    z = model.encoder(target)
    flat = z.reshape(-1, z.shape[-1])
    quantized = self.quantizer.quantize(params["quantizer"], state, flat, self.options.quantizer)
    return model.painter.paint(quantized.values.reshape(z.shape)), quantized, flat

  def finish(self, params, last):
    """The painted pictures f32[b h w 3]."""
    return self._model(params).painter.finish(last)


def tokenizer_state(tokenizer: Tokenizer, tx, key) -> TrainState:
  params, state = tokenizer.init(key)
  extra = {"average": jax.tree.map(jnp.copy, params), "quantizer": state}
  if tokenizer.adversary:
    extra["judge"] = tokenizer.adversary.init(jax.random.fold_in(key, 2))
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), extra)


def tokenizer_step(tokenizer: Tokenizer, tx, state: TrainState, pixels, key, perceptual=None):
  """One update on u8[b h w 3] -> (state, metrics). perceptual: LPIPS' weights, where that loss has a weight.

  Where the loss or a gradient, also the judge's, is not finite nothing is updated and `skipped` is 1.
  """
  train, losses, target, extra = tokenizer.options.train, tokenizer.options.losses, to_pm1(pixels), dict(state.extra)

  def forward(params):
    last, quantized, z = tokenizer.through(params, extra["quantizer"], target)
    return (tokenizer.finish(params, last), sum(quantized.losses.values(), jnp.float32(0))), (last, quantized, z)

  def difference(painted):
    parts = picture_losses(painted, target, losses, perceptual)
    return sum(parts.values(), jnp.float32(0)), parts

  (painted, of_codes), back, (last, quantized, z) = jax.vjp(forward, state.params, has_aux=True)
  (of_pixels, parts), towards = jax.value_and_grad(difference, has_aux=True)(painted)
  judged = {}
  if tokenizer.adversary:
    last_layer = jax.vjp(lambda params: tokenizer.finish(params, last), state.params)[1]
    extra["judge"], push, judged = tokenizer.adversary.step(
        extra["judge"], state.step, painted, target, towards, last_layer)
    towards = towards + push
  grads, = back((towards, jnp.float32(1)))
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  revive_until = train.steps * 0.8   # after that the codes settle
  quantizer, carried, revived = tokenizer.quantizer.update(
      params["quantizer"], extra["quantizer"], z, quantized.codes,
      jnp.where(state.step < revive_until, state.step, 0), jax.random.fold_in(key, state.step), tokenizer.options.quantizer)
  params = {**params, "quantizer": quantizer}
  extra |= {"average": averaged(extra["average"], params, train.ema_decay, state.step), "quantizer": carried}
  extra["average"]["quantizer"] = quantizer
  loss, norm = of_pixels + of_codes, optax.tree.norm(grads)
  finite = jnp.isfinite(loss + norm + judged.get("judge_gradient_norm", 0.0))
  params, opt_state, extra = unless_broken(finite, (params, opt_state, extra),
                                           (state.params, state.opt_state, dict(state.extra)))
  metrics = {"loss": loss, "gradient_norm": norm, "skipped": 1.0 - finite,
             "psnr_db": -10 * jnp.log10(((painted - target) ** 2).mean() / 4), "revived": revived,
             **parts, **quantized.losses, **judged,
             **{f"codebook_{k}": v for k, v in usage(carried["counts"] * (carried["counts"] > 1e-2)).items()}}
  return TrainState(state.step + 1, params, opt_state, extra), metrics


# ---- decoder

class Language:
  """Pure functions of one decoder, closed over the config. further, image: `Vocabulary.further`, `Vocabulary.image`."""

  def __init__(self, options: c.Decoder, vocabulary_size: int, tasks: tuple[str, ...],
               precision: Precision = FLOAT32, further: tuple[range, ...] = (), image: tuple[range, ...] = ()):
    self.options, self.vocabulary_size, self.tasks, self.precision = options, vocabulary_size, tasks, precision
    self.further, self.image = further, image
    self.graph = nnx.graphdef(nnx.eval_shape(self._new, jax.random.key(0)))

  def _new(self, key) -> Decoder:
    return Decoder(self.options, self.vocabulary_size, self.precision, nnx.Rngs(key), self.further, self.image)

  def init(self, key):
    return nnx.to_pure_dict(nnx.state(self._new(key), nnx.Param))

  def model(self, params) -> Decoder:
    return nnx.merge(self.graph, params)

  def in_int8(self, params, matrices: bool = True, cache: bool = False) -> tuple["Language", Any]:
    """The same with its matrices, and the rows that they multiply, in int8 (models/int8.py), for drawing and scoring, and
    its params; or with its cache in int8, or both. ValueError for matrices where there are experts."""
    o = self.options
    if matrices and (o.experts > 1 or o.modality_experts != "none"):
      raise ValueError("int8: this model has experts (decoder.experts or decoder.modality_experts), must have none; draw "
                       "without int8")
    given, byte = self.precision, jnp.dtype("int8")
    precision = Precision(given.activations, byte if matrices else given.products, byte if cache else given.cache)
    less = Language(dataclasses.replace(o, loss_chunk=0) if matrices else o, self.vocabulary_size, self.tasks, precision,
                    self.further, self.image)
    like = jax.eval_shape(less.init, jax.random.key(0))
    return less, jax.jit(functools.partial(to_int8, like))(params) if matrices else params

  def loss(self, params, batch, key=None, total=None):
    """batch: sequence.Batch of [b l] -> (loss, Mean of nats by task). key: of the dropout, None drops nothing; total: the
    sum of all loss weights, where this is one of train.accumulate parts of a batch, whose loss is the sum of its parts'.

    The nats of a place with several codes are the mean over them, so that a picture weighs beside a text what its
    places do, however many books they have.
    """
    loss, (tasks, _) = self.routed(params, batch, key, total)
    return loss, tasks

  def routed(self, params, batch, key=None, total=None):
    """`loss` with what experts did: (loss, (Mean of nats by task, Routed of each layer or None))."""
    place = None
    if devices("sequence") > 1:
      batch, place = balanced((batch, jnp.arange(batch.inputs.shape[1])[None]), devices("sequence"))
      place = place[0]
    nats, squares, routed = self._nats(params, batch, key, place)
    weights = batch.loss_weights.reshape(-1)
    tasks = by_task(nats, weights, batch.tasks.reshape(-1), len(self.tasks))
    loss = weighted(nats, squares, weights, self.options.z_loss, total)
    if routed is not None:
      rows = batch.inputs.shape[0] * (1 if total is None else self.options.train.accumulate)
      loss = loss + self.options.balance_loss * routed.balance.mean() / rows
    return loss, (tasks, routed)

  def nats(self, params, batch, key=None):
    """(nats, log²Z), f32[b·l] each, of every target: means over its codes."""
    return self._nats(params, batch, key)[:2]

  def _nats(self, params, batch, key=None, place=None):
    """(nats, log²Z, Routed or None)."""
    model = self.model(params)
    hidden, routed = model.trained(batch.inputs, batch.positions, rule_of(batch), batch.extra_codes, key, place)
    nats, log_z, there = self.of_books(model, hidden, batch.targets, batch.extra_targets)
    if not self.further:
      return nats[0], log_z[0] ** 2, routed
    mean = lambda x: (x * there).sum(0) / there.sum(0)
    return mean(nats), mean(log_z**2), routed

  def log_p(self, params, fields: dict):
    """f32[b l]: log p of each target, all codes of a place together; fields: of a Batch, by name."""
    rule, model = Rule(*(fields[name] for name in Rule._fields)), self.model(params)
    hidden = model.hidden(fields["inputs"], fields["positions"], rule, fields.get("extra_codes"))
    nats, _, there = self.of_books(model, hidden, fields["targets"], fields.get("extra_targets"))
    return -jnp.where(there, nats, 0.0).sum(0).reshape(hidden.shape[:2])

  def after(self, params, fields: dict, at):
    """f32[b v]: the logits of what follows the tokens at i32[b]; fields: of a Batch, by name."""
    rule, model = Rule(*(fields[name] for name in Rule._fields)), self.model(params)
    hidden = model.hidden(fields["inputs"], fields["positions"], rule, fields.get("extra_codes"))
    return model.logits(jnp.take_along_axis(hidden, at[:, None, None], 1)[:, 0])

  def of_books(self, model: Decoder, hidden, targets, extra_targets):
    """(nats, log Z, is there such a code), [G b·l] each: of a target's code of every book given the codes before it.

    hidden [b l w], targets i32[b l], extra_targets i32[b l G-1], -1 where there is none, or None at G = 1.
    """
    flat, chunk, targets = hidden.reshape(-1, hidden.shape[-1]), self.options.loss_chunk, targets.reshape(-1)

    def score(targets, *codes):
      before = jnp.stack(codes, -1) if codes else None
      if not chunk:
        return cross_entropy(model.next_book(flat, before) if codes else model.logits(flat), targets)
      x, kernel = model.book(flat, before) if codes else (flat, model.head.kernel[...])
      shape = hidden.shape[:2]
      found = cross_entropy_in_chunks(x.reshape(hidden.shape), kernel, targets.reshape(shape), model.columns, chunk)
      return tuple(one.reshape(-1) for one in found)

    found = [(*score(targets), jnp.ones(targets.shape, bool))]
    if self.further:
      codes = [targets]
      for ids, further in zip(self.further, jnp.moveaxis(extra_targets, -1, 0).reshape(len(self.further), -1)):
        there = further >= 0
        found.append((*score(jnp.where(there, further - ids.start, 0), *codes), there))
        codes.append(further)
    return tuple(map(jnp.stack, zip(*found)))


def decoder_state(model: Language, tx, key) -> TrainState:
  params = model.init(key)
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), {"average": jax.tree.map(jnp.copy, params)})


def know_codes(state: TrainState, ids, vectors, key) -> TrainState:
  """Starts the embedding and the head's columns of ids i32[k] from vectors f32[k d], mapped to the width at random, so
  that what is learned of one code holds for those near it.

  Four fifths of the variance is the vectors', the rest its own, the scale as before.
  """
  vectors, share = vectors - vectors.mean(0), 0.8

  def mixed(own, key):
    mapped = vectors @ jax.random.normal(key, (vectors.shape[1], own.shape[1]))
    return share**0.5 * mapped / jnp.maximum(mapped.std(), 1e-6) * own.std() + (1 - share) ** 0.5 * own

  table, kernel = state.params["embed"]["embedding"], state.params["head"]["kernel"]
  params = {**state.params, "embed": {"embedding": table.at[ids].set(mixed(table[ids], jax.random.fold_in(key, 0)))},
            "head": {"kernel": kernel.at[:, ids].set(mixed(kernel[:, ids].T, jax.random.fold_in(key, 1)).T)}}
  return state._replace(params=params, extra={**state.extra, "average": jax.tree.map(jnp.copy, params)})


def decoder_step(model: Language, tx, state: TrainState, batch, key):
  """One update on a packed batch -> (state, metrics); `loss/TASK` and `padding` (share of the tokens) are Means.

  Where the loss or a gradient is not finite nothing is updated and `skipped` is 1. With experts also: `balance_loss`
  before its weight (1: even), `expert_load`, the entries of the one with most over the mean, and `expert_dropped`, a
  share.
  """
  parts = model.options.train.accumulate
  total = batch.loss_weights.sum() if parts > 1 else None
  dropping = lambda n: jax.random.fold_in(key, n) if model.options.dropout else None
  (loss, (tasks, routed)), grads = summed(lambda part, n: jax.value_and_grad(model.routed, has_aux=True)(
      state.params, part, dropping(n), total), batch, parts)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  if routed is not None and model.options.balance_bias:
    params = balanced_experts(params, routed.wanted, model.options.balance_bias)
  average = averaged(state.extra["average"], params, model.options.train.ema_decay, state.step)
  norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss + norm)
  params, opt_state, extra = unless_broken(finite, (params, opt_state, {"average": average}), state[1:])
  metrics = {"loss": loss, "gradient_norm": norm, "skipped": 1.0 - finite,
             "padding": Mean.of((batch.segment_ids == 0).astype(jnp.float32)),
             **{f"loss/{name}": Mean(tasks.total[n], tasks.count[n]) for n, name in enumerate(model.tasks)},
             **{f"share/{name}": Mean(tasks.count[n], tasks.count.sum()) for n, name in enumerate(model.tasks)}}
  if routed is not None:
    most = (routed.wanted.max(-1) / jnp.maximum(routed.wanted.mean(-1), 1e-9)).mean()
    metrics |= {"balance_loss": Mean(routed.balance.mean(), jnp.float32(batch.inputs.shape[0])), "expert_load": most,
                "expert_dropped": Mean(routed.dropped.sum(), routed.wanted.sum())}
  if model.options.gradients_every:
    metrics |= conflict(model, state, batch)
  if model.options.watch_every:
    metrics |= watch(model, tx, state, batch, grads)
  return TrainState(state.step + 1, params, opt_state, extra), metrics


def summed(function, batch, parts: int):
  """The sum of function(part, its number), a tree, over so many parts of the batch's rows, one after another.

  Every `parts`-th row is in a part, so that each device has its own rows in all of them.
  """
  if parts == 1:
    return function(batch, 0)
  cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
  like = jax.eval_shape(function, jax.tree.map(lambda x: x[0], cut), 0)
  nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
  add = lambda total, part: (jax.tree.map(jnp.add, total, function(*part)), None)
  return jax.lax.scan(add, nothing, (cut, jnp.arange(parts)))[0]


def watch(model: Language, tx, state: TrainState, batch, grads) -> dict[str, Mean]:
  """Every `watch_every` steps what grows before a training diverges (Wortsman 2023, 2309.14322; Chameleon, 2405.09818):
  update_ratio, the norm of the update over that of the weights, and of the targets of each block of the vocabulary the
  largest attention_logit of the tokens they are predicted from, the mean log_z and the mean output_norm, of the last
  layer's output before it is normalised."""
  names = list(dict.fromkeys(name.split("/")[-1] for name in model.tasks))
  numbers = jnp.array([names.index(name.split("/")[-1]) for name in model.tasks], jnp.int32)

  parts, network = model.options.train.accumulate, model.model(state.params)

  def one(part, number):
    """(the largest logit of each block in the row of the part's number, of zeros; mean log Z, mean norm)."""
    weights, blocks = part.loss_weights.reshape(-1), numbers[part.tasks.reshape(-1)]
    last, most = network.watched(part.inputs, part.positions, rule_of(part), part.extra_codes)
    log_z = model.of_books(network, network.norm(last), part.targets, part.extra_targets)[1][0]
    norms = jnp.linalg.norm(last.astype(jnp.float32), axis=-1).reshape(-1)
    most = jnp.full(len(names), -jnp.inf).at[blocks].max(jnp.where(weights > 0, most.reshape(-1), -jnp.inf))
    mean = lambda values: by_task(values, weights, blocks, len(names))
    return jnp.zeros((parts, len(names))).at[number].set(most), mean(log_z), mean(norms)

  def measured():
    updates, _ = tx.update(grads, state.opt_state, state.params)
    most, log_z, norms = summed(one, batch, parts)
    there = norms.count > 0
    return {"update_ratio": Mean(optax.tree.norm(updates) / optax.tree.norm(state.params), jnp.float32(1)),
            "attention_logit": Mean(jnp.where(there, most.max(0), 0.0), there.astype(jnp.float32)),
            "log_z": log_z, "output_norm": norms}

  nothing = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(measured))
  found = jax.lax.cond(state.step % model.options.watch_every == 0, measured, nothing)
  return {"update_ratio": found.pop("update_ratio"),
          **{f"{what}/{name}": Mean(mean.total[n], mean.count[n]) for what, mean in found.items()
             for n, name in enumerate(names)}}


def conflict(model: Language, state: TrainState, batch) -> dict[str, Mean]:
  """Every `gradients_every` steps the norm of each task's part of the gradient, and the cosine between any two: below 0
  the tasks pull apart (Yu 2020, 2001.06782). Tasks without a target in the batch are left out."""
  names, count = model.tasks, len(model.tasks)
  due = state.step % model.options.gradients_every == 0
  nothing = jnp.zeros((count, count), jnp.float32)
  gram = jax.lax.cond(due, lambda: gradient_products(model, state.params, batch), lambda: nothing)
  norms = jnp.sqrt(jnp.diagonal(gram))
  of = lambda value, there: Mean(jnp.where(there, value, 0.0), there.astype(jnp.float32))
  metrics = {f"gradient_norm/{name}": of(norms[n], norms[n] > 0) for n, name in enumerate(names)}
  for a in range(count):
    for b in range(a):
      there = (norms[a] > 0) & (norms[b] > 0)
      cosine = gram[a, b] / jnp.where(there, norms[a] * norms[b], 1.0)
      metrics[f"gradient_cosine/{names[b]} {names[a]}"] = of(cosine, there)
  return metrics


def gradient_products(model: Language, params, batch):
  """f32[t t]: inner products of the tasks' parts of the gradient, which add up to that of the loss (z-loss left out)."""
  total = jnp.maximum(batch.loss_weights.sum(), 1e-9)

  def one(number):
    def of(part, _):
      weights = jnp.where(part.tasks == number, part.loss_weights, 0.0) / total
      return jax.grad(lambda p: (model.nats(p, part)[0] * weights.reshape(-1)).sum())(params)

    grads = summed(of, batch, model.options.train.accumulate)
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])

  rows = jax.lax.map(one, jnp.arange(len(model.tasks)))
  return jnp.einsum("ap,bp->ab", rows, rows, precision="highest")
