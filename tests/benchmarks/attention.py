"""Attention by blocks against the whole mask and against jax.nn.dot_product_attention: speed and memory.

    python -m tests.benchmarks.attention

float32, 8 heads of 64, forward and backward, all sides compiled, warmed up and called in turn, ratio of medians. The
peer is jax.nn.dot_product_attention(is_causal=True) as this backend implements it, in its own layout [b n h d].
The memory is what the compiler plans for temporary arrays at 16,384 and 4,096 tokens, batch 1.
"""
import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from unitok.models.attention import attend, look
from unitok.models.rule import Rule

HEADS, DIM = 8, 64
FOREVER = 2**30


def causal(batch: int, length: int, documents: int = 1) -> Rule:
  """Rows of so many causal documents of `length` tokens each."""
  order = np.tile(np.arange(length, dtype=np.int32), (batch, documents))
  segments = np.repeat(np.arange(1, documents + 1, dtype=np.int32), length)
  return Rule(*map(jnp.asarray, (order, order, np.full_like(order, FOREVER), np.broadcast_to(segments, order.shape))))


def arrays(rule: Rule, heads_first: bool = True):
  """q, k, v and the output's gradient, [b n h d] all four; `heads_first`: k and v [b h n d], as `attend` takes them."""
  shape = (*rule.order.shape, HEADS, DIM)
  q, k, v, grad = (jax.random.normal(jax.random.key(n), shape) for n in range(4))
  return (q, k.swapaxes(1, 2), v.swapaxes(1, 2), grad) if heads_first else (q, k, v, grad)


def ours(kind: str):
  def run(q, k, v, grad, rule):
    seen = look(rule, kind)
    out, back = jax.vjp(lambda *x: attend(*x, seen), q, k, v)
    return out, back(grad)
  return jax.jit(run)


@jax.jit
def peer(q, k, v, grad):
  out, back = jax.vjp(lambda *x: jax.nn.dot_product_attention(*x, is_causal=True), q, k, v)
  return out, back(grad)


def medians(sides: dict, rounds: int) -> dict[str, float]:
  """Milliseconds of each side, a function and its arguments, called in turn."""
  times = {name: [] for name in sides}
  for number in range(rounds + 1):
    for name, (run, arguments) in sides.items():
      start = time.perf_counter()
      jax.block_until_ready(run(*arguments))
      if number:     # the first compiles
        times[name].append(1e3 * (time.perf_counter() - start))
  return {name: statistics.median(some) for name, some in times.items()}


def bytes_of(length: int) -> tuple[int, int]:
  """(temporary bytes of forward and backward, bytes of q, k, v and the output)."""
  rule = causal(1, length)
  some = arrays(rule)
  plan = ours("blocks").lower(*some, rule).compile().memory_analysis()
  return plan.temp_size_in_bytes, 4 * some[0].nbytes


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=15)
  rounds = parser.parse_args().rounds
  rule = causal(4, 1024)
  some = (*arrays(rule), rule)
  whole = medians({"blocks": (ours("blocks"), some), "dense": (ours("dense"), some),
                   "peer": (peer, arrays(rule, heads_first=False))}, rounds)
  print("batch 4 of 1,024 tokens:", {name: f"{ms:.1f} ms" for name, ms in whole.items()})
  rule = causal(1, 512, documents=8)
  some = (*arrays(rule), rule)
  packed = medians({"blocks": (ours("blocks"), some), "dense": (ours("dense"), some)}, max(rounds // 3, 3))
  print("a row of 8 documents of 512:", {name: f"{ms:.1f} ms" for name, ms in packed.items()})
  (small, _), (large, own) = bytes_of(4096), bytes_of(16384)
  print(f"temporary bytes: {small / 2**20:.0f} MiB at 4,096 tokens, {large / 2**20:.0f} MiB at 16,384, where q, k, v "
        f"and the output are {own / 2**20:.0f} MiB")
  print(json.dumps({"causal_speed_ratio_1024": whole["peer"] / whole["blocks"],
                    "dense_speed_ratio_1024": whole["dense"] / whole["blocks"],
                    "memory_ratio_16384": large / small, "memory_share_16384": large / own,
                    "sparse_speed_ratio": packed["dense"] / packed["blocks"]}))


if __name__ == "__main__":
  main()
