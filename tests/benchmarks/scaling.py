"""The training step's time against context length, depth, width and vocabulary; and the input pipeline's rate.

    python -m tests.benchmarks.scaling --out runs/scaling
    python -m tests.benchmarks.scaling --parts context --rounds 2

The step is train_step's: config.Decoder's default shape (4 layers, 256 wide, rows of 512, 8 rows, vocabulary 2,048),
float32, a causal document a row; one number of it changes at a time. Context: rows of 512 to 16,384 tokens, as many rows
as keep a step at 16,384 tokens. Width: heads of 64, half as many of keys and values, SwiGLU 2.75 times as wide.
Vocabulary: its logits whole, and in chunks of 512 tokens (decoder.loss_chunk). The points of a line take turns; each is
the median step, its first run, which compiles, apart. All under the settings of `make allocator`.

Tables are printed as Markdown: a step's milliseconds, tokens a second, and useful GFLOP/s (as train_step's mfu counts).
`--out` gets scaling.svg, milliseconds for 1,000 tokens, and scaling.json.

  input_rate_ratio   rows a second of the input pipeline (train.decoder's own: shards of codes, shuffled, made documents,
                     packed) over those that the step eats, at the default shape in rows of 512; the shards are made in
                     a folder that goes away, of scenes of 64 codes with their captions. Neither runs beside the other:
                     in training the pipeline has what the step leaves of the cores.
  input_rows_per_s, step_rows_per_s   both
  growth             of each line: time of a token at its last point over that at its first
  lines              all points: {line: [{value, ms, tokens_per_s, gflops, first_s}]}

Two cores that make 170 GFLOP/s of a float32 product, jax 0.10, n 3 rounds; tokens a second: context 512, 1,024 … 16,384:
3,963, 3,169, 2,353, 1,467, 861, 533 (with 32 times the context 7.4 times the work a token, at 95 to 61 GFLOP/s: blocks of
attention run slower than other products); depth 2, 4, 8, 16, 32: 6,624, 3,240, 1,996, 990, 457; width 128, 256, 512, 768:
9,216, 3,412, 1,367, 727 (70, 82, 114, 129 GFLOP/s); vocabulary 2,048, 8,192, 32,768, 65,536: 3,489, 2,696, 1,639, 939, in
chunks 3,683, 2,640, 1,313, 772 (the price of their logits computed again, for 0.19 of the memory). The input pipeline makes
272 rows a second on these cores, the step eats 7.0: 39 times.

The last line is JSON.
"""
import dataclasses
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import jax
import tyro

import train.decoder
import train.encode
import train.image_tokenizer
import train.text_tokenizer
from tests.benchmarks.allocator import under_settings
from tests.benchmarks.train_step_side import Ours, Shape
from train.stage import open_workdir
from unitok import config as c
from unitok.evaluation.charts import HEIGHT, WIDTH, line_chart
from unitok.files import write_json
from unitok.run import read_vocabulary
from unitok.sharding import make_mesh, place_batch, under
from unitok.steps import decoder_step

TOKENS, CHUNK = 16_384, 512
VALUES = {"context": (512, 1_024, 2_048, 4_096, 8_192, 16_384), "depth": (2, 4, 8, 16, 32),
          "width": (128, 256, 512, 768), "vocabulary": (2_048, 8_192, 32_768, 65_536)}
UNITS = {"context": "tokens a row", "depth": "layers", "width": "numbers a token", "vocabulary": "ids"}
CONFIG = c.Config(data=c.Scenes(image_size=32, train_examples=3_000, val_examples=9),
                  image_tokenizer=c.Pixels(colours=256, scale=4),
                  decoder=c.Decoder(row_length=512, train=c.Train(batch_size=8)))
"""What the pipeline is measured on."""


def shape_at(axis: str, value: int, base: Shape, tokens: int) -> Shape:
  if axis == "context":
    return dataclasses.replace(base, length=value, batch=max(tokens // value, 1))
  if axis == "width":
    heads = max(value // 64, 1)
    return dataclasses.replace(base, width=value, heads=heads, kv_heads=max(heads // 2, 1), hidden=value * 11 // 4)
  return dataclasses.replace(base, **{{"depth": "layers", "vocabulary": "vocabulary"}[axis]: value})


def line(shapes: dict[int, Shape], rounds: int, **options) -> list[dict]:
  """A point for each value: all are built, then they take turns."""
  sides, first, seconds = {}, {}, {value: [] for value in shapes}
  for value, shape in shapes.items():
    start = time.perf_counter()
    sides[value] = Ours(shape, **options)
    sides[value].step()
    first[value] = time.perf_counter() - start
  for _ in range(rounds):
    for value, side in sides.items():
      start = time.perf_counter()
      side.step()
      seconds[value].append(time.perf_counter() - start)
  points = []
  for value, shape in shapes.items():
    step = statistics.median(seconds[value])
    points.append({"value": value, "ms": 1e3 * step, "tokens_per_s": shape.tokens / step,
                   "gflops": shape.flops() / step / 1e9, "first_s": first[value]})
  return points


def table(name: str, points: list[dict]) -> str:
  rows = [f"| {p['value']:,} | {p['ms']:,.0f} | {p['tokens_per_s']:,.0f} | {p['gflops']:,.0f} |" for p in points]
  return "\n".join([f"| {name} | step, ms | tokens/s | GFLOP/s |", "|---|---|---|---|", *rows])


STYLE = """text { font: 11px sans-serif; fill: #5f6368; } .title { font-weight: 600; font-size: 13px; fill: #1b1c1e; }
.grid { stroke: #e2e0da; } .axis { stroke: #5f6368; } .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line0 { stroke: #2a6fd6; } .dot0 { fill: #2a6fd6; } .line1 { stroke: #d9730d; } .dot1 { fill: #d9730d; }"""


def plot(lines: dict[str, list[dict]]) -> str:
  """SVG with a panel for each axis; lines of one axis are "axis" and "axis, more"."""
  panels = {}
  for name, points in lines.items():
    each = (name, [p["value"] for p in points], [1e6 / p["tokens_per_s"] for p in points])
    panels.setdefault(name.split(",")[0], []).append(each)
  parts, high = [], HEIGHT + 30
  for n, (axis, some) in enumerate(panels.items()):
    chart = line_chart(some, UNITS[axis], "ms for 1,000 tokens", from_zero=True)
    place = f'<svg y="{n * high + 26}" width="{WIDTH}" height="{HEIGHT}" '
    inner = chart[chart.index("<svg "):].replace("<svg ", place, 1)
    legend = "" if len(some) == 1 else ": " + " (blue), ".join(name for name, *_ in some) + " (orange)"
    parts.append(f'<text class="title" x="8" y="{n * high + 18}">Step time against {axis}{legend}</text>{inner}')
  size = f'width="{WIDTH}" height="{high * len(panels)}"'
  return (f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style><rect fill="#fff" {size}/>'
          f'{"".join(parts)}</svg>\n')


def input_rate(config: c.Config, rounds: int, batches: int, steps: int = 2) -> dict[str, float]:
  """Rows a second of the pipeline and of the step, in turn."""
  rows, times = config.decoder.train.batch_size, {"input": [], "step": []}
  with tempfile.TemporaryDirectory() as folder:
    workdir, mesh = open_workdir(Path(folder) / "run", config), make_mesh()
    for stage in (train.text_tokenizer, train.image_tokenizer, train.encode):
      stage.run(config, workdir)
    _, documents, model, tx, state = train.decoder.new(config, workdir, read_vocabulary(workdir), mesh)
    try:
      step = jax.jit(under(mesh, functools.partial(decoder_step, model, tx)), donate_argnums=0)
      batch, key = place_batch(next(documents), mesh), jax.random.key(0)
      for number in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(batches):
          next(documents)
        middle = time.perf_counter()
        for _ in range(steps):
          state, _ = step(state, batch, key)
        jax.block_until_ready(state)
        if number:     # the first compiles, and fills what is packed at a time
          times["input"].append((middle - start) / batches)
          times["step"].append((time.perf_counter() - middle) / steps)
    finally:
      documents.close()
  rates = {name: rows / statistics.median(some) for name, some in times.items()}
  return {"input_rate_ratio": rates["input"] / rates["step"], "input_rows_per_s": rates["input"],
          "step_rows_per_s": rates["step"]}


def measured(axis: str, values, base: Shape, rounds: int, tokens: int = TOKENS) -> dict[str, list[dict]]:
  """The lines of an axis, by name."""
  shapes = {value: shape_at(axis, value, base, tokens) for value in values}
  lines = {axis: line(shapes, rounds)}
  if axis == "vocabulary":
    lines[f"{axis}, in chunks"] = line(shapes, rounds, loss_chunk=CHUNK)
  return lines


def main(parts: tuple[Literal["context", "depth", "width", "vocabulary", "input"], ...] = (*VALUES, "input"),
         rounds: int = 3, batches: int = 64, most: int = 2**30, out: Path | None = None):
  """parts: these alone; rounds: steps of each point; batches: of the pipeline at a time; most: values above it are left
  out; out: folder for the plot and the points."""
  allocator, cores = under_settings(), len(os.sched_getaffinity(0))
  jax.config.update("jax_enable_compilation_cache", False)
  print(f"allocator: {allocator}; {cores} cores, jax {jax.__version__}", flush=True)
  lines, result = {}, {}
  for axis in (axis for axis in VALUES if axis in parts):
    values, least = [value for value in VALUES[axis] if value <= most], min(VALUES[axis])
    if not values:
      sys.exit(f"tests.benchmarks.scaling: --most {most} leaves nothing of {axis}; give {least} or more")
    for name, points in measured(axis, values, Shape(), rounds).items():
      lines[name] = points
      print(f"\n{table(name, points)}", flush=True)
  if "input" in parts:
    result = input_rate(CONFIG, rounds, batches)
    print(f"\ninput: {result['input_rows_per_s']:,.0f} rows/s, the step eats {result['step_rows_per_s']:,.1f}",
          flush=True)
  growth = {name: points[0]["tokens_per_s"] / points[-1]["tokens_per_s"] for name, points in lines.items()}
  result |= {"growth": growth, "lines": lines, "allocator": allocator, "cores": cores}
  if out:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "scaling.json", result)
    if lines:
      (out / "scaling.svg").write_text(plot(lines), encoding="utf-8")
    print(f"\n{out}/scaling.json{', scaling.svg' if lines else ''}")
  print(json.dumps(result))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
