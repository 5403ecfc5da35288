"""The decoder-only transformer: RMSNorm, QK-norm, rotary positions, grouped queries, SwiGLU.

Layers are stacked and scanned in training, so that compile time does not grow with depth; cached
decoding runs them one after another on its own slices of the cache.
"""
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from unitok.models import experts, modality_experts
from unitok.models.attention import Mask, attend, attend_int8, largest, look, rotate, rotation
from unitok.models.experts import Experts, Tokens, fan_in, gated
from unitok.models.int8 import quantized
from unitok.models.precision import Precision, linear
from unitok.models.rule import Rule, visible
from unitok.models.scores import Scores
from unitok.sharding import HOST, constrain


def _linear(into: int, out: int | tuple[int, ...], precision: Precision, rngs, scale: float = 1.0):
  return linear(into, out, precision, rngs, kernel_init=fan_in(scale))


def _normed(norm: nnx.RMSNorm | None, x):
  return x if norm is None else norm(x)


def dropped(x, rate: float, key):
  """x without a share `rate` of its numbers, the others larger for it (Srivastava 2014); x itself without a key."""
  if key is None or not rate:
    return x
  return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


class Layer(nnx.Module):
  """x + f(x) of attention f, then of a SwiGLU (Shazeer 2020, 2002.05202), where RMSNorm stands as options.norm says:

  pre: x + f(norm(x)); sandwich: x + norm(f(norm(x))) (CogView, 2105.13290); swin: x + norm(f(x)) (Swin v2, 2111.09883,
  and Chameleon 34B, 2405.09818). Dropout, where a key is given, is of what is added to x (Chameleon). In the SwiGLU's
  place may be several, of which a router chooses (`experts`); pictures' tokens may have their own (`modality_experts`).
  """

  def __init__(self, options, precision: Precision, rngs: nnx.Rngs):
    dtype = precision.activations
    width, hidden, scale = options.width, options.hidden, 1.0 / options.layers
    self.heads, self.kv_heads, self.dim = options.heads, options.kv_heads, width // options.heads
    self.apart, self.routed = options.modality_experts, options.experts > 1
    self.dropout, before, after = options.dropout, options.norm != "swin", options.norm != "pre"
    new_norm = lambda there, size=width: nnx.RMSNorm(size, dtype=dtype, rngs=rngs) if there else None
    self.attention_norm = new_norm(before)
    # a key head's queries, its keys and its values side by side: devices along `tensor` have whole ones, and split nothing
    groups, apart = (self.kv_heads, self.heads // self.kv_heads + 2, self.dim), self.apart == "all"
    self.qkv = (modality_experts.Linear(width, math.prod(groups), precision, rngs) if apart else
                _linear(width, groups, precision, rngs))
    self.query_norm = new_norm(options.qk_norm, self.dim)
    self.key_norm = new_norm(options.qk_norm, self.dim)
    self.out = (modality_experts.Linear(width, width, precision, rngs, scale, columns=False) if apart else
                _linear(width, width, precision, rngs, scale))
    self.mlp_norm = new_norm(before)
    if self.routed:
      self.experts = Experts(options, precision, rngs)
    elif self.apart != "none":
      self.mlp = modality_experts.SwiGLU(options, precision, rngs)
    else:
      self.gate_up = _linear(width, (2, hidden), precision, rngs)
      self.down = _linear(hidden, width, precision, rngs, scale)
    self.attention_out_norm, self.mlp_out_norm = new_norm(after), new_norm(after)

  def project(self, x, turn, tokens: Tokens | None = None):
    """x [b n w] -> q [b n h d], k and v [b g n d], rotated; rows stay flat for the product."""
    b, n, w = x.shape
    x = _normed(self.attention_norm, x)
    x = self.qkv(x, tokens) if self.apart == "all" else self.qkv(x.reshape(b * n, w))
    x = x.reshape(b, n, self.kv_heads, -1, self.dim)
    q, k, v = x[..., :-2, :].reshape(b, n, self.heads, self.dim), x[..., -2, :], x[..., -1, :]
    k = rotate(_normed(self.key_norm, k), *turn)
    return rotate(_normed(self.query_norm, q), *turn), k.swapaxes(1, 2), v.swapaxes(1, 2)

  def finish(self, x, attended, key=None, tokens: Tokens | None = None):
    """The rest of the layer once attention [b n h d] is known -> ([b n w], Routed where there are experts, else None).

    key: of the dropout, None drops nothing; tokens: what experts of either kind must know of them.
    """
    b, n, w = x.shape
    keys, routed = (None, None) if key is None else jax.random.split(key), None
    flat = x.reshape(b * n, w)
    part = self.out(attended.reshape(b, n, w), tokens).reshape(b * n, w) if self.apart == "all" else \
        self.out(attended.reshape(b * n, w))
    flat = flat + dropped(_normed(self.attention_out_norm, part), self.dropout, keys[0])
    part = _normed(self.mlp_norm, flat)
    if self.routed:
      part, routed = self.experts(part.reshape(b, n, w), tokens)
    elif self.apart != "none":
      part = self.mlp(part.reshape(b, n, w), tokens)
    else:
      part = self.down(gated(self.gate_up(part)))
    flat = flat + dropped(_normed(self.mlp_out_norm, part.reshape(b * n, w)), self.dropout, keys[1])
    return flat.reshape(b, n, w), routed


class Depth(nnx.Module):
  """What the further codes of a place are predicted from, one after another: x + SwiGLU(norm(x)), normalised, with x
  the last layer's output, the embeddings of the place's codes so far and the book's. RQ-Transformer (Lee 2022,
  2203.01941) has a small transformer here; with a sum of what is known, an MLP does.
  """

  def __init__(self, options, books: int, precision: Precision, rngs: nnx.Rngs):
    dtype, width = precision.activations, options.width
    self.book = nnx.Embed(books, width, dtype=dtype, rngs=rngs, embedding_init=nnx.initializers.normal(0.5))
    self.norm = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
    self.gate_up = _linear(width, (2, options.depth_hidden), precision, rngs)
    self.down = _linear(options.depth_hidden, width, precision, rngs)
    self.out = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)

  def __call__(self, x, book: int):
    """[n w] -> [n w], for the book of this number among the further ones."""
    x = x + self.book(jnp.full(1, book))
    return self.out(x + self.down(gated(self.gate_up(self.norm(x)))))


class Cache(NamedTuple):
  """Keys [b g d slots] and values [b g slots d] of each layer: so both products of a token's attention go along what lies
  side by side, which is 1.4 times as fast on a CPU as with keys like the values. In int8 also the scale f32[b g slots] of
  each."""
  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  key_scales: tuple[jax.Array, ...] | None = None
  value_scales: tuple[jax.Array, ...] | None = None


def apart(layers):
  """The weights of each of the stacked layers, a tuple.

  Each is an array of its own: XLA multiplies by a slice of a larger one only after copying it, so a loop over tokens
  would read, write and read again every weight in each pass.
  """
  return tuple(jax.tree.map(lambda w: w[n], layers) for n in range(len(jax.tree.leaves(layers)[0])))


def some_columns(head, ids):
  """The head's weights, {kernel [w v]} or int8's {kernel [v w], scale [v]}, with the columns of ids i32[k] alone."""
  if "scale" in head:
    return {name: weights[ids] for name, weights in head.items()}
  return {"kernel": head["kernel"][:, ids]}


def _written(slots, new, axis: int, at):
  """The slots along an axis of [b g …] with `new` at slots at .. at+n-1 of every row."""
  one = jax.lax.dynamic_update_slice_in_dim
  return one(slots, new, at, axis) if jnp.ndim(at) == 0 else jax.vmap(lambda *row: one(*row, axis - 1))(slots, new, at)


def _again(policy):
  return functools.partial(jax.checkpoint, policy=policy, prevent_cse=False)     # a scan's body is apart in any case


REMAT = {"none": lambda layer: layer, "layer": _again(jax.checkpoint_policies.nothing_saveable),
         "dots": _again(jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
         "offload": _again(jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", HOST))}
"""What the backward pass of a layer computes again, by the name in `decoder.remat` (Chen 2016, 1604.06174)."""


class Decoder(nnx.Module):
  """further: the ids of a picture's second, third … book (`Vocabulary.further`); without any there is no depth head.
  image: the ids of its first (`Vocabulary.image`), which modality_experts needs."""

  def __init__(self, options, vocabulary_size: int, precision: Precision, rngs: nnx.Rngs,
               further: tuple[range, ...] = (), image: tuple[range, ...] = ()):
    check(options)
    if options.modality_experts != "none" and not image:
      raise ValueError(f"decoder.modality_experts: {options.modality_experts}, but the vocabulary has no block 'image'; "
                       "take none")
    dtype = precision.activations
    self.options, self.dtype, self.further, self.image = options, dtype, further, image
    self.cache_dtype = precision.cache or dtype
    self.scores = Scores(options.pb_relax, options.attention_softcap)
    # the input embedding has unit scale beside an untied head: tying them slowed these small models down
    self.embed = nnx.Embed(vocabulary_size, options.width, dtype=dtype, rngs=rngs,
                           embedding_init=nnx.initializers.normal(0.5))
    if options.grid_embedding:
      grid = lambda: nnx.Embed(options.grid_embedding, options.width, dtype=dtype, rngs=rngs,
                               embedding_init=nnx.initializers.normal(0.6))
      self.row, self.column = grid(), grid()
    build = nnx.vmap(lambda r: Layer(options, precision, r), in_axes=0, out_axes=0)
    self.layers = build(rngs.split(options.layers))
    self.norm = nnx.RMSNorm(options.width, dtype=dtype, rngs=rngs)
    self.head = _linear(options.width, vocabulary_size, precision, rngs, 0.1)
    if further:
      self.depth = Depth(options, len(further), precision, rngs)

  def _turn(self, positions):
    return rotation(positions, self.options.width // self.options.heads, self.options.rope_base)

  def known(self, codes):
    """[… w]: the sum of the embeddings of ids i32[… n], -1 is none."""
    embedded = lambda one: jnp.where((one >= 0)[..., None], self.embed(jnp.maximum(one, 0)), 0)
    return sum(embedded(codes[..., n]) for n in range(codes.shape[-1]))

  def enter(self, ids, positions, extra=None):
    """What goes into the first layer: a token at (t, t+row, t+column) also gets its row's and column's
    embedding (0 and 0 for text; the nearest one's in a scaled picture): rotary positions are relative, and telling "top
    left" from them alone took many times longer to learn. Its further codes, extra i32[b l G-1], are added to it."""
    x = self.embed(ids) if extra is None else self.embed(ids) + self.known(extra)
    if not self.options.grid_embedding:
      return x
    offsets = jnp.round(positions[..., 1:3] - positions[..., :1]).astype(jnp.int32)
    offsets = jnp.clip(offsets, 0, self.options.grid_embedding - 1)
    return x + self.row(offsets[..., 0]) + self.column(offsets[..., 1])

  def _tokens(self, ids, rule: Rule, place=None, bounded: bool = False) -> Tokens | None:
    """None where all tokens go through the same weights."""
    if self.options.experts < 2 and self.options.modality_experts == "none":
      return None
    image = functools.reduce(jnp.logical_or, ((some.start <= ids) & (ids < some.stop) for some in self.image), False)
    return Tokens(rule.segment_ids > 0, image, place, bounded)

  def hidden(self, ids, positions, rule: Rule, extra=None, key=None):
    """ids i32[b l], positions f32[b l K] -> the last layer's output [b l w], normalised. key: of the dropout, which is
    there in training alone."""
    return self.norm(self._through(ids, positions, rule, extra, key)[0])

  def trained(self, ids, positions, rule: Rule, extra=None, key=None, place=None):
    """(`hidden` where experts heed their capacity, Routed of each layer or None). place: as in Tokens."""
    x, (_, routed) = self._through(ids, positions, rule, extra, key, place=place, bounded=True)
    return self.norm(x), routed

  def watched(self, ids, positions, rule: Rule, extra=None):
    """(the last layer's output [b l w] before it is normalised, f32[b l] the largest attention logit of each token over
    all layers and heads)."""
    x, (most, _) = self._through(ids, positions, rule, extra, None, lambda q, k: largest(q, k, rule).max(-1))
    return x, most.max(0)

  def _through(self, ids, positions, rule: Rule, extra, key, told=lambda q, k: None, **bounds):
    """(the last layer's output, (told(q, k), Routed) of each layer)."""
    tokens = self._tokens(ids, rule, **bounds)
    seen, turn = look(rule, self.options.attention, self.options.sequence_attention), self._turn(positions)
    graph, stacked = nnx.split(self.layers)
    keys = jax.random.split(key, self.options.layers) if key is not None and self.options.dropout else None

    def one(x, given):
      weights, key = given
      layer = nnx.merge(graph, weights)
      q, k, v = layer.project(x, turn, tokens)
      x, routed = layer.finish(x, attend(q, k, v, seen, self.scores), key, tokens)
      return constrain(x, "hidden"), (told(q, k), routed)

    x = constrain(self.enter(ids, positions, extra), "hidden")
    return jax.lax.scan(REMAT[self.options.remat](one), x, (stacked, keys), unroll=self.options.unroll)

  def logits(self, hidden, head=None):
    """[… w] -> f32[… v]. head: the head's weights with some columns alone, as `some_columns` has them."""
    layer = self.head if head is None else nnx.merge(nnx.graphdef(self.head), head)
    logits = layer(hidden.reshape(-1, hidden.shape[-1])).astype(jnp.float32)
    return self.capped(logits).reshape(*hidden.shape[:-1], -1)

  def capped(self, logits):
    """The head's f32[… v] within ± logit_softcap (Gemma 2, 2408.00118), where that is set."""
    cap = self.options.logit_softcap
    return cap * jnp.tanh(logits / cap) if cap else logits

  def next_book(self, hidden, codes):
    """f32[n k]: the logits of the codes of a place's next book, from the last layer's output [n w] that its first code
    is predicted from and its codes so far, ids i32[n g]. Book g's columns of the head are of no other use."""
    book = codes.shape[-1] - 1
    ids = self.further[book]
    head = some_columns(nnx.to_pure_dict(nnx.state(self.head)), slice(ids.start, ids.stop))
    return self.logits(self.depth(hidden + self.known(codes), book), head)

  def book(self, hidden, codes):
    """What `next_book` multiplies: [n w], and the book's columns of the head [w k]."""
    book = codes.shape[-1] - 1
    ids = self.further[book]
    return self.depth(hidden + self.known(codes), book), self.head.kernel[...][:, ids.start:ids.stop]

  def columns(self, x, kernel):
    """x [n w] times columns [w k] of the head -> logits f32[n k]."""
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    return self.capped(self.head.dot_general(x, kernel, (((1,), (0,)), ((), ()))).astype(jnp.float32))

  def __call__(self, ids, positions, rule: Rule, extra=None):
    return self.logits(self.hidden(ids, positions, rule, extra))

  def empty_cache(self, rows: int, slots: int) -> Cache:
    o = self.options
    zeros = lambda dtype, *sides: tuple(jnp.zeros((rows, o.kv_heads, *sides), dtype) for _ in range(o.layers))
    scales = lambda: zeros(jnp.float32, slots) if self.cache_dtype == jnp.int8 else None
    dim = o.width // o.heads
    return Cache(zeros(self.cache_dtype, dim, slots), zeros(self.cache_dtype, slots, dim), scales(), scales())

  def extend(self, ids, positions, rule: Rule, cache: Cache, cache_rule: Rule, at, bias=None, extra=None, layers=None,
             last=None):
    """n more tokens at slots at .. at+n-1 -> (hidden [b last w] of the `last` ones, of all without it; cache).

    cache_rule holds the integers of the slots that may be seen, [b slots] from the first on; those behind these tokens are
    seen by none, whatever it says, so that the order of computation may be another than the document's. bias f32[b slots]
    is added to the attention scores of each slot in every layer. at: a number, or i32[b] one for each row. layers: the
    weights of each, as `apart` has them; without it slices of the stacked ones, which a loop copies in every pass.
    """
    slots = cache_rule.order.shape[1]
    written = jnp.arange(slots) < jnp.asarray(at)[..., None, None] + ids.shape[1]
    seen, turn = Mask(visible(rule, cache_rule) & written, bias), self._turn(positions)
    graph, stacked = nnx.split(self.layers)
    tokens = self._tokens(ids, rule)
    x, kept = self.enter(ids, positions, extra), []
    for n, weights in enumerate(apart(stacked) if layers is None else layers):
      layer = nnx.merge(graph, weights)
      q, k, v = layer.project(x, turn, tokens)
      (k, *scale), (v, *scale_of_v) = map(quantized, (k, v)) if cache.key_scales else ((k,), (v,))
      new, axes = (k.swapaxes(2, 3), v, *scale, *scale_of_v), (3, 2, 2, 2)
      kept.append([_written(held[n], *one, at) for held, *one in zip(cache, new, axes)])
      near = [jax.lax.slice_in_dim(held, 0, slots, axis=axis) for held, axis in zip(kept[-1], axes)]
      if n == self.options.layers - 1 and last is not None:     # what nothing is asked of needs no more than its keys
        x, q, seen = x[:, -last:], q[:, -last:], seen._replace(pairs=seen.pairs[:, -last:])
        tokens = self._tokens(ids[:, -last:], Rule(*(of[:, -last:] for of in rule)))
      attended = (attend_int8(q, *near, *seen, self.scores) if cache.key_scales else
                  attend(q, *near, seen, self.scores, True))
      x, _ = layer.finish(x, attended, tokens=tokens)
    return self.norm(x), Cache(*map(tuple, zip(*kept)))


def check(options):
  """ValueError for a shape that cannot be built."""
  for name in ("layers", "width", "heads", "kv_heads", "hidden", "depth_hidden", "unroll", "row_length"):
    if getattr(options, name) < 1:
      raise ValueError(f"decoder.{name}: {getattr(options, name)} must be 1 or more")
  if options.width % options.heads or options.width // options.heads % 2:
    raise ValueError(f"decoder.heads: width {options.width} over {options.heads} heads must be an even whole number")
  if options.heads % options.kv_heads:
    raise ValueError(f"decoder.kv_heads: {options.kv_heads} must divide heads {options.heads}")
  if options.loss_chunk < 0:
    raise ValueError(f"decoder.loss_chunk: {options.loss_chunk} must be 1 or more tokens, or 0 for all at once")
  experts.check(options)
  if not 0 <= options.dropout < 1:
    raise ValueError(f"decoder.dropout: {options.dropout} must be a share from 0 to below 1")
  for name in ("gradients_every", "watch_every"):
    if getattr(options, name) < 0:
      raise ValueError(f"decoder.{name}: {getattr(options, name)} must be a number of steps, 0 for never")
  for name, least, none in (("pb_relax", 1, "1 for none"), ("attention_softcap", 0, "0 for none"),
                            ("logit_softcap", 0, "0 for none"), ("z_loss", 0, "0 for none")):
    if not least <= getattr(options, name) < float("inf"):
      raise ValueError(f"decoder.{name}: {getattr(options, name)} must be a number from {least} on, {none}")
