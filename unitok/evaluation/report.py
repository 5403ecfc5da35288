"""What a run's page shows, for any source: figures, galleries, curves, samples over training, its config."""
import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath
from rich.console import Console
from rich.table import Table

from unitok import config as c
from unitok.data.drawings import write
from unitok.evaluation import charts, page
from unitok.evaluation.examples import Figure, Result
from unitok.evaluation.statistics import look_up

SAMPLE = re.compile(r"(?P<stage>\w+?)_(?P<step>\d+)\.png")
STAGES = {"image_tokenizer": "Image tokenizer: originals above, what comes back from their codes below",
          "decoder": "Decoder: the same prompts, drawn at every stop"}
STEPS = 10
"""Rows of samples shown of one stage, evenly chosen."""


def write_report(workdir, config: c.Config, result: Result, seconds: Callable[[], Mapping[str, float]]) -> epath.Path:
  """workdir/report/index.html from what an evaluation gave and the run's metrics.jsonl and report/samples -> its path.

  seconds(): of each stage; asked for last.
  """
  workdir = epath.Path(workdir)
  return epath.Path(write(workdir / "report" / "index.html", render(workdir, config, result, seconds).encode()))


def render(workdir, config: c.Config, result: Result, seconds: Callable[[], Mapping[str, float]]) -> str:
  """The page's HTML."""
  workdir, metrics = epath.Path(workdir), result.metrics
  tiles = [tile for f in result.figures if (tile := tile_of(f, metrics))]
  sections = sorted(result.sections, key=lambda s: s.order)
  blocks = [(s.title, page.gallery(s)) for s in sections]
  blocks.append(("Over the training", films(workdir / "report" / "samples", config)))
  cards = page.chart_cards([("Whole pictures right, by passes", passes_chart(metrics, "accuracy", "share of pictures")),
                            ("How likely the model finds what it drew, by passes",
                             passes_chart(metrics, "nats", "nats a code, read code by code"))])
  about = "How many codes are drawn at once, and what it costs: the same prompts by several strategies."
  blocks.append(("Fewer passes", page.block("Fewer passes", about, cards) if cards else ""))
  lines = read_metrics(workdir)
  cards = page.chart_cards(curves(lines))
  about = "Each task and kind of token has its own loss; the number is the last."
  blocks.append(("Learning", page.block("Learning", about, cards) if cards else ""))
  cards = page.chart_cards(stability(lines))
  about = "What grows before a training diverges: by kind of target, as training measured it."
  blocks.append(("Stability", page.block("Stability", about, cards) if cards else ""))
  counts = metrics.get("image_tokenizer", {}).get("codebook_counts", [])
  cards = page.chart_cards([("Use of the codes on validation pictures", charts.usage_chart(counts)),
                            *codebook_curves(lines)])
  perplexity = look_up(metrics, "image_tokenizer.perplexity")
  about = "How often each code is used." + (
      f" Perplexity {perplexity:.0f}: as if so many were used alike." if perplexity else "")
  blocks.append(("Codebook", page.block("Codebook", about, cards) if cards else ""))

  def last() -> str:
    now = seconds()
    rows = [(name, f"{value:.1f}") for name, value in now.items()]
    settings = [(name, json.dumps(value)) for name, value in c.flat(config)]
    drawn = [(name, json.dumps(value)) for name, value in metrics.get("sampling", {}).items()]
    return ('<section id="details">' + page.folded("Figures", figures_table(result))
            + page.folded("Seconds a stage", page.table(rows, ("stage", "seconds"))) * bool(rows)
            + page.folded("Sampling", page.table(drawn)) * bool(drawn)
            + page.folded("Configuration", page.table(settings, ("field", "value"))) + "</section>"
            + "<footer>Written by unitok. Figures and galleries are of records that training never saw, the curves "
              "under Learning of training itself; intervals are 95 %.</footer>")
  hero = next((s.items for s in sections if s.order <= 10), [])
  return page.page(config.name, lead(config), tiles, blocks, last, hero)


def lead(config: c.Config) -> str:
  """What kind of a run this is, in a line."""
  side = config.data.image_size // config.image_tokenizer.downsampling
  tasks = ", ".join(name.replace("_", " ") for name, share in config.decoder.tasks.items() if share)
  return (f"One autoregressive model over one vocabulary of text and picture codes: {tasks}. Source: "
          f"{c.source_name(config.data)}; pictures of {config.data.image_size} × {config.data.image_size} pixels in "
          f"{side} × {side} codes; a transformer {config.decoder.width} wide and {config.decoder.layers} deep.")


# ---- figures

def told(value: float, unit: str) -> str:
  """0.931 and "%" -> "93.1 %"; 24.31 and "dB" -> "24.3 dB"."""
  if unit == "%":
    return f"{100 * value:.1f} %"
  digits = 1 if unit == "dB" or abs(value) >= 10 else 2
  return f"{value:.{digits}f}" + (f" {unit}" if unit else "")


def chance_of(f: Figure, metrics: Mapping[str, Any]) -> float | None:
  return look_up(metrics, f.chance) if isinstance(f.chance, str) else f.chance


def parts_of(f: Figure, metrics: Mapping[str, Any]) -> tuple[str, str, str, str] | None:
  """(value, interval, n, chance) for people, "" what there is not; None where the figure was not measured."""
  value = look_up(metrics, f.key)
  if value is None:
    return None
  low, high, n = (look_up(metrics, f"{f.key}_{end}") for end in ("low", "high", "n"))
  if n is None and f.key.startswith("decoder.nats"):
    n = look_up(metrics, f"{f.key}_n")
  short = lambda v: told(v, f.unit).removesuffix(f" {f.unit}")
  interval = ""
  if low is not None and high is not None:
    interval = f"{short(low)} – {told(high, f.unit) if f.unit == '%' else short(high)}"
  chance = chance_of(f, metrics)
  return (told(value, f.unit), interval, "" if n is None else str(n), "" if chance is None else told(chance, f.unit))


def tile_of(f: Figure, metrics: Mapping[str, Any]) -> page.Tile | None:
  parts = parts_of(f, metrics)
  if parts is None:
    return None
  value, interval, n, chance = parts
  share = look_up(metrics, f.key) if f.unit == "%" else None
  count = ", ".join(x for x in (interval, f"n = {n}" if n else "") if x)
  return page.Tile(f.label, value, (count, f"by chance {chance}" if chance else "", f.about), share,
                   chance_of(f, metrics) if share is not None else None)


def figures_table(result: Result) -> str:
  """All numbers of the metrics, by their keys."""
  rows = []

  def walk(value, prefix):
    for name, v in value.items():
      if isinstance(v, Mapping):
        walk(v, f"{prefix}{name}.")
      elif isinstance(v, (int, float)) and not name.endswith(("_low", "_high", "_n")):
        low, high, n = (value.get(f"{name}_{end}") for end in ("low", "high", "n"))
        interval = f"{low:.4g} – {high:.4g}" if low is not None and high is not None else ""
        rows.append((prefix + name, f"{v:.4g}", interval, "" if n is None else n))
  walk({k: v for k, v in result.metrics.items() if k not in ("sampling", "seconds")}, "")
  return page.table(rows, ("key", "value", "95 % interval", "n"))


def passes_chart(metrics: Mapping[str, Any], key: str, across: str) -> str:
  """A line for each strategy of `parallel.curve`, {strategy: {passes: {key}}}; "" where no evaluation drew one."""
  lines = []
  for name, points in metrics.get("parallel", {}).get("curve", {}).items():
    passes = sorted((one for one in points if key in points[one]), key=int)
    lines.append((name, [float(one) for one in passes], [points[one][key] for one in passes]))
  return charts.line_chart([line for line in lines if line[1]], "passes of the model over a picture", across, from_zero=True)


# ---- what training left

def read_metrics(workdir) -> dict[str, list[dict]]:
  """The lines of metrics.jsonl by stage, in the order of their steps; what is no JSON is passed over."""
  path, out = epath.Path(workdir) / "metrics.jsonl", {}
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      value = json.loads(line)
    except json.JSONDecodeError:
      continue
    if isinstance(value, dict) and isinstance(value.get("step"), int):
      out.setdefault(value.get("stage", ""), []).append(value)
  return {stage: sorted(lines, key=lambda v: v["step"]) for stage, lines in out.items()}


def series(lines: list[dict], name: str) -> tuple[list[float], list[float]]:
  """(steps, values) of what is logged under a name."""
  have = [(v["step"], v[name]) for v in lines if isinstance(v.get(name), (int, float))]
  return [x for x, _ in have], [y for _, y in have]


def curves(lines: dict[str, list[dict]]) -> list[tuple[str, str]]:
  """The decoder's loss by task, the tokenizer's PSNR."""
  decoder, tokenizer = lines.get("decoder", []), lines.get("image_tokenizer", [])
  tasks = list(dict.fromkeys(name for line in decoder for name in line if name.startswith("loss/")))
  losses = [(name.removeprefix("loss/").replace("_", " ").replace("/", ": "), *series(decoder, name)) for name in tasks]
  return [("Decoder: loss by task", charts.line_chart(losses, "step", "nats a token")),
          ("Image tokenizer: quality while training",
           charts.line_chart([("PSNR, dB", *series(tokenizer, "psnr_db"))], "step", "dB"))]


WATCHED = {"attention_logit": "Largest attention logit", "log_z": "log Z", "output_norm": "Norm of the last layer's output"}


def stability(lines: dict[str, list[dict]]) -> list[tuple[str, str]]:
  """What the decoder's training watched; nothing where it did not (`decoder.watch_every`)."""
  decoder = lines.get("decoder", [])
  if not series(decoder, "update_ratio")[0]:
    return []
  charts_of = [("Gradient norm", charts.line_chart([("gradient", *series(decoder, "gradient_norm"))], "step", "norm")),
               ("Update over weights", charts.line_chart([("ratio", *series(decoder, "update_ratio"))], "step", "ratio"))]
  for what, title in WATCHED.items():
    names = list(dict.fromkeys(name for line in decoder for name in line if name.startswith(f"{what}/")))
    found = [(name.removeprefix(f"{what}/"), *series(decoder, name)) for name in names]
    charts_of.append((title, charts.line_chart(found, "step", what.replace("_", " "))))
  return charts_of


def codebook_curves(lines: dict[str, list[dict]]) -> list[tuple[str, str]]:
  """While the tokenizer learned; those revived are a mean a step."""
  tokenizer = lines.get("image_tokenizer", [])
  line = lambda name: (name.removeprefix("codebook_"), *series(tokenizer, name))
  chart = lambda names, label: charts.line_chart([line(name) for name in names], "step", label, from_zero=True)
  return [("While the tokenizer learned", chart(["codebook_perplexity"], "perplexity")),
          ("Dead codes, and those revived", chart(["codebook_dead", "revived"], "codes"))]


def films(folder: epath.Path, config: c.Config) -> str:
  """The pictures of report/samples by stage, a row a step."""
  found: dict[str, dict[int, epath.Path]] = {}
  for path in folder.iterdir() if folder.exists() else ():
    if match := SAMPLE.fullmatch(path.name):
      found.setdefault(match["stage"], {})[int(match["step"])] = path
  parts = []
  for stage in sorted(found, key=lambda s: (s != "decoder", s)):
    steps = sorted(found[stage])
    count = min(len(steps), STEPS)
    chosen = [steps[round(n * (len(steps) - 1) / max(count - 1, 1))] for n in range(count)]
    rows = "".join(f"<span>step {step}</span>" + page.image(found[stage][step].read_bytes(), f"{stage}, step {step}",
                                                             config.data.image_size < page.SHARP) for step in chosen)
    if asked := prompts_of(folder / f"{stage}_{steps[-1]:06d}.json"):
      rows += f'<span></span><div class="asked" style="grid-template-columns:repeat({len(asked)},1fr)">' + "".join(
          f"<small>{page.text(prompt)}</small>" for prompt in asked) + "</div>"
    parts.append(f'<div class="card" style="margin-bottom:12px"><h3>{page.text(STAGES.get(stage, stage))}</h3>'
                 f'<div class="film">{rows}</div></div>')
  about = "The same pictures and prompts at several steps."
  return page.block("Over the training", about, "".join(parts)) if parts else ""


def prompts_of(path: epath.Path) -> list[str]:
  """The "prompts" of the JSON beside a picture of samples, [] where it says none."""
  try:
    value = json.loads(path.read_text())
  except (FileNotFoundError, json.JSONDecodeError):
    return []
  found = value.get("prompts") if isinstance(value, dict) else None
  return [str(prompt) for prompt in found] if isinstance(found, list) else []


# ---- the terminal

def print_table(result: Result, console: Console, title: str = "measured on records never trained on") -> None:
  """The headline figures on a rich console."""
  table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
  for name in ("figure", "value", "95 % interval", "n", "by chance"):
    table.add_column(name, justify="left" if name == "figure" else "right", no_wrap=True)
  for f in result.figures:
    if parts := parts_of(f, result.metrics):
      table.add_row(f.label, *parts)
  console.print(table)


def settings_line(config: c.Config) -> str:
  """The sampler's settings, as they are printed beside the figures: the usual ones, and what else is not plain."""
  plain, usual = dataclasses.asdict(c.Sampling()), ("temperature", "top_k", "top_p", "guidance_scale")
  told = lambda value: value if isinstance(value, str) else f"{value:g}"
  settings = ", ".join(f"{name} {' to '.join(map(told, value)) if isinstance(value, tuple) else told(value)}"
                       for name, value in dataclasses.asdict(config.sampling).items() if name in usual or value != plain[name])
  return f"sampler: {settings}, seed {config.seed}, one sample a prompt; captions greedy"
