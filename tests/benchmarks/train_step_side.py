"""One side of `tests.benchmarks.train_step`: ours, and any side as a process that trains on demand.

    python -m tests.benchmarks.train_step_side '{"side": "ours", "shape": {…}, "dtype": "float32", "options": {}}'

The first answer, a line of JSON, comes when the first step is done, which compiles; then every line of input
{"steps": n, "products": n} has one: the seconds of so many steps and the last loss, and, of ours, products a second.
Imports jax for ours alone, and torch for the others alone, so that each side is in an environment of its own.
"""
import dataclasses
import functools
import json
import math
import os
import platform
import sys
import time

import numpy as np

WARMUP, RATE, DECAY, BETAS, CLIP = 50, 1e-3, 0.05, (0.9, 0.95), 1.0
"""Of both sides: config.Train's, which tests/test_benchmarks.py compares."""


@dataclasses.dataclass(frozen=True)
class Shape:
  """A decoder and its batch; without arguments config.Decoder's, in rows of 512."""
  layers: int = 4
  width: int = 256
  heads: int = 4
  kv_heads: int = 2
  hidden: int = 704
  vocabulary: int = 2_048
  length: int = 512
  batch: int = 8

  @property
  def tokens(self) -> int:
    """Of a step."""
    return self.batch * self.length

  @property
  def matrices(self) -> int:
    """Numbers of the matrices that a token is multiplied with: the layers' and the head's, no embedding."""
    attention = self.width * (self.heads + 2 * self.kv_heads) * (self.width // self.heads) + self.width**2
    return self.layers * (attention + 3 * self.width * self.hidden) + self.width * self.vocabulary

  def flops(self, causal: bool = True) -> int:
    """Of a step: 6 for each number of the matrices and token, and of attention 12 · width for each pair of tokens and
    layer: of the pairs that a causal mask leaves, or of all."""
    pairs = self.length * (self.length + 1) // 2 if causal else self.length**2
    return 6 * self.matrices * self.tokens + 12 * self.layers * self.width * self.batch * pairs


SHAPES = {"256": Shape(), "768": Shape(layers=12, width=768, heads=12, kv_heads=6, hidden=2_048, batch=4)}


def tokens_of(shape: Shape) -> np.ndarray:
  """i32[b l+1]: ids of the one batch that is learned again and again."""
  return np.random.default_rng(0).integers(0, shape.vocabulary, (shape.batch, shape.length + 1)).astype(np.int32)


def decoder_of(shape: Shape, **options):
  """config.Decoder, the default one but for the shape and what `options` says."""
  from unitok import config as c
  return c.Decoder(layers=shape.layers, width=shape.width, heads=shape.heads, kv_heads=shape.kv_heads, hidden=shape.hidden,
                   row_length=shape.length, tasks={"text": 1.0}, train=c.Train(batch_size=shape.batch), **options)


def model_of(shape: Shape, dtype: str = "float32", **options):
  """(Language, optimizer) of `decoder_of`."""
  from unitok.models.precision import choose
  from unitok.optim import optimizer
  from unitok.steps import Language
  decoder, precision = decoder_of(shape, **options), choose(dtype)
  return (Language(decoder, shape.vocabulary, ("text/text",), precision),
          optimizer(decoder.train, products=precision.products))


def rows_of(shape: Shape):
  """The Batch of `tokens_of`: a causal document a row, by the three integers, every token a target."""
  from unitok.sequence import FOREVER, Batch
  ids, order = tokens_of(shape), np.tile(np.arange(shape.length, dtype=np.int32), (shape.batch, 1))
  return Batch(inputs=ids[:, :-1], targets=ids[:, 1:], loss_weights=np.ones(order.shape, np.float32), order=order,
               visible_from=order, visible_until=np.full_like(order, FOREVER), segment_ids=np.ones_like(order),
               tasks=np.zeros_like(order), positions=np.repeat(order[..., None], 3, -1).astype(np.float32))


class Ours:
  """The training step as train/loop.py compiles it: one mesh, the state given away, on one batch."""

  def __init__(self, shape: Shape, dtype: str = "float32", **options):
    import jax
    from unitok.sharding import create, make_mesh, place_batch, under
    from unitok.steps import decoder_state, decoder_step
    self.shape, self.dtype = shape, dtype
    (model, tx), mesh = model_of(shape, dtype, **options), make_mesh()
    self.state = create(functools.partial(decoder_state, model, tx), mesh, jax.random.key(0))
    self.batch, self.key = place_batch(rows_of(shape), mesh), jax.random.key(1)
    self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
    places = jax.tree.map(lambda x: x.sharding, self.state)
    self.advance = jax.jit(under(mesh, functools.partial(decoder_step, model, tx)), donate_argnums=0,
                           out_shardings=(places, None))
    self.versions = {"python": platform.python_version(), "jax": jax.__version__}

  def step(self) -> float:
    """The loss; the new state is there when it returns."""
    import jax
    self.state, metrics = self.advance(self.state, self.batch, self.key)
    jax.block_until_ready(self.state)
    return float(metrics["loss"])

  def products(self, repeats: int) -> dict[str, float]:
    """FLOPs a second of each of the three products of the widest matrix of a layer, the median."""
    from unitok.models.precision import PRECISIONS
    s = self.shape
    return product_rates(s.tokens, s.width, 2 * s.hidden, PRECISIONS[self.dtype].products, repeats)


def product_rates(rows: int, into: int, out: int, dtype, repeats: int) -> dict[str, float]:
  """FLOPs a second, medians: x · W, dy · Wᵀ and xᵀ · dy of x [rows into] and W [into out], added up in float32."""
  import jax
  import jax.numpy as jnp
  keys = jax.random.split(jax.random.key(0), 3)
  x, w, dy = (jax.random.normal(key, shape, dtype) for key, shape in zip(keys, ((rows, into), (into, out), (rows, out))))
  product = lambda a, b, over: jax.lax.dot_general(a, b, ((over[:1], over[1:]), ((), ())),
                                                   preferred_element_type=jnp.float32).astype(dtype)
  run = jax.jit(product, static_argnums=2)
  sides = {"x·W": (x, w, (1, 0)), "dy·Wᵀ": (dy, w, (1, 1)), "xᵀ·dy": (x, dy, (0, 0))}
  times = {name: [] for name in sides}
  for number in range(repeats + 1):
    for name, arguments in sides.items():
      start = time.perf_counter()
      jax.block_until_ready(run(*arguments))
      if number:     # the first compiles
        times[name].append(time.perf_counter() - start)
  return {name: 2 * rows * into * out / float(np.median(some)) for name, some in times.items()}


def open_side(side: str, shape: dict, dtype: str, options: dict | None = None):
  """ours, or a peer's "NETWORK MODE" of train_step_torch."""
  shape, options = Shape(**shape), options or {}
  if side == "ours":
    return Ours(shape, dtype, **options)
  from tests.benchmarks.train_step_torch import Peer
  return Peer(shape, *side.split(), dtype, **options)


def serve(given: str, lines, answer):
  """Opens the side and answers each line of `lines`."""
  start = time.perf_counter()
  side = open_side(**json.loads(given))
  loss = side.step()
  answer({"first_s": time.perf_counter() - start, "parameters": side.parameters, "loss": loss,
          "cores": len(os.sched_getaffinity(0)), "versions": side.versions})
  for line in lines:
    asked, seconds = json.loads(line), []
    for _ in range(asked.get("steps", 0)):
      start = time.perf_counter()
      loss = side.step()
      seconds.append(time.perf_counter() - start)
    if not math.isfinite(loss):
      sys.exit(f"the loss is {loss}")
    rates = side.products(asked["products"]) if asked.get("products") else {}
    answer({"seconds": seconds, "loss": loss, "products": rates})


if __name__ == "__main__":
  out = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)      # what a library prints is no answer
  serve(sys.argv[1], sys.stdin, lambda answer: print(json.dumps(answer), file=out, flush=True))
