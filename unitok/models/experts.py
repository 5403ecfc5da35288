"""Mixture of experts (Shazeer 2017, 1701.06538; GShard, Lepikhin 2020, 2006.16668): a router gives each token to a few
of many SwiGLUs.

Entries, a token beside each of its experts, are sorted by expert, and products computed in blocks of one expert each,
as in MegaBlocks (Gale 2022, 2211.15841): the products are those of the entries and at most a sixteenth more (on GPU and
TPU of more than two experts up to a quarter), whatever the router prefers, and nothing needs to be dropped.
(`jax.lax.ragged_dot` computes every expert for every entry on a CPU.) Where the mesh has an axis `expert`, a device has
some experts and takes the tokens of all devices along that axis, and they add up what they made; there, too, it
multiplies its own entries alone, though it keeps room for those of all.
"""
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from unitok.models.precision import FLOAT32, Precision, linear, turned
from unitok.sharding import devices, spread


def fan_in(scale: float = 1.0, batch_axis=()):
  """How the weights of a product [in out] start; stacked ones have `batch_axis`."""
  return nnx.initializers.variance_scaling(scale, "fan_in", "truncated_normal", batch_axis=batch_axis)


def gated(x):
  """[… 2 h] -> [… h]: the gate of a SwiGLU, then what it lets through."""
  return nnx.silu(x[..., 0, :]) * x[..., 1, :]


class Kernel(nnx.Module):
  """f32[e in out]: a product's weights for each of e experts."""

  def __init__(self, experts: int, into: int, out: int, rngs: nnx.Rngs, scale: float = 1.0):
    self.kernel = nnx.Param(fan_in(scale, 0)(rngs.params(), (experts, into, out), jnp.float32))


# ---- entries sorted by expert

class Slots(NamedTuple):
  """Where the k entries of each of T tokens stand, in N slots that are blocks of one expert each."""
  entry: jax.Array          # i32[N]: whose slot it is; T·k: nobody's
  slot: jax.Array           # i32[T k]: of each entry; N: none
  expert: jax.Array         # i32[blocks]
  used: jax.Array | None    # i32[]: blocks with entries, the others are not computed; None: all are, and their number
                            # is known when compiling


def block_size(entries: int, experts: int, form: str) -> int:
  """Slots of a block: a power of two, so many that what is empty of an expert's last block is little beside the rest.
  `batch` copies an expert's weights for each block, so of many experts it makes fewer, and none below what a card takes as
  long for as for its weights; see `product`."""
  share, least, most = (16, 8, 256) if form == "loop" else (max(32 // experts, 4), 64, entries)
  return 1 << min(max(entries // (share * experts), least), most).bit_length() - 1


def sort(choices, experts: int, size: int, most: int) -> Slots:
  """choices i32[T k]: the expert of each entry; others than 0 .. experts-1 get no slot. At most `most` entries do.

  Two experts, size 2, choices [[1] [0] [1] [1] [5]]: entry [1 5 0 2 3 5 …], slot [2 0 3 4 N], expert [0 1 1 …].
  """
  entries = choices.size
  blocks = min(min(entries, most) // size + experts, entries)
  flat = jnp.where((choices >= 0) & (choices < experts), choices, experts).reshape(-1)
  order = jnp.argsort(flat)
  of = flat[order]
  starts = _before(flat, jnp.arange(experts + 1))                               # of each expert's entries, in order
  ends = jnp.cumsum(-(-jnp.diff(starts) // size))                               # of its blocks
  first = jnp.concatenate([jnp.zeros_like(ends[:1]), ends])                     # the last: of none
  expert = jnp.minimum(_before(ends, jnp.arange(1, blocks + 1)), experts - 1)
  its = jnp.repeat(expert, size)
  at = starts[its] + jnp.arange(blocks * size) - first[its] * size
  entry = jnp.where(at < starts[its + 1], order[jnp.minimum(at, entries - 1)], entries)
  slot = jnp.where(of < experts, first[of] * size + jnp.arange(entries) - starts[of], blocks * size)
  slot = jnp.zeros_like(slot).at[order].set(slot, unique_indices=True)
  return Slots(entry.astype(jnp.int32), slot.reshape(choices.shape).astype(jnp.int32), expert,
               ends[-1] if devices("expert") > 1 else None)


def _before(values, of):
  """i32[n]: how many of `values` are less than each of these."""
  return (values < of[:, None]).sum(1, dtype=jnp.int32)


@jax.custom_vjp
def taken(x, there, back):
  """x [n w] -> [m w]: its rows there i32[m], zeros where that is n.

  back i32[n c]: the rows of the result that are copies of each of x's (m: none), so that the gradient is their sum.
  """
  return x.at[there].get(mode="fill", fill_value=0)


taken.defvjp(lambda x, there, back: (taken(x, there, back), back),
             lambda back, grad: (grad.at[back].get(mode="fill", fill_value=0).sum(1), None, None))


# ---- products by blocks

def product(x, kernel, slots: Slots, products, form: str):
  """x [N in] times kernel f32[e in out], each block with its expert's -> [N out]; factors have the dtype `products`.
  Where only running tells how many blocks are used, or experts have more than a dozen each, they go one after another in
  either form."""
  at_once = slots.used is None and len(slots.expert) <= 12 * kernel.shape[0]
  return FORMS[form if at_once else "loop"](products, x, kernel, slots.expert, slots.used)


def _dot(a, b, dimensions=((1,), (0,))):
  return jax.lax.dot_general(a, b, (dimensions, ((), ())), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(products, x, kernel, expert, used):
  """Block after block, where one is work enough for the machine. Backwards each expert's gradient grows in place."""
  return _loop_forward(products, x, kernel, expert, used)[0]


def _loop_forward(products, x, kernel, expert, used):
  narrow, blocks = kernel.astype(products), x.astype(products).reshape(len(expert), -1, x.shape[1])

  def one(n, out):
    return out.at[n].set(_dot(blocks[n], narrow[expert[n]]).astype(x.dtype))

  out = jnp.zeros_like(x, shape=(*blocks.shape[:2], kernel.shape[2]))
  out = jax.lax.fori_loop(0, len(expert) if used is None else used, one, out)
  return out.reshape(len(x), -1), (x, kernel, expert, used)


def _loop_backward(products, kept, grad):
  x, kernel, expert, used = kept
  narrow, blocks = kernel.astype(products), x.astype(products).reshape(len(expert), -1, x.shape[1])
  grads = grad.astype(products).reshape(*blocks.shape[:2], -1)
  plain = products == jnp.float32 or form_here() != "loop"             # on a CPU a narrow product wants its factor turned
  across = blocks.swapaxes(1, 2) if plain else turned(blocks)

  def one(n, sums):
    back, towards = sums
    back = back.at[n].set(_dot(grads[n], narrow[expert[n]], ((1,), (1,))).astype(x.dtype))
    return back, towards.at[expert[n]].add(_dot(across[n], grads[n]))

  sums = jnp.zeros_like(x, shape=blocks.shape), jnp.zeros_like(kernel, jnp.float32)
  back, towards = jax.lax.fori_loop(0, len(expert) if used is None else used, one, sums)
  return back.reshape(x.shape), towards.astype(kernel.dtype), None, None


_loop.defvjp(_loop_forward, _loop_backward)


def _batch(products, x, kernel, expert, _):
  """All blocks in one product, each with a copy of its expert's weights: for machines that one block leaves idle."""
  blocks = x.astype(products).reshape(len(expert), -1, x.shape[1])
  out = jnp.einsum("nbi,nio->nbo", blocks, kernel.astype(products)[expert], preferred_element_type=jnp.float32)
  return out.astype(x.dtype).reshape(len(x), -1)


FORMS = {"loop": _loop, "batch": _batch}


def form_here() -> str:
  return "loop" if jax.default_backend() == "cpu" else "batch"


def swiglus(products, x, choices, weights, gate, up, down, bound: int = 0, form: str = ""):
  """The sum over a token's entries of weights [b n k] times the SwiGLU of its expert, choices i32[b n k]; x [b n w] ->
  [b n w].

  gate, up f32[e w h], down f32[e h w]. A choice outside 0 .. e-1 adds nothing; an expert has at most `bound` entries of
  a row, where that is not 0.
  """
  form, tokens, k, experts = form or form_here(), x.shape[0] * x.shape[1], choices.shape[-1], len(gate)
  most = x.shape[0] * experts * min(bound, x.shape[1]) if bound else tokens * k
  flat, choices = x.reshape(tokens, -1), choices.reshape(tokens, k)
  slots = sort(choices, experts, block_size(choices.size, experts * devices("expert"), form), most)
  inside = taken(flat, slots.entry // k, slots.slot)
  hidden = nnx.silu(product(inside, gate, slots, products, form)) * product(inside, up, slots, products, form)
  out = taken(product(hidden, down, slots, products, form), slots.slot.reshape(-1), slots.entry[:, None])
  return (out.reshape(tokens, k, -1) * weights.reshape(tokens, k, 1).astype(x.dtype)).sum(1).reshape(x.shape)


# ---- the layer's part

class Tokens(NamedTuple):
  """What a layer with several weights must know of its tokens beside their vectors."""
  real: jax.Array                   # bool[b n]: not padding
  image: jax.Array | None = None    # bool[b n]: an id of a picture
  place: jax.Array | None = None    # i32[n]: in the row, where the tokens do not lie in its order
  bounded: bool = False             # heeds expert_capacity: in training alone


class Routed(NamedTuple):
  """What a router did; of several layers [layers …]."""
  balance: jax.Array    # f32[]: the balance loss, summed over rows
  wanted: jax.Array     # f32[e]: entries of each expert, those dropped among them
  dropped: jax.Array    # f32[]


class Experts(nnx.Module):
  """A token's SwiGLUs: the k of the highest p + bias, p the router's softmax, each weighted by its share of their p
  (Mixtral, 2401.04088; of k = 1 by p itself, as Switch, 2101.03961, or the router would learn nothing), and the shared.

  bias f32[e] has no gradient; the step moves it (`balanced`). The balance loss is Switch's, e · Σ f·P of an expert's
  share f of a row's entries and the mean P of its p there, but row by row, as in DeepSeek-V3 (2412.19437), and then
  averaged: it is the same however rows are dealt out. An expert's capacity is a row's, too.
  """

  def __init__(self, options, precision: Precision, rngs: nnx.Rngs):
    width, hidden, scale = options.width, options.expert_hidden or options.hidden, 1.0 / options.layers
    self.count, self.each, self.capacity = options.experts, options.experts_per_token, options.expert_capacity
    self.products = precision.products
    self.router = linear(width, self.count, FLOAT32, rngs, kernel_init=fan_in())
    self.bias = nnx.Param(jnp.zeros(self.count))
    self.gate, self.up = Kernel(self.count, width, hidden, rngs), Kernel(self.count, width, hidden, rngs)
    self.down = Kernel(self.count, hidden, width, rngs, scale)
    self.shared = Shared(width, options.shared_expert, scale, precision, rngs) if options.shared_expert else None

  def __call__(self, x, tokens: Tokens):
    """x [b n w] -> ([b n w], Routed); padding gives the shared expert's part alone."""
    choices, weights, routed = self.route(x, tokens)
    run = functools.partial(swiglus, self.products, bound=self.bound(x.shape[1]) if tokens.bounded else 0)
    kernels = self.gate.kernel[...], self.up.kernel[...], self.down.kernel[...]
    out = spread(run, x, choices, (weights.astype(x.dtype),), kernels, ("experts in", "experts in", "experts out"))
    return out if self.shared is None else out + self.shared(x), routed

  def bound(self, length: int) -> int:
    """Entries of an expert in a row of so many tokens, at most; 0: any number."""
    return math.ceil(self.capacity * length * self.each / self.count)

  def route(self, x, tokens: Tokens):
    """(choices i32[b n k], `count` where a token is padding or dropped; weights f32[b n k]; Routed)."""
    real = tokens.real[..., None].astype(jnp.float32)
    p = jax.nn.softmax(self.router(x.astype(jnp.float32)), -1)
    picked = chosen(jax.lax.stop_gradient(p) + self.bias[...], self.each)                # bool[b n k e]
    weights = (picked * p[..., None, :]).sum(-1)
    if self.each > 1:
      weights = weights / weights.sum(-1, keepdims=True)
    entries = picked.sum(-2) * real                                                      # f32[b n e]
    wanted, number = entries.sum(1), jnp.maximum(real.sum(1), 1)
    balance = self.count * (wanted / (self.each * number) * (p * real).sum(1) / number).sum()
    here = jnp.broadcast_to(tokens.real[..., None], picked.shape[:-1])
    if tokens.bounded and self.capacity:
      ranks = (picked * in_order(entries, tokens.place)[..., None, :]).sum(-1)
      here = here & (ranks <= self.bound(x.shape[1]))
    dropped = jax.lax.stop_gradient(entries.sum() - here.sum())
    return (jnp.where(here, jnp.argmax(picked, -1), self.count), weights,
            Routed(balance, jax.lax.stop_gradient(wanted.sum(0)), dropped))


def chosen(scores, k: int):
  """scores f32[… e] -> bool[… k e]: which is the highest, the next …; of equal ones the first. In steps that a mesh
  divides, as `jax.lax.top_k` does not."""
  picked = []
  for _ in range(k):
    picked.append(jax.nn.one_hot(jnp.argmax(scores, -1), scores.shape[-1], dtype=bool))
    scores = jnp.where(picked[-1], -jnp.inf, scores)
  return jnp.stack(picked, -2)


def in_order(entries, place):
  """f32[b n e]: of each token's entry with an expert, the how manyth of its row it is; place as in Tokens."""
  if place is None:
    return jnp.cumsum(entries, 1)
  return jnp.cumsum(entries[:, jnp.argsort(place)], 1)[:, place]


class Shared(nnx.Module):
  """The SwiGLU that all tokens go through (DeepSeekMoE, 2401.06066)."""

  def __init__(self, width: int, hidden: int, scale: float, precision: Precision, rngs: nnx.Rngs):
    self.gate_up = linear(width, (2, hidden), precision, rngs, kernel_init=fan_in())
    self.down = linear(hidden, width, precision, rngs, kernel_init=fan_in(scale))

  def __call__(self, x):
    return self.down(gated(self.gate_up(x.reshape(-1, x.shape[-1])))).reshape(x.shape)


# ---- the step's part

def balanced(params, wanted, rate: float):
  """A decoder's params with each router's bias moved by `rate`, up where an expert had fewer entries than the mean,
  wanted f32[layers e], and down where it had more (Wang 2024, 2408.15664)."""
  layers = params["layers"]
  bias = layers["experts"]["bias"] + rate * jnp.sign(wanted.mean(-1, keepdims=True) - wanted)
  return {**params, "layers": {**layers, "experts": {**layers["experts"], "bias": bias}}}


def check(options):
  """ValueError for experts that cannot be."""
  if options.experts < 0:
    raise ValueError(f"decoder.experts: {options.experts} must be a number of experts, 0 for none")
  if options.experts > 1 and not 1 <= options.experts_per_token <= options.experts:
    raise ValueError(f"decoder.experts_per_token: {options.experts_per_token} must be from 1 to decoder.experts "
                     f"{options.experts}")
  for name, none in (("expert_hidden", "decoder.hidden"), ("shared_expert", "none"), ("expert_capacity", "no bound"),
                     ("balance_loss", "none"), ("balance_bias", "none")):
    if not 0 <= getattr(options, name) < float("inf"):
      raise ValueError(f"decoder.{name}: {getattr(options, name)} must be a number from 0 on, 0 for {none}")
  if options.experts > 1 and options.modality_experts != "none":
    raise ValueError(f"decoder.modality_experts: {options.modality_experts} does not go with decoder.experts "
                     f"{options.experts}; take none, or no experts")
