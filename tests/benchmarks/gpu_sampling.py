"""Drawing on an accelerator, against what its memory allows: 1B shapes, bfloat16, guidance 3.

    python -m tests.benchmarks.gpu_sampling
    python -m tests.benchmarks.gpu_sampling --tokens 1024 --batches 1 16 64 --pass-share 0.35

Random weights; `Sampler.draw` of a picture of each of `--tokens` codes behind a caption of 16 tokens, prefill included.
The floor of a token code by code: the bytes that a pass cannot do without (matrices of the layers and the head's columns of
the codes, in bfloat16 once for all rows; keys and values so far of every row, those of guidance too) over the bandwidth,
which is measured first, reading and writing 2 GiB.

  seconds_TOKENS          a picture alone (batch 1), code by code;  floor_share_TOKENS: the floor's time over it
  pictures_per_s_TOKENS   at the best of `--batches`, best_batch_TOKENS
  groups_ratio_TOKENS     code by code over groups in `--passes` passes, batch 1
  window_ratio_TOKENS     a pass of a window of 16, as jacobi's, over one of a token; with `--pass-share`, which
                          tests.benchmarks.strategies measures on a trained model, jacobi_ratio_TOKENS is 1 / (both)
  bandwidth_gb_s          measured, and the chip's name

The last line is JSON. It wants an accelerator and says so without one.
"""
import dataclasses
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from tests.benchmarks.gpu_step import accelerator
from unitok import config as c
from unitok.config import Sampling
from unitok.models.precision import PRECISIONS
from unitok.objectives import DRAWING, OBJECTIVES
from unitok.objectives.codes import Codes
from unitok.sampling.groups import groups_of
from unitok.sampling.sampler import Sampler
from unitok.sequence import build
from unitok.steps import Language
from unitok.vocab import make_vocabulary

TEXT, IMAGE, WORDS, WINDOW = 16_384, 16_384, 16, 16
SHAPE = c.Decoder(layers=20, width=2_048, heads=16, kv_heads=16, hidden=5_504)
GUIDED = Sampling(guidance_scale=3.0, strategy="sequential")


def bandwidth(size: int, repeats: int) -> float:
  """Bytes a second that are read and written, the median."""
  x, times = jnp.zeros(size // 4, jnp.float32), []
  more = jax.jit(lambda x: x + 1, donate_argnums=0)
  for _ in range(repeats + 1):
    start = time.perf_counter()
    x = jax.block_until_ready(more(x))
    times.append(time.perf_counter() - start)
  return 2 * size / statistics.median(times[1:])      # the first compiles


class Side:
  """A decoder of random weights."""

  def __init__(self, options: c.Decoder, dtype: str, text: int = TEXT, image: int = IMAGE):
    self.options, self.vocabulary, self.seed = options, make_vocabulary({"text": text, "image": image}, {}), 0
    precision = PRECISIONS[dtype]
    self.bytes = precision.activations.itemsize
    language = Language(options, self.vocabulary.size, ("text_to_image", "parallel"), precision, image=self.vocabulary.image)
    params = jax.jit(language.init)(jax.random.key(0))
    self.matrices = sum(leaf.size for leaf in jax.tree.leaves(params["layers"]) if leaf.ndim > 2) + options.width * image
    self.sampler = Sampler(language, params, self.vocabulary)

  def document(self, words: int, side: int, groups=None):
    codes = Codes((np.arange(words, dtype=np.int32),), np.full((side, side), -1, np.int32), groups=groups)
    objective = OBJECTIVES["text_to_image" if groups is None else "parallel"]
    return build(objective(codes, np.random.default_rng(0), DRAWING), self.vocabulary)

  def draw(self, sampling: Sampling, tokens: int, batch: int) -> float:
    """Seconds."""
    side = int(tokens**0.5)
    groups = groups_of(np.ones((side, side), bool), sampling, 0) if sampling.passes else None
    asked, null = self.document(WORDS, side, groups), self.document(0, side, groups)
    self.seed += 1
    start = time.perf_counter()
    drawn = self.sampler.draw([asked] * batch, sampling, self.seed, [null] * batch)
    assert [len(ids) for ids in drawn] == [tokens] * batch
    return time.perf_counter() - start

  def seconds(self, sampling: Sampling, tokens: int, batch: int, rounds: int) -> float:
    self.draw(sampling, tokens, batch)      # compiles
    return statistics.median(self.draw(sampling, tokens, batch) for _ in range(rounds))

  def floor_bytes(self, tokens: int, batch: int) -> float:
    """Of a whole picture code by code behind its prefill: the matrices each pass, and the mean of keys and values."""
    rows, slots = 2 * batch, WORDS + tokens / 2
    o = self.options
    cache = rows * slots * 2 * o.kv_heads * (o.width // o.heads) * o.layers
    return (tokens - 1) * self.bytes * (self.matrices + cache)


def measure(side: Side, tokens: int, rate: float, batches: tuple[int, ...], passes: int, rounds: int) -> dict[str, float]:
  """rate: bytes a second."""
  alone = side.seconds(GUIDED, tokens, 1, rounds)
  found = {"seconds": alone, "floor_share": side.floor_bytes(tokens, 1) / rate / alone}
  rates = {}
  for batch in batches:
    try:
      rates[batch] = batch / (alone if batch == 1 else side.seconds(GUIDED, tokens, batch, rounds))
    except jax.errors.JaxRuntimeError as error:
      print(f"{tokens} tokens, batch {batch}: {str(error).splitlines()[0]}", flush=True)
  best = max(rates, key=rates.get)
  found |= {"pictures_per_s": rates[best], "best_batch": best}
  found["groups_ratio"] = alone / side.seconds(
      dataclasses.replace(GUIDED, strategy="groups", passes=min(passes, tokens)), tokens, 1, rounds)
  # kept one token each, a window's passes are as many
  found["window_ratio"] = side.seconds(dataclasses.replace(GUIDED, window=WINDOW), tokens, 1, rounds) / alone
  return found


def main(tokens: tuple[int, ...] = (256, 1_024), batches: tuple[int, ...] = (1, 8, 32, 64), passes: int = 16,
         pass_share: float | None = None, rounds: int = 3, layers: int = SHAPE.layers, width: int = SHAPE.width,
         dtype: str = "bfloat16"):
  """tokens: codes of a picture, squares; batches: tried; passes: of groups; pass_share: jacobi's; rounds: draws of each;
  layers, width: other shapes than 1B's; dtype: a name in PRECISIONS."""
  device = accelerator("gpu_sampling", "sampling")
  rate = bandwidth(2**31, 10)
  result = {"chip": device.device_kind, "bandwidth_gb_s": rate / 1e9}
  print(f"{device.device_kind}: {rate / 1e9:.0f} GB/s", flush=True)
  side = Side(dataclasses.replace(SHAPE, layers=layers, width=width), dtype)
  for one in tokens:
    found = measure(side, one, rate, batches, passes, rounds)
    if pass_share:
      found["jacobi_ratio"] = 1 / (pass_share * found["window_ratio"])
    print(f"{one} tokens: {found['seconds']:.2f} s a picture alone, {found['floor_share']:.1%} of the floor; "
          f"{found['pictures_per_s']:.2f} pictures/s at batch {found['best_batch']}; groups of {passes} passes "
          f"{found['groups_ratio']:.1f} times, a window's pass {found['window_ratio']:.2f} of a token's", flush=True)
    result |= {f"{key}_{one}": value for key, value in found.items()}
  print(json.dumps(result))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
