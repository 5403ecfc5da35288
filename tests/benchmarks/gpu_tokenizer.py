"""An image tokenizer on an accelerator: pictures a second in training and in coding, share of its measured peak.

    python -m tests.benchmarks.gpu_tokenizer
    python -m tests.benchmarks.gpu_tokenizer --config configs/imagenet256_f8.py --batch 16

The config's own network, losses, judge and optimizer at its own size of pictures, in bfloat16 with float32 weights,
optimizer and averages: `unitok.steps.tokenizer_step` with `--batch` pictures that are made on the device, with the
judge as from its first step (it is computed from the start). FLOPs are those of the products and convolutions of the
step as traced, as `unitok plan` counts them; the peak is the fastest product of 8,192 x 8,192 matrices measured first.

  images_per_s, mfu            of training
  encode_images_per_s, encode_mfu, decode_…   of pictures to codes and back
  first_s                      until a first step was done;  memory_gib: the compiler's plan of arguments and temporaries
  peak_tflops                  measured, and the chip's name

Then a table of the step's own times, by the function that asked for them. The last line is JSON. It wants an accelerator
and says so without one.
"""
import dataclasses
import json
import statistics
import time

import jax
import jax.numpy as jnp
import tyro

from tests.benchmarks.gpu_step import accelerator, planned_gib, seconds_of
from tests.benchmarks.profiled import askers, operations, summary, told
from tests.benchmarks.train_step_side import product_rates
from unitok import config as c
from unitok.plan import flops
from unitok.plan.stages import tokenizer_stage


def measure(config: c.Config, batch: int, peak: float, rounds: int, steps: int) -> tuple[dict, str]:
  """(figures, the profile's table)."""
  stage, key = tokenizer_stage(config), jax.random.key(1)
  shapes = stage.batch(batch)
  pixels = jax.jit(lambda key: jax.random.randint(key, shapes.shape, 0, 256).astype(shapes.dtype))(key)
  given = jax.tree.map(lambda one: jnp.full(one.shape, 0.01, one.dtype), stage.given)
  start = time.perf_counter()
  held = [jax.jit(stage.build)(jax.random.key(0))]
  program = jax.jit(stage.step, donate_argnums=0).lower(held[0], pixels, key, *given).compile()

  def step():
    held[0], metrics = program(held[0], pixels, key, *given)
    return metrics

  seconds_of(step, 1)
  found = {"first_s": time.perf_counter() - start}
  useful = flops(stage.step, stage.state(), shapes, key, *stage.given)
  timed = lambda call: statistics.median(seconds_of(call, steps) / steps for _ in range(rounds))
  seconds = timed(step)
  rows = summary(operations(lambda: seconds_of(step, steps)), askers(program.as_text()), steps)
  found |= {"images_per_s": batch / seconds, "mfu": useful / seconds / peak,
            "memory_gib": planned_gib(program)}
  weights, tokenizer = (held[0].params, held[0].extra["quantizer"]), stage.model
  encode, decode = jax.jit(tokenizer.encode), jax.jit(tokenizer.decode)
  codes = encode(*weights, pixels)
  for name, call, argument in (("encode", encode, pixels), ("decode", decode, codes)):
    jax.block_until_ready(call(*weights, argument))
    each = timed(lambda: call(*weights, argument))
    count = flops(getattr(tokenizer, name), *weights, argument)
    found |= {f"{name}_images_per_s": batch / each, f"{name}_mfu": count / each / peak}
  return found, told(rows, 1e3 * seconds)


def main(config: str = "configs/imagenet256_f16.py", batch: int = 32, rounds: int = 5, steps: int = 4, side: int = 8_192,
         dtype: str = "bfloat16"):
  """config: its image tokenizer; batch: pictures; rounds, steps: trials, and steps of each; side: of the matrices that the
  peak is measured with; dtype: a compute_dtype of the config."""
  device = accelerator("gpu_tokenizer", "tokenizer")
  peak = max(product_rates(side, side, side, jnp.bfloat16, 20).values())
  one = dataclasses.replace(c.load(config), compute_dtype=dtype)
  found, profile = measure(one, batch, peak, rounds, steps)
  print(f"{device.device_kind}, peak {peak / 1e12:.0f} TFLOP/s; {config}, {batch} pictures of {one.data.image_size} pixels in "
        f"{dtype}: {found['images_per_s']:.1f} pictures/s in training, {found['mfu']:.1%} of the peak; "
        f"{found['encode_images_per_s']:.1f} encoded, {found['decode_images_per_s']:.1f} decoded; "
        f"{found['memory_gib']:.1f} GiB\n\n{profile}", flush=True)
  print(json.dumps({"chip": device.device_kind, "peak_tflops": peak / 1e12, **found}))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
