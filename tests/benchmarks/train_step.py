"""The decoder's training step against PyTorch's: tokens a second, share of the machine's peak, compilation, memory.

    python -m tests.benchmarks.train_step --newest .venv-newest/bin/python
    python -m tests.benchmarks.train_step --parts 256 --rounds 3          # a part alone, shorter
    python -m tests.benchmarks.train_step --parts 768 mfu --remat dots    # ours computes again as decoder.remat says

Ours is `unitok.steps.decoder_step` as train.loop compiles it, with the default config but for its shape: the mask by the
three integers, QK-norm, z-loss, the running mean of the weights and the watch over non-finite gradients; these and the
grids' embeddings the peers have not got. The peers are transformers' Emu3ForCausalLM and a plain GPT on
scaled_dot_product_attention (train_step_torch.py), each eager and under torch.compile; the fastest of these four in a
short trial counts. Equal on both sides: layers, width, heads, heads of keys and values, SwiGLU, vocabulary (2,048),
length (512), batch, a loss at every token, clipping, learning rate, and AdamW, which is the config's default (ours of
optax, the peer's torch's fused one); parameters within 3 % (checked). All run under the settings of `make allocator`,
on the cores that this program may use (2: `taskset -c 0,1`). Each side is a process; they take turns, a step's first
run, which compiles, is apart, and speeds are of the median step. Needs the extra bench; `--peer` names another Python
that has it.

  tokens_per_s_ratio_256   ours over the fastest peer, 4 layers x 256, batch 8, both float32
  tokens_per_s_ratio_768   the same, 12 x 768, batch 4
  best_dtype_ratio_768     each at its fastest dtype: ours of float32, mixed and bfloat16 in the environment of
                           `--newest` (the newest Python and jax; left out without one), the peer of float32 and of
                           bfloat16, which is autocast: its weights and optimizer stay float32 as ours do
  mfu_768                  useful FLOPs of a step (6 for each token and number of a matrix, the head's among them and the
                           embeddings' not, and attention of the pairs that the mask leaves) over its time, as a share of
                           the fastest of the products x·W, dy·Wᵀ and xᵀ·dy of the SwiGLU's first matrix, measured
                           between the steps; gflops_768 has all of them; mfu_256 and gflops_256 with the part 256
  ratio_at_peak_256        the ratio to this peer that a step would have which is nothing but those FLOPs at that rate;
                           ratio_at_peak_768 too
  compile_ratio_48_over_4  seconds from the function to the program, 48 layers over 4, 256 wide; compile_s has both
  loss_memory_ratio, loss_speed_ratio   of tests.benchmarks.loss_memory
  sides                    of each side of each comparison: which it is, tokens_per_s, first_s (until its first step was
                           done), parameters, versions
  tried                    the trials: seconds of the fastest step, null where it did not run
  remat, unroll            ours', as given;  allocator, cores: of all sides

Two cores that make 170 GFLOP/s of a float32 product, jax 0.10, n 4 rounds: at 256 ours had 3,416 tokens/s and Emu3
under torch.compile 4,099, a ratio of 0.83 (0.79 on another day, beside the GPT); at 768 230 and 251, 0.92, mfu_768
0.68. In jax 0.12, mixed, 368 tokens/s beside the peer's 429 in bfloat16, 0.86. compile_ratio_48_over_4 was 0.97 (9.5
and 9.9 s), loss_memory_ratio 0.19. ratio_at_peak_768 is 1.35: a step that is nothing but its products at the fastest
rate measured would not reach 1.5. With blocks above 1 GiB given back after each step (an earlier setting of `make
allocator`) the 768 ratio was 0.72, though ours alone took 8.6 s a step then as now: memory that is free while the
other side has its turn goes back to the host of a virtual machine, and comes back slowly. At 256 unroll=4 is 1.04 to
1.1 times as fast, jax 0.12 1.1 times, with both 1.2 times (medians of 8 steps); dense attention or blocks, and the
watch, make no difference. Products of 4,096 rows run at 160 to 187 GFLOP/s there (torch's at 115 to 160), so a step's
98 GFLOP take 0.55 s with nothing else, and the peer's whole step 0.97: for 1.5 it would have to run at 0.86 of the
products' own rate (ratio_at_peak_256 1.74). Of the cores' time 56 % goes to products, 20 % to elementwise loops, 9 %
to malloc and memmove; 15 % they wait. Blocks of attention run at 40 to 50 GFLOP/s. Tried in turn with the default:
layers in a Python loop, SwiGLU's gradient computed again, remat dots, wider vectors, other fusion emitters, no YNN:
within the noise or slower; four rows' blocks at once with turned weights: 0.8 times as fast; blocks of 256: 1.1 times
here, but 0.57 on rows of eight documents of 96 tokens. In bfloat16 (jax 0.12) the three products of 2,048 rows run at
380 to 400 GFLOP/s, torch's at 370 to 400, so a mixed step of 5.4 s at 768 is half products, as the profile has it; of
its cores' time another 6 % turn a factor for xᵀ·dy (which runs at 200 without), 4 % write what the backward pass needs,
4 % are blocks of attention beside their products, 2 % the watch, and a quarter is outside of any operation. The peer's
whole step takes 4.8 s. unroll=4 is no faster there.

The last line is JSON.
"""
import dataclasses
import functools
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Literal

import tyro

from tests.benchmarks.allocator import ROOT, under_settings
from tests.benchmarks.train_step_side import SHAPES, Shape, model_of, rows_of

PEERS = ("gpt compile", "emu3 compile", "gpt eager", "emu3 eager")
DTYPES = ("float32", "mixed", "bfloat16")
PARTS = ("256", "768", "dtype", "mfu", "compile", "loss")
SHALLOW, DEEP = 4, 48
ALIKE = 0.03
"""Share that the parameters of two sides may differ by."""


ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
"""What a traceback's line with the message begins with; libraries put advice behind it."""


class Failed(Exception):
  """A side ended; the message says why."""


class Side:
  """A process of train_step_side. It waits, without using a core, while others have their turn."""
  module = "tests.benchmarks.train_step_side"

  def __init__(self, python: str, side: str, shape: Shape, dtype: str = "float32", options: dict | None = None):
    self.name, self.shape, self.log = f"{side} {dtype}", shape, tempfile.TemporaryFile("w+")
    given = {"side": side, "shape": dataclasses.asdict(shape), "dtype": dtype, "options": options or {}}
    try:
      self.process = subprocess.Popen([python, "-m", self.module, json.dumps(given)], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, cwd=ROOT,
                                      env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"})
    except OSError as error:
      raise Failed(f"{python}: {error.strerror}") from None
    self.seconds, self.rates = [], []
    self.first = self._answer()

  def turn(self, steps: int, products: int = 0) -> list[float]:
    """Seconds of so many steps; they are kept, and so are the rates of the products."""
    answer = self.ask({"steps": steps, "products": products})
    self.seconds += answer["seconds"]
    self.rates += [answer["products"]] if products else []
    return answer["seconds"]

  def ask(self, what: dict) -> dict:
    self.process.stdin.write(json.dumps(what) + "\n")
    self.process.stdin.flush()
    return self._answer()

  def _answer(self) -> dict:
    line = self.process.stdout.readline()
    if not line:
      self.process.wait()
      self.log.seek(0)
      lines = self.log.read().strip().splitlines() or ["no message"]
      raise Failed(([line for line in lines if ERROR.match(line)] or lines)[-1])
    return json.loads(line)

  @property
  def tokens_per_s(self) -> float:
    return self.shape.tokens / statistics.median(self.seconds)

  def close(self):
    self.process.stdin.close()
    self.process.wait()
    self.log.close()


def trial(tried: dict, steps: int, *arguments) -> float | None:
  """Seconds of the fastest of some steps behind the first, None where the side does not run; also told and kept."""
  name = f"{arguments[1]} {arguments[3]}"
  try:
    side = Side(*arguments)
    found = min(side.turn(steps))
    side.close()
    said = f"{found:.3f} s a step, the first {side.first['first_s']:.0f} s"
  except Failed as error:
    found, said = None, f"does not run ({error})"
  print(f"  {name}, {arguments[2].layers} x {arguments[2].width}: {said}", flush=True)
  tried[f"{name} {arguments[2].width}"] = found
  return found


def fastest(tried: dict, steps: int, candidates: list[tuple]) -> tuple:
  """Of the candidates, arguments of Side, that with the fastest step."""
  found = [(seconds, number) for number, one in enumerate(candidates)
           if (seconds := trial(tried, steps, *one)) is not None]
  if not found:
    sys.exit(f"tests.benchmarks.train_step: {candidates[0][0]}: no side runs there, see above; install the extra bench "
             "(make setup EXTRAS=bench), or name a Python that has it with --peer")
  return candidates[min(found)[1]]


def take_turns(sides: list[Side], rounds: int, steps: int, products: int = 0):
  """The first side is ours, which also measures products."""
  try:
    for _ in range(rounds):
      for n, side in enumerate(sides):
        side.turn(steps, 0 if n else products)
  except Failed as error:
    sys.exit(f"tests.benchmarks.train_step: {error}")
  for side in sides:
    print(f"  {side.name}: {side.tokens_per_s:,.0f} tokens/s", flush=True)
    side.close()


def check_alike(sides: list[Side]):
  counts = [side.first["parameters"] for side in sides]
  if abs(counts[1] / counts[0] - 1) > ALIKE:
    sys.exit(f"tests.benchmarks.train_step: {sides[0].name} has {counts[0]:,} parameters, {sides[1].name} "
             f"{counts[1]:,}; they must be within {ALIKE:.0%}")


def mfu(shape: Shape, seconds: float, rates: dict[str, float]) -> float:
  """Share of the fastest product's rate that a step's useful FLOPs have."""
  return shape.flops() / seconds / max(rates.values())


def compile_seconds(layers: int, shape: Shape = SHAPES["256"], **options) -> float:
  """From the step's function to its program; of abstract arrays, so that nothing is held."""
  import jax
  from unitok.steps import decoder_state, decoder_step
  (model, tx), key = model_of(dataclasses.replace(shape, layers=layers), **options), jax.random.key(0)
  state = jax.eval_shape(functools.partial(decoder_state, model, tx), key)
  start = time.perf_counter()
  jax.jit(functools.partial(decoder_step, model, tx), donate_argnums=0).lower(state, rows_of(shape), key).compile()
  seconds = time.perf_counter() - start
  jax.clear_caches()
  gc.collect()
  return seconds


def compile_ratio(rounds: int, options: dict, layers: tuple[int, int] = (SHALLOW, DEEP), **more) -> dict:
  """In turn; the first program of a process, which also loads the compiler, is not counted."""
  compile_seconds(1, **more, **options)
  times = {n: [] for n in layers}
  for _ in range(rounds):
    for n in layers:
      times[n].append(compile_seconds(n, **more, **options))
  found = {n: statistics.median(some) for n, some in times.items()}
  print("compiled:", ", ".join(f"{n} layers {seconds:.1f} s" for n, seconds in found.items()), flush=True)
  return {f"compile_ratio_{layers[1]}_over_{layers[0]}": found[layers[1]] / found[layers[0]],
          "compile_s": {str(n): seconds for n, seconds in found.items()}}


def main(parts: tuple[Literal["256", "768", "dtype", "mfu", "compile", "loss"], ...] = PARTS, rounds: int = 6,
         trial_steps: int = 3, compile_rounds: int = 2, peer: str = sys.executable, newest: str = "",
         remat: Literal["none", "layer", "dots"] = "none", unroll: int = 1, batch_256: int = SHAPES["256"].batch,
         batch_768: int = SHAPES["768"].batch,
         candidates: tuple[Literal["gpt compile", "emu3 compile", "gpt eager", "emu3 eager"], ...] = PEERS):
  """parts: these figures alone; rounds: turns of each side; trial_steps: of each candidate; peer, newest: Pythons;
  remat, unroll: of ours, config.Decoder's; candidates: of the peers, these alone are tried."""
  allocator = under_settings()
  options = {"remat": remat, "unroll": unroll}
  shapes = {"256": dataclasses.replace(SHAPES["256"], batch=batch_256),
            "768": dataclasses.replace(SHAPES["768"], batch=batch_768)}
  print(f"allocator: {allocator}; {len(os.sched_getaffinity(0))} cores", flush=True)
  result, tried, measured = {}, {}, {}

  def duel(key: str, ours: tuple, theirs: list[tuple], steps: int, products: int = 0) -> list[Side]:
    """Ours and the fastest of theirs, arguments of Side; theirs may be none."""
    chosen = [ours, *([fastest(tried, trial_steps, theirs)] if theirs else [])]
    try:
      sides = [Side(*one) for one in chosen]
    except Failed as error:
      sys.exit(f"tests.benchmarks.train_step: {error}")
    if theirs:
      check_alike(sides)
    take_turns(sides, rounds, steps, products)
    for who, side in zip(("ours", "peer"), sides):
      measured[f"{who} {key}"] = {"side": side.name, "tokens_per_s": side.tokens_per_s,
                                  **{name: side.first[name] for name in ("first_s", "parameters", "versions")}}
    return sides

  ratio = lambda sides: sides[0].tokens_per_s / sides[1].tokens_per_s
  peers = lambda shape, dtype: [(peer, one, shape, dtype) for one in candidates]
  for name, steps in (("256", 4), ("768", 1)):
    if name in parts or (name == "768" and "mfu" in parts):
      theirs = peers(shapes[name], "float32") if name in parts else []
      sides = duel(name, (sys.executable, "ours", shapes[name], "float32", options), theirs, steps,
                   3 if "mfu" in parts else 0)
      if theirs:
        result[f"tokens_per_s_ratio_{name}"] = ratio(sides)
      if sides[0].rates:
        rates = {product: statistics.median(some[product] for some in sides[0].rates) for product in sides[0].rates[0]}
        seconds = statistics.median(sides[0].seconds)
        share = result[f"mfu_{name}"] = mfu(shapes[name], seconds, rates)
        if theirs:
          result[f"ratio_at_peak_{name}"] = ratio(sides) / share
        result[f"gflops_{name}"] = {**{product: rate / 1e9 for product, rate in rates.items()},
                                    "step": shapes[name].flops() / seconds / 1e9}
  if "dtype" in parts and not newest:
    print("best_dtype_ratio_768: left out; give the newest Python's environment with --newest "
          "(make setup PYTHON=python3.13 VENV=.venv-newest)", flush=True)
  elif "dtype" in parts:
    shape = shapes["768"]
    ours = fastest(tried, trial_steps, [(newest, "ours", shape, dtype, options) for dtype in DTYPES])
    known = [one for one in peers(shape, "float32") if tried.get(f"{one[1]} float32 {shape.width}")]
    known = [min(known, key=lambda one: tried[f"{one[1]} float32 {shape.width}"])] if known else peers(shape, "float32")
    result["best_dtype_ratio_768"] = ratio(duel("768 best dtype", ours, [*peers(shape, "bfloat16"), *known], 1))
  if "compile" in parts:
    import jax
    jax.config.update("jax_enable_compilation_cache", False)
    result |= compile_ratio(compile_rounds, options)
  if "loss" in parts:
    from tests.benchmarks import loss_memory
    found = loss_memory.measured()
    result |= {key: found[key] for key in ("loss_memory_ratio", "loss_speed_ratio")}
  print(json.dumps({**result, "sides": measured, "tried": tried, **options, "allocator": allocator,
                    "cores": len(os.sched_getaffinity(0))}))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
