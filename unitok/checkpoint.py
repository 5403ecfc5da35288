"""Checkpoints: all that a run is, saved in the background and whole or not at all.

A step's folder holds the parts params, opt_state and extra, each by itself, so that weights restore without the
optimizer; `data`, the batches' position; and `meta`, plain JSON. Random keys are not stored: they follow from seed
and step.
"""
import asyncio
import json
import logging
import os
from typing import Any, NamedTuple

import jax
from etils import epath
from orbax.checkpoint import v1

from unitok.config import Config, from_json

PARTS = ("params", "opt_state", "extra")


class Restored(NamedTuple):
  state: Any
  step: int
  meta: dict


class _Json:
  """JSON as a checkpointable of Orbax (its own handler takes a dict of numbers for arrays)."""

  def __init__(self, value=None):
    self.value = value

  async def save(self, directory):
    text = json.dumps(self.value)   # now: the position may move on while the rest is written

    async def write():
      folder = await directory.await_creation()
      await asyncio.to_thread((folder / _json_name()).write_text, text)
    return write()

  async def load(self, directory):
    async def read():
      file = directory / _json_name()
      if not await asyncio.to_thread(file.exists):
        raise ValueError(f"checkpoint {directory}: was saved by another number of processes than the "
                         f"{jax.process_count()} of this run; use as many")
      self.value = json.loads(await asyncio.to_thread(file.read_text))
    return read()


def _json_name() -> str:
  return f"process_{jax.process_index()}_of_{jax.process_count()}.json"


class Checkpoints:
  """The checkpoints of one stage in `folder`, the newest `keep_last` of them."""

  def __init__(self, folder, keep_last: int = 2):
    if keep_last < 1:
      raise ValueError(f"train.keep_last: {keep_last} must be 1 or more")
    self.folder = _absolute(folder)
    keep = v1.training.preservation_policies.LatestN(keep_last)
    self._orbax = v1.training.Checkpointer(self.folder, preservation_policy=keep, cleanup_tmp_directories=True)
    # A thread removes unfinished steps, and Orbax joins it at the first save alone (0.12, its close() does not): where
    # a program ended before one, that thread printed a traceback at the interpreter's exit.
    self._orbax._manager._maybe_await_cleanup_tmp_directory()
    logging.getLogger("absl").addFilter(_is_not_raised)

  def latest(self) -> int | None:
    """Step of the newest whole checkpoint."""
    newest = self._orbax.latest
    return newest.step if newest else None

  def save(self, step: int, state, batches=None, meta: dict | None = None):
    """Copies the state from the devices, then writes while the run goes on. `batches` has get_state(), or is None.

    A step that is there already is left as it is. ValueError where an earlier write failed (a full disk).
    """
    if self.latest() == step:
      return
    parts = {name: part for name in PARTS if jax.tree.leaves(part := getattr(state, name))}   # Orbax refuses empty ones
    data = batches.get_state() if batches is not None else None
    with _told(self):
      parts |= {"data": _Json(data), "meta": _Json(meta or {})}
      self._orbax.save_checkpointables_async(step, parts, force=True)

  def restore_latest(self, state, batches=None) -> Restored | None:
    """The newest checkpoint in the form and places of `state` (arrays, or shapes with shardings); None without one.

    `batches` is set to its position. ValueError where a part has another shape.
    """
    step = self.latest()
    if step is None:
      return None
    data, meta = _Json(), _Json()
    abstract = {name: _abstract(getattr(state, name)) for name in PARTS}
    found = _load(self._orbax, step, {**abstract, "data": data, "meta": meta}, self.folder)
    if batches is not None:
      batches.set_state(data.value)
    place = _abstract(state.step)
    counter = jax.device_put(jax.numpy.asarray(step, place.dtype), place.sharding)
    return Restored(state._replace(step=counter, **{name: found[name] for name in PARTS}), step, meta.value)

  def wait(self):
    """Returns when all that was saved is on disk."""
    with _told(self):
      self._orbax.wait()

  def close(self):
    with _told(self):
      self._orbax.close()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.close()


def load_part(folder, part: str, abstract) -> tuple[Any, int, dict]:
  """(one part of the newest checkpoint of a stage's folder, its step, meta), e.g. "extra" without the optimizer. Of a part
  that is a dict it gives what `abstract` has; what else is there (a judge) is none of the caller's business.

  ValueError where there is no checkpoint, or its shapes are not those of `abstract`.
  """
  found, step = _newest(folder, {part: _abstract(abstract), "meta": _Json()})
  return found[part], step, found["meta"].value


def load_meta(folder) -> tuple[dict, int]:
  """(meta, step) of the newest checkpoint of a stage's folder. ValueError where there is none."""
  found, step = _newest(folder, {"meta": _Json()})
  return found["meta"].value, step


def _newest(folder, wanted: dict) -> tuple[dict, int]:
  folder = _absolute(folder)
  if not folder.exists():
    raise ValueError(f"{folder}: no such folder; train this stage first")
  with v1.training.Checkpointer(folder) as orbax:
    if orbax.latest is None:
      raise ValueError(f"{folder}: holds no checkpoint; train this stage first")
    step = orbax.latest.step
    return _load(orbax, step, wanted, folder, alone=True), step


def read_config(workdir) -> Config:
  """The Config of a run's folder. ValueError where it is not one."""
  file = epath.Path(workdir) / "config.json"
  try:
    return from_json(json.loads(file.read_text()))
  except FileNotFoundError:
    raise ValueError(f"{workdir}: is no run's folder (no config.json); give the --workdir of a training") from None
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{file}: is not a run's config ({error}); restore it or train anew") from None


def _absolute(folder) -> epath.Path:
  """Orbax asks for absolute paths; a bucket's is one already."""
  return epath.Path(folder if "://" in str(folder) else os.path.abspath(folder))


def _abstract(tree):
  """Shapes and places; where a leaf has no place yet, the first device."""
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  place = lambda x: getattr(x, "sharding", None) or here
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), tree)


def _load(orbax, step: int, wanted: dict, folder, alone: bool = False) -> dict:
  """`alone`: of parts that are dicts, what is wanted may be less than what is stored."""
  asked = dict(wanted)
  for part in (name for name in PARTS if name in wanted):
    stored = v1.metadata(folder / str(step), checkpointable_name=part).metadata
    if alone and isinstance(wanted[part], dict):
      rest = {name: tree for name, tree in stored.items() if name not in wanted[part]}
      rest = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), rest, is_leaf=lambda x: hasattr(x, "shape"))
      asked[part] = _abstract(rest) | wanted[part]
    _same_shapes(stored, asked[part], f"checkpoint {folder}/{step}", part)
  found = orbax.load_checkpointables(step, asked)
  # what has a load of its own is filled in place
  return {name: value if isinstance(value, _Json) else found[name] for name, value in wanted.items()}


def _same_shapes(stored, wanted, where: str, part: str):
  """ValueError naming the first array that is missing, left over or of another shape."""
  old, new = _shapes(stored), _shapes(wanted)
  for name in sorted(old.keys() | new.keys()):
    if old.get(name) != new.get(name):
      raise ValueError(f"{where}: {part}/{name} is {old.get(name, 'absent')} there, {new.get(name, 'absent')} by this "
                       "run's config; use the config that made it, or another workdir")


def _shapes(tree) -> dict[str, str]:
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
  return {"/".join(_key(k) for k in path): f"{x.dtype}{list(x.shape)}" for path, x in leaves if hasattr(x, "shape")}


def _key(key) -> str:
  """Orbax keeps the names of a path's keys, not their kinds."""
  return str(next(getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a)))


def _is_not_raised(record: logging.LogRecord) -> bool:
  """False of what Orbax's threads log with a traceback, several times over: `wait` and the next `save` raise it."""
  return not (record.exc_info and "orbax" in record.pathname)


class _told:
  """Turns a failed write into one line."""

  def __init__(self, checkpoints: Checkpoints):
    self.checkpoints = checkpoints

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if error is None or not isinstance(error, Exception):
      return
    full = any(s in str(error) for s in ("No space left", "Disk quota", "RESOURCE_EXHAUSTED"))
    if full or isinstance(error, OSError):
      what = "the disk is full" if full else str(error).splitlines()[0]
      last = self.checkpoints.latest()   # asked now: one under way counts until it has failed
      kept = f"step {last} is whole" if last is not None else "none was written yet"
      raise ValueError(f"checkpoint {self.checkpoints.folder}: could not be written, {what}; {kept}; "
                       f"{'make room' if full else 'check the folder and its rights'} and run again") from error
