"""The decoder's training step on an accelerator: share of its measured peak, and where the rest goes.

    python -m tests.benchmarks.gpu_step
    python -m tests.benchmarks.gpu_step --shapes 7B --batch 4 --remat dots

bfloat16 with float32 weights, optimizer and averages, `unitok.steps.decoder_step` with AdamW on causal rows, chunks of
the loss. 100M and 1B are whole; of 7B (Llama 2's and Chameleon's shapes) there are as many layers as fit beside their
optimizer, `--layers-7b`, and every layer is computed again in the backward pass. The peak is the fastest product of
8,192 x 8,192 matrices measured first, so a share is of what the chip gives and not of its paper.

  mfu_SHAPE     useful FLOPs (train_step.py: what is computed again does not count, attention as the mask is) over the
                time and the peak
  done_SHAPE    the same with the forward pass that recomputation (remat layer) adds
  tokens_per_s_SHAPE, parameters_SHAPE, first_s_SHAPE, memory_gib_SHAPE: the compiler's plan of arguments and temporaries
  peak_gib_SHAPE  what the device really held at most until a first step was done; null where it does not say, or an
                  earlier shape took more
  plan_gib_SHAPE, plan_ratio_SHAPE   what `unitok plan` says of the same step, compiled for a CPU, and that over peak_gib:
                  within 15 % of 1; null where the chip is none of the plan's
  peak_tflops   measured, and the chip's name

Then for each shape a table of the operations' own times, by the function that asked for them; "nothing" is when the
device waits. The last line is JSON. It wants an accelerator and says so without one.
"""
import dataclasses
import json
import statistics
import sys
import time
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from tests.benchmarks.profiled import askers, operations, summary, told
from tests.benchmarks.train_step_side import Ours, Shape, decoder_of, product_rates
from unitok import config as c
from unitok.plan.chips import CHIPS
from unitok.plan.simulate import compiled
from unitok.plan.stages import on_chips
from unitok.sharding import AXES
from unitok.vocab import SPECIAL_SIZE

SHAPES = {"100M": Shape(12, 768, 12, 12, 2_048, vocabulary=16_384, length=2_048, batch=32),
          "1B": Shape(20, 2_048, 16, 16, 5_504, vocabulary=32_768, length=2_048, batch=8),
          "7B": Shape(8, 4_096, 32, 32, 11_008, vocabulary=65_536, length=4_096, batch=4)}
REMAT = {"100M": "none", "1B": "none", "7B": "layer"}


def accelerator(script: str, for_cpus: str):
  """The device; ends the program where it is a CPU, naming the script that measures one."""
  device = jax.devices()[0]
  if device.platform == "cpu":
    sys.exit(f"tests.benchmarks.{script}: only a CPU is here, this wants an accelerator (make setup ACCEL=cuda); "
             f"tests.benchmarks.{for_cpus} is for CPUs")
  return device


def seconds_of(call, repeats: int) -> float:
  """Of so many calls, none waited for before the last, as training goes."""
  start = time.perf_counter()
  for _ in range(repeats):
    out = call()
  jax.block_until_ready(out)
  return time.perf_counter() - start


def planned_gib(program) -> float:
  """What a compiled program takes: the compiler's plan of arguments and temporaries."""
  memory = program.memory_analysis()
  return (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30


def most_gib(before: float = 0.0) -> float | None:
  """What the device has held at most since the process started; None where it does not say, or no more than `before`."""
  found = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
  return found if found > before else None


def plan_gib(shape: Shape, dtype: str, **options) -> float | None:
  """What `unitok plan` says that a step takes of this chip; None where it does not know the chip."""
  if not any(name in jax.devices()[0].device_kind.lower() for name in CHIPS):
    return None
  colours = shape.vocabulary // 4
  config = c.Config(text=c.Text(vocab_size=shape.vocabulary - SPECIAL_SIZE - colours), compute_dtype=dtype,
                    image_tokenizer=c.Pixels(colours=colours), decoder=decoder_of(shape, **options))
  found = compiled(on_chips(config), "decoder", dict.fromkeys(AXES, 1), room=1)     # into which no larger batch fits
  return found["memory"]["total"] / 2**30


def measure(shape: Shape, peak: float, rounds: int, steps: int, dtype: str = "bfloat16", **options) -> tuple[dict, str]:
  """(figures, the profile's table)."""
  start, before = time.perf_counter(), most_gib() or 0.0
  side = Ours(shape, dtype, **options)
  program = side.advance.lower(side.state, side.batch, side.key).compile()

  def advance():
    side.state, _ = program(side.state, side.batch, side.key)
    return side.state

  seconds_of(advance, 1)
  first, most = time.perf_counter() - start, most_gib(before)
  step = statistics.median(seconds_of(advance, steps) / steps for _ in range(rounds))
  rows = summary(operations(lambda: seconds_of(advance, steps)), askers(program.as_text()), steps)
  # what a layer's second forward pass adds: a third of its 6 FLOPs, and none of the head's
  layers = shape.flops() - 6 * shape.width * shape.vocabulary * shape.tokens
  again = layers / 3 if options.get("remat") == "layer" else 0
  plan = plan_gib(shape, dtype, **options)
  found = {"mfu": shape.flops() / step / peak, "done": (shape.flops() + again) / step / peak,
           "tokens_per_s": shape.tokens / step, "parameters": side.parameters, "first_s": first,
           "memory_gib": planned_gib(program), "peak_gib": most, "plan_gib": plan,
           "plan_ratio": plan / most if plan and most else None}
  return found, told(rows, 1e3 * step)


def main(shapes: tuple[Literal["100M", "1B", "7B"], ...] = ("100M", "1B", "7B"), rounds: int = 5, steps: int = 4,
         batch: int = 0, layers_7b: int = SHAPES["7B"].layers, chunk: int = 2_048,
         remat: Literal["", "none", "layer", "dots"] = "", unroll: int = 1,
         attention: Literal["auto", "dense", "blocks", "fused"] = "auto", side: int = 8_192):
  """batch: rows, in place of each shape's own; chunk: of the loss, tokens, 0 for none; remat: in place of each shape's
  own; unroll, attention: config.Decoder's; side: of the matrices that the peak is measured with."""
  device = accelerator("gpu_step", "train_step")
  rates = product_rates(side, side, side, jnp.bfloat16, 20)
  peak = max(rates.values())
  told_rates = ", ".join(f"{name} {rate / 1e12:.0f} TFLOP/s" for name, rate in rates.items())
  print(f"{device.device_kind}: {told_rates}", flush=True)
  result = {"chip": device.device_kind, "peak_tflops": peak / 1e12}
  for name in shapes:
    shape = dataclasses.replace(SHAPES[name], batch=batch or SHAPES[name].batch)
    shape = dataclasses.replace(shape, layers=layers_7b) if name == "7B" else shape
    options = {"remat": remat or REMAT[name], "unroll": unroll, "loss_chunk": chunk, "attention": attention}
    try:
      found, profile = measure(shape, peak, rounds, steps, **options)
    except jax.errors.JaxRuntimeError as error:
      print(f"{name}: {str(error).splitlines()[0]}; with less of --batch or --layers-7b, or --remat layer, it may fit",
            flush=True)
      continue
    beside = f", really {found['peak_gib']:.1f}" if found["peak_gib"] else ""
    beside += f", by unitok plan {found['plan_gib']:.1f}" if found["plan_gib"] else ""
    print(f"\n{name}, {shape.layers} x {shape.width}, batch {shape.batch} x {shape.length}, remat {options['remat']}: "
          f"{found['tokens_per_s']:,.0f} tokens/s, {found['mfu']:.1%} of the peak, {found['memory_gib']:.1f} GiB{beside}\n\n"
          f"{profile}", flush=True)
    result |= {f"{key}_{name}": value for key, value in found.items()}
  print(json.dumps(result))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
