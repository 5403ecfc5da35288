"""How logits become one id: logit rules, one after another, and the noise of a key."""
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32

from unitok.config import Sampling
from unitok.objectives.parallel import SCHEDULES as SIZES
from unitok.sampling import STRATEGIES
from unitok.sampling.groups import ORDERS
from unitok.sampling.guidance import SCHEDULES as GROWTHS
from unitok.sampling.rows import NEIGHBOURS
from unitok.sampling.settings import on


@dataclass(frozen=True)
class Repetition:
  """An id drawn before in the document is less likely: its logit over the penalty, or times it where that is negative
  (CTRL, Keskar 2019, 1909.05858, section 4.1)."""
  penalty: float

  def __call__(self, logits, seen):
    return jnp.where(seen, jnp.where(logits > 0, logits / self.penalty, logits * self.penalty), logits)


@dataclass(frozen=True)
class Temperature:
  value: float

  def __call__(self, logits, seen=None):
    return logits / self.value


def _only(logits, kept, ids):
  """f32[… v]: `kept` f32[… k] at its ids, -inf elsewhere. By number, since a comparison with the least that is kept may meet
  logits that a compiler made a second time and rounded otherwise."""
  return jnp.put_along_axis(jnp.full_like(logits, -jnp.inf), ids, kept, -1, inplace=False)


@dataclass(frozen=True)
class TopK:
  """All but the k largest become -inf."""
  k: int

  def __call__(self, logits, seen=None):
    largest, ids = jax.lax.top_k(logits, min(self.k, logits.shape[-1]))
    return _only(logits, largest, ids)


@dataclass(frozen=True)
class TopP:
  """Keeps the smallest set of most likely ids with at least probability p (Holtzman 2019, 1904.09751)."""
  p: float

  def __call__(self, logits, seen=None):
    ranked, ids = jax.lax.top_k(logits, logits.shape[-1])
    before = jnp.cumsum(jax.nn.softmax(ranked, -1), -1) - jax.nn.softmax(ranked, -1)
    return _only(logits, jnp.where(before < self.p, ranked, -jnp.inf), ids)


@dataclass(frozen=True)
class MinP:
  """Keeps the ids at least `share` as likely as the likeliest (Nguyen 2024, 2407.01082)."""
  share: float

  def __call__(self, logits, seen=None):
    return jnp.where(logits < logits.max(-1, keepdims=True) + jnp.log(self.share), -jnp.inf, logits)


def rules_of(sampling: Sampling) -> tuple:
  """The rules that settings stand for, in the order in which they are applied: (logits f32[b v], seen bool[b v], the ids
  drawn before) -> logits. At temperature 0 only those that can change which id is the likeliest."""
  narrow = on(sampling, "temperature")
  said = ((Repetition(sampling.repetition_penalty), on(sampling, "repetition_penalty")),
          (Temperature(sampling.temperature), narrow),
          (TopK(sampling.top_k), narrow and sampling.top_k > 0),
          (TopP(sampling.top_p), narrow and on(sampling, "top_p")),
          (MinP(sampling.min_p), narrow and on(sampling, "min_p")))
  return tuple(rule for rule, wanted in said if wanted)


def gathered(logits, bins: range, spread: float = 16.0):
  """Logits f32[b v] that are greatest where most of the probability is, not at the likeliest id, of a block of bins along a
  line: the block counts as all its bins together beside other ids, and a bin as what lies around it by a normal kernel
  of `spread` bins. Of a flat distribution over a thousand bins the likeliest is noise."""
  inside = logits[:, bins.start:bins.stop]
  near = jnp.arange(-int(3 * spread), int(3 * spread) + 1) / spread
  around = jax.vmap(lambda p: jnp.convolve(p, jnp.exp(-(near**2) / 2), "same"))(jax.nn.softmax(inside, -1))
  together = jax.nn.logsumexp(inside, -1, keepdims=True) + jnp.log(around / around.max(-1, keepdims=True))
  return logits.at[:, bins.start:bins.stop].set(together)


def noise(keys, ids):
  """Gumbel f32[b k] of each of ids u32[k] by each key: what `jax.random.gumbel(key, [v])` has at these ids, whatever v
  is, so that logits of some of the vocabulary are drawn from as all of them are."""
  counts = jnp.concatenate([jnp.zeros_like(ids), ids])
  high, low = jnp.split(jax.vmap(lambda key: threefry_2x32(jax.random.key_data(key), counts))(keys), 2, -1)
  uniform = jax.lax.bitcast_convert_type((high ^ low) >> 9 | jnp.float32(1).view(jnp.uint32), jnp.float32) - 1
  return -jnp.log(-jnp.log(jnp.maximum(uniform, jnp.finfo(jnp.float32).tiny)))


def draw(logits, allowed, keys, sampling: Sampling, bins: range | None = None, seen=None, ids=None):
  """i32[b]: the column of one allowed id a row of logits f32[b k], allowed bool[b k], keys one a row. bins: columns that
  the likeliest is found among as `gathered` says; seen: for Repetition; ids u32[k]: of the columns, None for 0 .. k-1.

  The largest of logits and Gumbel noise, which depends on key and id alone: near logits give near the same ids.
  """
  narrow = on(sampling, "temperature")
  if bins and not narrow:
    logits = gathered(logits, bins)
  logits = jnp.where(allowed, logits, -jnp.inf)
  for rule in rules_of(sampling):
    logits = rule(logits, seen)
  if narrow:
    logits = logits + noise(keys, jnp.arange(logits.shape[-1], dtype=jnp.uint32) if ids is None else ids)
  return first_largest(logits)


def first_largest(x):
  """i32[b]: the column of the largest of each row of f32[b k], the first of equal ones: argmax as two plain reductions of
  what is written out, since what is fused into argmax's own runs number by number on a CPU (1 ms of 32 rows of 1,024)."""
  x = jax.lax.optimization_barrier(x)
  here = jnp.where(x == x.max(-1, keepdims=True), jnp.arange(x.shape[-1]), x.shape[-1] - 1)
  return here.min(-1).astype(jnp.int32)


def check(sampling: Sampling):
  """ValueError naming a setting out of its range."""
  one_of = lambda legal: f"one of {', '.join(legal)}"
  named = lambda name, legal: (name, repr(getattr(sampling, name)), one_of(legal), getattr(sampling, name) in legal)
  interval, name = sampling.guidance_interval, sampling.strategy or ("groups" if sampling.passes > 0 else "sequential")
  those = lambda fits: [n for n, strategy in STRATEGIES.items() if fits(strategy)]
  windowed, grouped = those(lambda one: one.window), those(lambda one: one.grouped)
  scale = lambda name: (name, getattr(sampling, name), "a number >= 0", 0 <= getattr(sampling, name) < math.inf)
  for name, value, legal, fits in (
      scale("temperature"),
      ("top_k", sampling.top_k, ">= 0 (0 keeps all)", sampling.top_k >= 0),
      ("top_p", sampling.top_p, "in (0, 1]", 0 < sampling.top_p <= 1),
      ("min_p", sampling.min_p, "in [0, 1] (0 keeps all)", 0 <= sampling.min_p <= 1),
      ("repetition_penalty", sampling.repetition_penalty, "a number > 0 (1 is none)",
       0 < sampling.repetition_penalty < math.inf),
      ("passes", sampling.passes, ">= 0 (0 draws code by code)", sampling.passes >= 0),
      scale("guidance_scale"), scale("image_guidance_scale"),
      named("guidance_schedule", GROWTHS),
      ("guidance_interval", interval, "two shares of the drawing, 0 <= first < end <= 1",
       len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1),
      scale("text_attention"),
      ("strategy", repr(sampling.strategy), one_of(STRATEGIES), sampling.strategy in ("", *STRATEGIES)),
      ("window", sampling.window, ">= 0 tokens (0: the strategy's own)", sampling.window >= 0),
      ("window", sampling.window, f"0 for {name}; it goes with {', '.join(windowed)}", not sampling.window or name in windowed),
      ("passes", sampling.passes, f"0 for {name}; they go with {', '.join(grouped)}", not sampling.passes or name in grouped),
      scale("choice_temperature"),
      ("row_window", sampling.row_window, ">= 0 places (0: half a row)", sampling.row_window >= 0),
      named("guesses", NEIGHBOURS), named("group_sizes", SIZES), named("group_order", ORDERS)):
    if not fits:
      raise ValueError(f"sampling.{name}: {value} must be {legal}")
