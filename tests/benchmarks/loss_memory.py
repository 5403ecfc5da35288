"""Memory and time of the decoder's loss in chunks against the whole one, at a large vocabulary.

    python -m tests.benchmarks.loss_memory

float32, loss and gradients of x [8 512 256] and of the head's kernel [256 65536]. Both programs are compiled and their
memory is what the compiler plans for temporary arrays, which the gradients themselves are not; the time is the median of
rounds in which both are called in turn.
"""
import json
import statistics
import time

import jax
import jax.numpy as jnp
import tyro

from unitok.losses import cross_entropy, cross_entropy_in_chunks, weighted

ROWS, TOKENS, WIDTH, IDS, Z_LOSS = 8, 512, 256, 65_536, 1e-4


def measured(chunk: int = 512, rounds: int = 3, vocabulary: int = IDS) -> dict[str, float]:
  """The ratios of memory and of speed, chunks of so many tokens against the whole."""
  keys = jax.random.split(jax.random.key(0), 3)
  arrays = (jax.random.normal(keys[0], (ROWS, TOKENS, WIDTH)), 0.02 * jax.random.normal(keys[1], (WIDTH, vocabulary)),
            jax.random.randint(keys[2], (ROWS, TOKENS), 0, vocabulary))

  def whole(x, kernel, targets):
    return cross_entropy(x.reshape(-1, WIDTH) @ kernel, targets.reshape(-1))

  def in_chunks(x, kernel, targets):
    return cross_entropy_in_chunks(x, kernel, targets, jnp.matmul, chunk)

  def compiled(function):
    def loss(*arrays):
      nats, log_z = (one.reshape(-1) for one in function(*arrays))
      return weighted(nats, log_z**2, jnp.ones_like(nats), Z_LOSS)
    return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arrays).compile()

  programs = {"whole": compiled(whole), "in chunks": compiled(in_chunks)}
  times = {name: [] for name in programs}
  for number in range(rounds + 1):
    for name, run in programs.items():
      start = time.perf_counter()
      loss = jax.block_until_ready(run(*arrays))[0]
      if number:
        times[name].append(time.perf_counter() - start)
      else:
        print(f"{name}: loss {loss:.6f}")
  held = {name: run.memory_analysis().temp_size_in_bytes for name, run in programs.items()}
  seconds = {name: statistics.median(some) for name, some in times.items()}
  for name in programs:
    print(f"{name}: {held[name] / 2**20:,.0f} MiB of temporary arrays, {seconds[name]:.2f} s")
  return {"loss_memory_ratio": held["in chunks"] / held["whole"],
          "loss_speed_ratio": seconds["whole"] / seconds["in chunks"], "chunk": chunk}


def main(chunk: int = 512, rounds: int = 3):
  """chunk: tokens."""
  print(json.dumps(measured(chunk, rounds)))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
