"""What the commands of `unitok` do. Each takes its options from unitok.cli and returns what it has to say.

What needs jax is imported when a command runs.
"""
import dataclasses
import json
import os
import platform
import re
import time
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from unitok import config as c
from unitok.data import pictures
from unitok.data.drawings import save, sheet
from unitok.data.record import BadRecord


TELL: ContextVar[Callable[[int, float], None] | None] = ContextVar("tell", default=None)
"""Where a command that draws tells how far it is: the number of the first of those drawn side by side, and their share."""


@dataclass
class Said:
  """What a command has to say: `data` for --json, `lines` for pipes, the table for people."""
  data: dict[str, Any]
  lines: list[str]
  columns: tuple[str, ...]
  rows: list[tuple[str, ...]]
  notes: list[str] = field(default_factory=list)
  code: int = 0


def generate(o) -> Said:
  prompts = [*o.texts, *(_lines_of(o.prompts) if o.prompts else ())]
  if not prompts:
    raise ValueError("generate: no prompts; give some (unitok generate --model DIR \"a red circle\") or --prompts FILE")
  model, data, start = _open(o)
  sampling = _sampling(o, model.config.sampling)
  if o.enlarge:
    model.check_trained("refine")
  if o.samples != 1:
    return _noted(_ranked(o, model, sampling, prompts, data, start), _beyond(o, model.config.data))
  images = _enlarged(o, model, model.generate(prompts, sampling, o.seed, o.batch_size, o.size), prompts, sampling)
  files = [save(Path(o.out) / f"{name}.png", image) for name, image in zip(_numbered(prompts), images)]
  data |= _drawn(o, sampling, start, [{"prompt": p, "file": f} for p, f in zip(prompts, files)])
  said = _noted(Said(data, files, ("prompt", "file"), list(zip(prompts, files))), _beyond(o, model.config.data))
  return _with_grid(said, o.out, lambda: sheet(images), len(files))


def _enlarged(o, model, images: np.ndarray, prompts: list[str], sampling: c.Sampling) -> np.ndarray:
  """With --enlarge, the pictures at twice their sides."""
  return model.enlarge(images, prompts, sampling, o.seed, o.batch_size) if o.enlarge else images


def _beyond(o, data: c.Data) -> list[str]:
  """What is to be said of a --size larger than all that the model learned from."""
  learned = sorted({(data.image_size, data.image_size), *map(tuple, data.sizes)})
  if o.size is None or all(side <= max(some) for side, some in zip(o.size, zip(*learned))):
    return []
  known = " or ".join(f"{height} x {width}" for height, width in learned)
  return [f"--size {o.size[0]} {o.size[1]}: larger than the {known} (height x width) that the model learned from"]


def _numbered(prompts: list[str]) -> list[str]:
  width = len(str(len(prompts) - 1))
  return [f"{n:0{width}d}{_slug(prompt)}" for n, prompt in enumerate(prompts)]


def _ranked(o, model, sampling: c.Sampling, prompts: list[str], data: dict, start: float) -> Said:
  """Several pictures of each prompt, the best first; a row of the grid each."""
  images, scores = model.generate_ranked(prompts, o.samples, None, sampling, o.seed, o.batch_size, o.size)
  every = [prompt for prompt in prompts for _ in range(o.samples)]
  large = _enlarged(o, model, images.reshape(-1, *images.shape[2:]), every, sampling)
  images = large.reshape(len(prompts), o.samples, *large.shape[1:])
  width = len(str(o.samples - 1))
  outputs = [{"prompt": prompt, "rank": n, "log_likelihood": round(float(score), 3),
              "file": save(Path(o.out) / f"{name}_{n:0{width}d}.png", image)}
             for name, prompt, some, its in zip(_numbered(prompts), prompts, images, scores)
             for n, (image, score) in enumerate(zip(some, its))]
  data |= _drawn(o, sampling, start, outputs)
  rows = [(one["prompt"], f"{one['log_likelihood']:.2f}", one["file"]) for one in outputs]
  said = Said(data, [one["file"] for one in outputs], ("prompt", "log p(prompt | picture)", "file"), rows)
  return _with_grid(said, o.out, lambda: sheet(images.reshape(-1, *images.shape[2:]), o.samples), len(outputs))


def caption(o) -> Said:
  images, _, notes = _pictures(o, "caption")
  model, data, start = _open(o)
  sampling = _sampling(o, c.GREEDY)
  captions = model.caption(images, sampling, o.seed, o.limit, o.batch_size)
  data |= _drawn(o, sampling, start, [{"file": f, "caption": t} for f, t in zip(o.pictures, captions)])
  return _noted(_a_text_each(data, o.pictures, captions, "caption"), notes)


def answer(o) -> Said:
  images, _, notes = _pictures(o, "answer")
  model, data, start = _open(o)
  sampling = _sampling(o, c.GREEDY)
  answers = model.answer(images, [o.question] * len(images), sampling, o.seed, o.limit, o.batch_size)
  data |= _drawn(o, sampling, start, [{"file": f, "answer": t} for f, t in zip(o.pictures, answers)])
  data["question"] = o.question
  return _noted(_a_text_each(data, o.pictures, answers, "answer"), notes)


def _a_text_each(data: dict, files: tuple[str, ...], texts: list[str], what: str) -> Said:
  return Said(data, [f"{f}\t{_line(t)}" for f, t in zip(files, texts)], ("file", what), list(zip(files, texts)))


def detect(o) -> Said:
  images, _, notes = _pictures(o, "detect")
  model, data, start = _open(o)
  sampling = _sampling(o, c.GREEDY)
  found = model.detect(images, sampling, o.seed, o.limit, o.name_limit, o.batch_size)
  objects = [[{"name": name, "box": [round(x, 4) for x in box]} for name, box in some] for some in found]
  data |= _drawn(o, sampling, start, [{"file": f, "objects": some} for f, some in zip(o.pictures, objects)])
  rows = [(f, _line(name), " ".join(f"{x:.3f}" for x in box))
          for f, some in zip(o.pictures, found) for name, box in some]
  return _noted(Said(data, ["\t".join(row) for row in rows], ("file", "name", "x0 y0 x1 y1"), rows), notes)


def infill(o) -> Said:
  images, config, notes = _pictures(o, "infill")
  masks = np.stack([_mask(o.mask, file, config.data) for file in o.pictures])
  model, data, start = _open(o)
  sampling = _sampling(o, model.config.sampling)
  filled = model.infill(images, masks, [o.prompt] * len(images), sampling, o.seed, o.keep_original, o.batch_size)
  files = [save(path, image) for path, image in zip(_names(o.out, o.pictures, "filled"), filled)]
  masked = np.where(masks[..., None], np.uint8(128), images)
  data |= _drawn(o, sampling, start, [{"picture": p, "file": f} for p, f in zip(o.pictures, files)])
  data["prompt"] = o.prompt
  rows = lambda: sheet(np.stack([images, masked, filled], 1).reshape(-1, *images.shape[1:]), 3)
  said = _noted(Said(data, files, ("picture", "file"), list(zip(o.pictures, files))), notes)
  return _with_grid(said, o.out, rows, len(files))


def extend(o) -> Said:
  sides = {name: getattr(o, name) for name in ("top", "right", "bottom", "left")}
  if not any(sides.values()):
    raise ValueError("extend: no side; give pixels to draw past one, e.g. --right 16")
  images, _, notes = _pictures(o, "extend", o.own_size)
  model, data, start = _open(o)
  sampling = _sampling(o, model.config.sampling)
  one = lambda some: model.extend(some, **sides, prompts=[o.prompt] * len(some), sampling=sampling, seed=o.seed,
                                  keep_original=o.keep_original, whole=o.whole, batch_size=o.batch_size)
  drawn = [one(image[None])[0] for image in images] if o.own_size else one(images)
  files = [save(path, image) for path, image in zip(_names(o.out, o.pictures, "extended"), drawn)]
  data |= _drawn(o, sampling, start, [{"picture": p, "file": f} for p, f in zip(o.pictures, files)])
  data |= {"prompt": o.prompt, **sides}
  said = _noted(Said(data, files, ("picture", "file"), list(zip(o.pictures, files))), notes)
  return said if o.own_size else _with_grid(said, o.out, lambda: sheet(drawn), len(files))


def enlarge(o) -> Said:
  from unitok.sampling import STRATEGIES
  images, _, notes = _pictures(o, "enlarge", o.own_size)
  if o.strategy in STRATEGIES and not STRATEGIES[o.strategy].grouped:
    raise ValueError(f"--strategy: {o.strategy} does not enlarge, must be groups or maskgit")
  model, data, start = _open(o)
  sampling = _sampling(o, model.config.sampling)
  one = lambda some: model.enlarge(some, [o.prompt] * len(some), sampling, o.seed, o.batch_size)
  drawn = [one(image[None])[0] for image in images] if o.own_size else one(images)
  files = [save(path, image) for path, image in zip(_names(o.out, o.pictures, "enlarged"), drawn)]
  data |= _drawn(o, sampling, start, [{"picture": p, "file": f} for p, f in zip(o.pictures, files)])
  data["prompt"] = o.prompt
  said = _noted(Said(data, files, ("picture", "file"), list(zip(o.pictures, files))), notes)
  return said if o.own_size else _with_grid(said, o.out, lambda: sheet(drawn), len(files))


def vary(o) -> Said:
  if o.samples < 1:
    raise ValueError(f"--samples {o.samples}: of each picture, must be 1 or more")
  images, _, notes = _pictures(o, "vary")
  model, data, start = _open(o)
  sampling = _sampling(o, model.config.sampling)
  every = images.repeat(o.samples, 0)
  drawn = model.vary(every, o.share, [o.prompt] * len(every), sampling, o.seed, o.anew, o.batch_size)
  width = len(str(o.samples - 1))
  names = [path.with_stem(f"{path.stem}_{n:0{width}d}") if o.samples > 1 else path
           for path in _names(o.out, o.pictures, "varied") for n in range(o.samples)]
  files = [save(path, image) for path, image in zip(names, drawn)]
  sources = [file for file in o.pictures for _ in range(o.samples)]
  data |= _drawn(o, sampling, start, [{"picture": p, "file": f} for p, f in zip(sources, files)])
  data |= {"prompt": o.prompt, "share": o.share, "anew": o.anew}
  rows = lambda: sheet(np.concatenate([images[:, None], drawn.reshape(-1, o.samples, *drawn.shape[1:])], 1).reshape(
      -1, *drawn.shape[1:]), 1 + o.samples)
  said = _noted(Said(data, files, ("picture", "file"), list(zip(sources, files))), notes)
  return _with_grid(said, o.out, rows, len(files))


def complete(o) -> Said:
  if not o.texts:
    raise ValueError("complete: no text; give some (unitok complete --model DIR \"a red\")")
  model, data, start = _open(o)
  sampling = _sampling(o, c.GREEDY)
  texts = model.complete(list(o.texts), sampling, o.seed, o.limit, o.batch_size)
  data |= _drawn(o, sampling, start, [{"text": t, "completed": out} for t, out in zip(o.texts, texts)])
  return Said(data, [_line(t) for t in texts], ("text", "completed"), list(zip(o.texts, texts)))


def reconstruct(o) -> Said:
  from unitok.evaluation.reconstruction import psnr_db
  from unitok.run import load_image_tokenizer
  start, (originals, _, notes) = time.perf_counter(), _pictures(o, "reconstruct", bool(o.tile))
  keep_programs()
  image = load_image_tokenizer(o.model)
  if o.tile:
    back = [image.decode(image.encode(one[None], o.tile), o.tile)[0] for one in originals]
  else:
    back = image.decode(image.encode(originals))
  files = [save(path, one) for path, one in zip(_names(o.out, o.pictures, "reconstructed"), back)]
  decibels = [round(float(psnr_db(one[None], other[None])[0]), 2) for one, other in zip(originals, back)]
  outputs = [{"picture": p, "file": f, "psnr_db": d} for p, f, d in zip(o.pictures, files, decibels)]
  said = Said({"command": "reconstruct", "model": o.model, "seconds": _seconds(start), "outputs": outputs}, files,
              ("picture", "file", "PSNR"), [(p, f, f"{d} dB") for p, f, d in zip(o.pictures, files, decibels)])
  said = _noted(said, notes)
  rows = lambda: sheet(np.stack([originals, back], 1).reshape(-1, *back.shape[1:]), 2)
  return said if o.tile else _with_grid(said, o.out, rows, len(files))


def bring(o) -> Said:
  from unitok.interop import vqgan
  start, options = time.perf_counter(), vqgan.write(o.path, o.family, o.out)
  told = {"widths": list(options.widths), "blocks": list(options.blocks), "pixels_per_code": options.downsampling,
          "codebook_size": options.quantizer.codebook_size, "code_dim": options.quantizer.code_dim}
  rows = [(name, str(value)) for name, value in told.items()]
  return Said({"command": "import", "what": o.what, "family": o.family, "path": o.path, "out": o.out, **told,
               "seconds": _seconds(start)}, [f"{o.out}: {o.what} of {o.path}"], ("", ""), rows)


def info(o) -> Said:
  data = describe(o.folder)
  text = lambda v: "not there yet" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v)
  rows = [(name, _line(text(value))) for name, value in _flat(data)]
  return Said(data, [f"{name}\t{value}" for name, value in rows], ("", ""), rows)


def plan(o) -> Said:
  from unitok import plan as costs
  config = c.load(o.config)
  if o.tokens and not o.chip:
    raise ValueError("--tokens: how long they take is told for a --chip; name one")
  on_mesh = costs.mesh_plan(config, o.stage, o.mesh, o.chip, o.tokens) if o.mesh or o.chip else {}
  data = {"image_tokenizer": costs.tokenizer_plan(config) or None, "decoder": costs.decoder_plan(config),
          **({"on_mesh": {"stage": o.stage, "chip": o.chip or None, **on_mesh}} if on_mesh else {})}
  rows = [(name, "nothing to train" if value is None and "." not in name else _amount(name, value))
          for name, value in _flat(data)]
  return Said({"command": "plan", "config": o.config, "name": config.name, **data},
              [f"{name}\t{value}" for name, value in rows], ("", ""), rows)


def _amount(name: str, value) -> str:
  """1,234,567 parameters; "1.23 GFLOP", "45.1 MB", "1.2 s", "12 %" of what the name says."""
  words = name.split(".")
  unit = next((unit for word in words[-2:] for kind, unit in UNITS.items() if word.split("_")[0] == kind), "")
  if isinstance(value, bool) or value is None or isinstance(value, str):
    return {True: "yes", False: "no", None: "any"}.get(value, value)
  if unit in ("FLOP", "B"):
    power = min((len(str(int(value))) - 1) // 3, 8)
    return f"{value / 1000**power:.3g} {' kMGTPEZY'[power].strip()}{unit}"
  if unit == "%":
    return f"{value:.1%}"
  return (f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}") + unit


UNITS = {"flops": "FLOP", "bytes": "B", "seconds": " s", "share": "%"}
"""By the first word of a figure's name, or of the group's that it is in."""


def describe(folder: str) -> dict[str, Any]:
  """What a run's folder holds; None for a stage that has not begun. ValueError where it is no run's folder."""
  from unitok.checkpoint import read_config
  from unitok.data.shards import read_manifest
  from unitok.data.sources import SPLITS
  from unitok.modalities import text
  from unitok.run import count, kind_of, progress, read_vocabulary, with_steps
  from unitok.steps import Language
  config, folder = with_steps(read_config(folder), folder), epath.Path(folder)

  def decoder():
    vocabulary = read_vocabulary(folder)
    model = Language(config.decoder, vocabulary.size, (), further=vocabulary.further, image=vocabulary.image)
    return {"parameters": count(model.init), "tasks": config.decoder.tasks,
            "vocabulary": {block.name: block.size for block in vocabulary.blocks}}

  places = (config.data.image_size // config.image_tokenizer.downsampling)**2
  tokenizer = kind_of(config).describe(config, folder / "image_tokenizer")
  trained = progress(folder / "decoder", config.decoder.train)
  manifest = text.read_manifest(folder / "text_tokenizer")
  codes = {split: read_manifest(folder / "codes" / split) for split in SPLITS}
  return {
      "name": config.name, "source": c.source_name(config.data), "image_size": config.data.image_size,
      "text_tokenizer": manifest and {"pieces": manifest["size"]},
      "image_tokenizer": tokenizer and {**tokenizer, "codes_a_picture": places * tokenizer.get("books", 1)},
      "codes": {split: found["records"] for split, found in codes.items() if found["finished"]} or None,
      "decoder": trained and {**trained, **decoder()}, "sampling": dataclasses.asdict(config.sampling),
      "metrics": _metrics(folder / "metrics.json")}


def _metrics(file: epath.Path) -> dict[str, Any] | None:
  try:
    return dict(json.loads(file.read_text())) if file.exists() else None
  except (ValueError, TypeError):
    raise ValueError(f"{file}: damaged; run python -m train.evaluate again") from None


def explain(o) -> Said:
  from unitok import explain as x
  x.check(o.objective, o.template)
  if o.template and o.model or o.form and not o.template:
    raise ValueError("explain: --model goes with --objective, --form with --template; leave it out")
  if o.record and not o.model:
    raise ValueError(f"explain: --record {o.record} goes with --objective and --model, a run's folder; give both, or "
                     "leave it out")
  if o.template:
    from unitok import templates
    document = templates.example(o.template, o.form, o.seed)
    name = templates.template(o.template).vocabulary.name
  elif o.model:
    from unitok.checkpoint import read_config
    from unitok.data.shards import CodeShards
    from unitok.modalities.text import TextModality
    from unitok.run import read_vocabulary
    options = dataclasses.replace(read_config(o.model).decoder.objectives, caption_drop=0.0)
    folder, vocabulary = epath.Path(o.model), read_vocabulary(o.model)
    shards = CodeShards(folder / "codes" / "val")
    if not 0 <= o.record < len(shards):
      raise ValueError(f"--record {o.record}: must be in 0 .. {len(shards) - 1}, the records of {shards.folder}")
    text = TextModality.load(folder / "text_tokenizer")
    document = x.document(o.objective, shards[o.record], vocabulary, o.seed, options)
    name = x.named(vocabulary, text.piece)
  else:
    codes, vocabulary, name = x.example()
    document = x.document(o.objective, codes, vocabulary, o.seed)
  rows = x.rows(document, name)
  lines = x.table(rows)
  of = {"template": o.template} if o.template else {"objective": o.objective}
  data = {"command": "explain", **of, "tokens": [dict(zip(x.COLUMNS, row)) for row in rows]}
  said = Said(data, lines, x.COLUMNS, rows)
  if o.png:
    data["png"] = save(o.png, x.picture(document))
    said.lines.append(data["png"])
    said.notes.append(f"the mask: {data['png']}")
  return said


def _flat(value: dict, prefix: str = "") -> list[tuple[str, Any]]:
  """{"a": {"b": 1}} -> [("a.b", 1)]."""
  return [leaf for name, one in value.items()
          for leaf in (_flat(one, f"{prefix}{name}.") if isinstance(one, dict) else [(prefix + name, one)])]


def validate(o) -> Said:
  from unitok.data.sources import all_splits, open_source, problems
  if bool(o.sources) == bool(o.config):
    raise ValueError("validate: give folders of pictures, or --config FILE, one of the two")
  configs = [(s, c.Config(data=c.ImageFolder(path=s))) for s in o.sources] or [(o.config, c.load(o.config))]
  outputs, lines, rows = [], [], []
  for name, config in configs:
    data = c.override(config, list(o.fields)).data
    bad = problems(data)
    counts = {}
    for split in all_splits(data):
      try:
        counts[split] = len(open_source(dataclasses.replace(data, on_bad="skip"), split))
      except BadRecord:      # told as a problem
        counts[split] = 0
    outputs.append({"source": name, "records": counts,
                    "bad": [{"where": b.where, "problem": b.problem, "remedy": b.remedy} for b in bad]})
    lines += [f"{name}: {b}" for b in bad] + [f"{name}: {_count(sum(counts.values()), 'record')}, {len(bad)} bad"]
    rows += [(name, b.where, b.problem, b.remedy) for b in bad]
  total, records = sum(len(x["bad"]) for x in outputs), sum(sum(x["records"].values()) for x in outputs)
  note = f"{_count(records, 'record')}, {total} bad"
  return Said({"command": "validate", "outputs": outputs}, lines, ("source", "where", "problem", "remedy"), rows,
              [note], code=1 if total else 0)


# ---- what commands share

def _open(o):
  """(Model, the beginning of the JSON, the time)."""
  start = time.perf_counter()
  from unitok.sampling import rules
  rules.check(_sampling(o, c.Sampling()))      # before seconds of loading
  keep_programs()
  from unitok.model import Model
  model = Model.open(o.model, **{name: getattr(o, name, False) for name in ("int8", "int8_cache")})
  if tell := TELL.get():
    model = model.watching(lambda so_far: tell(so_far.first, so_far.share))
  return model, {"command": type(o).__name__.lower(), "model": o.model, "step": model.step}, start


def keep_programs() -> None:
  """What is compiled is there for the next command: in the user's cache, in a folder for processors like this one, unless
  that cannot be made. Where JAX_COMPILATION_CACHE_DIR is set, jax keeps them there, by its own settings; empty: nowhere."""
  import jax
  chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if chosen is not None:
    if not chosen:
      jax.config.update("jax_compilation_cache_dir", None)
    return
  try:
    about = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features")))
  except (OSError, StopIteration):
    about = platform.processor()
  try:      # there may be no home, or one that may not be written
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unitok"
    folder /= f"programs-{zlib.crc32(about.encode()):08x}"
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
      return
  except (OSError, RuntimeError):
    return
  for name, value in (("compilation_cache_dir", str(folder)),
                      ("persistent_cache_min_compile_time_secs", 0.1), ("persistent_cache_min_entry_size_bytes", -1)):
    jax.config.update(f"jax_{name}", value)


def _sampling(o, default: c.Sampling) -> c.Sampling:
  """The default with what the command line says."""
  names = [f.name for f in dataclasses.fields(c.Sampling)]
  return dataclasses.replace(default, **{n: getattr(o, n) for n in names if getattr(o, n, None) is not None})


def _drawn(o, sampling: c.Sampling, start: float, outputs: list[dict]) -> dict:
  return {"sampling": dataclasses.asdict(sampling), "seed": o.seed, "seconds": _seconds(start), "outputs": outputs}


def _seconds(start: float) -> float:
  return round(time.perf_counter() - start, 3)


def _with_grid(said: Said, out: str, picture, count: int) -> Said:
  """Several pictures also as one."""
  if count > 1:
    said.data["grid"] = save(Path(out) / "grid.png", picture())
    said.lines.append(said.data["grid"])
    said.notes.append(f"all together: {said.data['grid']}")
  return said


def _pictures(o, command: str, own_size: bool = False) -> tuple[np.ndarray | list[np.ndarray], c.Config, list[str]]:
  """(u8[n s s 3] of the picture files as the run's config resizes them, or a list of u8[h w 3] of their own size; that
  config; what is to be said of those whose size was another)."""
  from unitok.checkpoint import read_config
  if not o.pictures:
    raise ValueError(f"{command}: no pictures; give picture files (unitok {command} --model DIR cat.png)")
  config = read_config(o.model)
  data, side, out, changed = config.data, config.image_tokenizer.downsampling, [], []
  for file in o.pictures:
    image = _readable(lambda: pictures.load(file, file, data.background))
    out.append(_whole_codes(image, side, file) if own_size else
               pictures.resize(image, data.image_size, data.resize, data.background))
    if out[-1].shape != image.shape:
      changed.append(f"{file} ({image.shape[1]} x {image.shape[0]})")
  taken = f"cut to whole codes of {side} x {side} pixels" if own_size else \
      f"taken as {data.image_size} x {data.image_size} pixels (data.resize: {data.resize})"
  more = [f"{len(changed) - 3} more"] if len(changed) > 3 else []
  notes = [f"{', '.join([*changed[:3], *more])}: {taken}"] if changed else []
  return (out if own_size else np.stack(out)), config, notes


def _noted(said: Said, notes: list[str]) -> Said:
  """With notes, for people and machines."""
  if notes:
    said.notes += notes
    said.data["notes"] = notes
  return said


def _whole_codes(image: np.ndarray, side: int, file: str) -> np.ndarray:
  """The middle of u8[h w 3] whose sides are multiples of `side`, the pixels a code."""
  height, width = image.shape[:2]
  if min(height, width) < side:
    raise ValueError(f"{file}: {width} x {height} pixels are less than the {side} x {side} of a code; give a larger "
                     "picture")
  top, left = height % side // 2, width % side // 2
  return image[top:top + height // side * side, left:left + width // side * side]


def _readable(read: Callable[[], np.ndarray]) -> np.ndarray:
  """read(); the remedy of a bad file is the command line's, not a data source's."""
  try:
    return read()
  except BadRecord as error:
    raise BadRecord(error.where, error.problem, "give a picture file that can be read") from None


def _mask(said: str, file: str, data: c.Data):
  """bool[s s]: --mask in the model's pixels of a picture file."""
  height, width = pictures.load(file).shape[:2]
  mask = np.zeros((height, width, 3), np.uint8)
  if re.fullmatch(r"\s*-?\d+(\s*,\s*-?\d+){3}\s*", said):
    x, y, w, h = (int(part) for part in said.split(","))
    if min(x, y) < 0 or min(w, h) < 1 or x + w > width or y + h > height:
      raise ValueError(f"--mask {said}: x,y,w,h must be a box inside the {width} x {height} pixels of {file}")
    mask[y:y + h, x:x + w] = 255
  elif not Path(said).exists():
    raise ValueError(f"--mask {said}: no such file; give a picture file, or a box x,y,w,h in whole pixels, e.g. "
                     "4,4,12,12")
  else:
    mask = _readable(lambda: pictures.load(said, f"--mask {said}", (0, 0, 0)))
    if mask.shape[:2] != (height, width):
      raise ValueError(f"--mask {said}: {mask.shape[1]} x {mask.shape[0]} pixels, {file} has {width} x {height}; "
                       "make it the same size, white where the picture is drawn anew")
  grey = pictures.resize(np.where(mask.max(-1, keepdims=True) >= 128, np.uint8(255), np.uint8(0)).repeat(3, -1),
                         data.image_size, data.resize, (0, 0, 0))
  return grey[..., 0] >= 32      # an eighth of a pixel covered; the resampling's ringing stays below


def _names(out: str, files: tuple[str, ...], what: str) -> list[Path]:
  """A file for each picture, numbered where stems are the same."""
  stems = [Path(file).stem for file in files]
  return [Path(out) / (f"{stem}_{what}.png" if stems.count(stem) == 1 else f"{stem}_{n}_{what}.png")
          for n, stem in enumerate(stems)]


def _slug(text: str) -> str:
  """"A red circle!" -> "_a_red_circle"."""
  words = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
  return f"_{words[:40].rstrip('_')}" if words else ""


def _lines_of(file: str) -> list[str]:
  """The lines of a text file that are not blank."""
  try:
    lines = [line.strip() for line in Path(file).read_text(encoding="utf-8-sig").splitlines()]
  except UnicodeDecodeError:
    raise ValueError(f"--prompts {file}: is not UTF-8 text; save it as UTF-8, a prompt on each line") from None
  except FileNotFoundError:
    raise ValueError(f"--prompts {file}: no such file; give a text file with a prompt on each line") from None
  found = [line for line in lines if line]
  if not found:
    raise ValueError(f"--prompts {file}: has no prompts; write one on each line")
  return found


def _line(text: str) -> str:
  """Without line breaks (all that str.splitlines knows) and tabs."""
  return " ".join(text.split()) if set(text) & set("\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029") else text


def _count(n: int, what: str) -> str:
  return f"{n} {what}" if n == 1 else f"{n} {what}s"


