"""Means as (sum, count) pairs, merged exactly; codebook usage; where metrics are written."""
import functools
import importlib
import json
import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from unitok.config import Config, to_json
from unitok.files import in_bucket, named, write


class Mean(NamedTuple):
  """A mean that can be merged across batches, hosts and tasks."""
  total: jax.Array
  count: jax.Array

  @classmethod
  def of(cls, values, weights=None):
    weights = jnp.ones_like(values) if weights is None else weights
    return cls((values * weights).sum(), weights.sum())

  def __add__(self, other):
    return Mean(self.total + other.total, self.count + other.count)

  def value(self) -> float:
    """NaN where nothing was counted."""
    return float(self.total) / float(self.count) if float(self.count) else float("nan")


def usage(counts) -> dict:
  """Share of codes with a count above 0, the number of the others, and exp of the entropy of the codes' frequencies, for
  counts f[k]; of f[G k], of several books, the share and the entropy's are means over the books, the dead a sum."""
  p = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1e-9)
  entropy = -(p * jnp.log(jnp.maximum(p, 1e-12))).sum(-1)
  return {"usage": (counts > 0).mean(), "dead": (counts <= 0).sum(), "perplexity": jnp.exp(entropy).mean()}


def uses(codes: np.ndarray, size: int, books: int = 1) -> np.ndarray:
  """i64[size]: how often each code occurs in codes i32[…], or i64[G size] in those of G > 1 books, i32[… G]."""
  count = lambda some: np.bincount(some.ravel(), minlength=size)
  return count(codes) if books == 1 else np.stack([count(codes[..., book]) for book in range(books)])


# ---- writers

class Writer(Protocol):
  def resume(self, step: int) -> None: ...   # what was written beyond `step` will be written again

  def write(self, step: int, values: dict[str, float]) -> None: ...

  def show(self, step: int, name: str, pixels: np.ndarray) -> None: ...   # u8[h w 3], a PNG of the run's report

  def close(self) -> None: ...


class JsonlWriter:
  """A line of JSON a call: {"stage": …, "step": …, name: value …}; what is not finite is null.

  The stages of a run share the file. A half-written last line, left by a kill, goes at `resume`.
  """

  def __init__(self, path, stage: str):
    self.path, self.stage = epath.Path(path), stage

  def resume(self, step: int):
    """Drops this stage's lines beyond `step`."""
    if not self.path.exists():
      return
    old = self.path.read_text()
    kept = "".join(line + "\n" for line in old.splitlines() if self._stays(line, step))
    if kept != old:
      write(self.path, kept.encode())

  def _stays(self, line: str, step: int) -> bool:
    try:
      value = json.loads(line)
    except json.JSONDecodeError:
      return False
    return value.get("stage") != self.stage or value.get("step", 0) <= step

  def write(self, step: int, values: dict[str, float]):
    clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
    line = json.dumps({"stage": self.stage, "step": step, **clean}) + "\n"
    if in_bucket(self.path):   # an object has no end to write at
      write(self.path, ((self.path.read_text() if self.path.exists() else "") + line).encode())
      return
    with named(self.path), self.path.open("a") as file:
      file.write(line)

  def show(self, step: int, name: str, pixels: np.ndarray):
    pass

  def close(self):
    pass


class TensorBoardWriter:
  """Events under folder/STAGE."""

  def __init__(self, folder, stage: str):
    self.folder, self.stage = epath.Path(folder) / stage, stage
    library = _optional("tensorboardX", "tensorboard")
    self.open = functools.partial(library.SummaryWriter, str(self.folder), flush_secs=10)
    self.summary = self.open()

  def resume(self, step: int):
    self.summary.close()
    self.summary = self.open(purge_step=step + 1)   # TensorBoard hides what earlier files have from there on

  def write(self, step: int, values: dict[str, float]):
    for name, value in values.items():
      self.summary.add_scalar(name, value, step)

  def show(self, step: int, name: str, pixels: np.ndarray):
    self.summary.add_image(name, pixels, step, dataformats="HWC")

  def close(self):
    self.summary.close()


class WandbWriter:
  """A Weights & Biases run for each start of a stage; those of one config's name are a group."""

  def __init__(self, config: Config, workdir, stage: str):
    name = f"{config.name}-{stage}"
    folder = None if in_bucket(workdir) else str(workdir)
    library = _optional("wandb", "wandb")
    self.picture = library.Image
    self.run = library.init(project="unitok", name=name, dir=folder, group=config.name, config=to_json(config),
                            reinit="create_new")

  def resume(self, step: int):
    pass   # a run of its own: what the killed one logged stays there

  def write(self, step: int, values: dict[str, float]):
    self.run.log(values, step=step)

  def show(self, step: int, name: str, pixels: np.ndarray):
    self.run.log({name: self.picture(pixels)}, step=step)

  def close(self):
    self.run.finish()


class Writers:
  """Several writers as one."""

  def __init__(self, writers: list[Writer]):
    self.writers = writers

  def resume(self, step: int):
    for writer in self.writers:
      writer.resume(step)

  def write(self, step: int, values: dict[str, float]):
    for writer in self.writers:
      writer.write(step, values)

  def show(self, step: int, name: str, pixels: np.ndarray):
    for writer in self.writers:
      writer.show(step, name, pixels)

  def close(self):
    for writer in self.writers:
      writer.close()


def open_writers(config: Config, workdir, stage: str) -> Writers:
  """metrics.jsonl always; TensorBoard and Weights & Biases where the config asks; of several processes the first alone
  writes. ValueError where not installed."""
  if jax.process_index():
    return Writers([])
  workdir = epath.Path(workdir)
  writers: list[Writer] = [JsonlWriter(workdir / "metrics.jsonl", stage)]
  if config.tensorboard:
    writers.append(TensorBoardWriter(workdir / "tensorboard", stage))
  if config.wandb:
    writers.append(WandbWriter(config, workdir, stage))
  return Writers(writers)


def _optional(module: str, extra: str):
  try:
    return importlib.import_module(module)
  except ImportError:
    raise ValueError(f"{extra}: {module} is not installed; pip install 'unitok[{extra}]' (in a checkout: make setup "
                     f"EXTRAS={extra}), or leave out --{extra}") from None
