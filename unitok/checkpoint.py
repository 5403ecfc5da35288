"""Checkpoints: all that a run is, saved in the background and whole or not at all.

A step's folder holds the parts params, opt_state and extra, each by itself, so that weights restore without the
optimizer; `data`, the batches' position; and `meta`, plain JSON. Random keys are not stored: they follow from seed
and step.
"""
import asyncio
import functools
import json
import logging
import operator
import os
from typing import Any, NamedTuple

import jax
from etils import epath
from orbax.checkpoint import v1

from unitok.config import Config, from_json
from unitok.files import in_bucket

PARTS = ("params", "opt_state", "extra")


class Restored(NamedTuple):
  state: Any
  step: int
  meta: dict


class _Json:
  """JSON as a checkpointable of Orbax (its own handler takes a dict of numbers for arrays).

  Every process writes its own; what all wrote, dicts together, is read by each, however many they are now.
  """

  def __init__(self, value=None):
    self.value, self.whole = value, True

  async def save(self, directory):
    text = json.dumps(self.value)   # now: the position may move on while the rest is written

    async def write():
      folder = await directory.await_creation()
      await asyncio.to_thread((folder / _json_name()).write_text, text)
    return write()

  async def load(self, directory):
    async def read():
      files = await asyncio.to_thread(lambda: sorted(directory.glob("process_*_of_*.json")))
      self.whole = {file.stem.split("_of_")[-1] for file in files} == {str(len(files))}
      if not self.whole:
        return   # Orbax hides an error raised here behind one of its own
      parts = [json.loads(await asyncio.to_thread(file.read_text)) for file in files]
      self.value = functools.reduce(operator.or_, parts) if isinstance(parts[0], dict) else parts[0]
    return read()


def _json_name() -> str:
  return f"process_{jax.process_index()}_of_{jax.process_count()}.json"


class Checkpoints:
  """The checkpoints of one stage in `folder`: the newest `keep_last`, and one every `keep_every` steps (0: none)."""

  def __init__(self, folder, keep_last: int = 2, keep_every: int = 0):
    if keep_last < 1 or keep_every < 0:
      raise ValueError(f"train.keep_last: {keep_last} must be 1 or more, train.keep_every: {keep_every} 0 or more")
    self.folder, self.size, policies = _absolute(folder), 0, v1.training.preservation_policies
    keep = policies.LatestN(keep_last)
    if keep_every:
      keep = policies.AnyPreservationPolicy([keep, policies.EveryNSteps(keep_every)])
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
    self.size = sum(leaf.nbytes for leaf in jax.tree.leaves(parts))
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
    load = functools.partial(self._orbax.load_checkpointables, step)
    found = _load(load, step, {**abstract, "data": data, "meta": meta}, self.folder)
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
  steps = [found.step for found in v1.path.step.standard_name_format().find_all(folder)]
  if not steps:
    raise ValueError(f"{folder}: holds no checkpoint; train this stage first")
  context = v1.Context()
  if jax.process_count() > 1:   # this one waits for no other
    here, several = jax.process_index(), context.multiprocessing
    several.primary_host, several.active_processes, several.barrier_sync_key_prefix = here, {here}, f"process_{here}"
  with context:
    load = functools.partial(v1.load_checkpointables, folder / str(max(steps)))
    return _load(load, max(steps), wanted, folder, alone=True), max(steps)


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
  """Orbax asks for absolute paths; a bucket's is one already. ValueError for a kind of bucket that it does not write."""
  if in_bucket(folder) and not str(folder).startswith("gs://"):
    raise ValueError(f"{folder}: checkpoints lie in a folder or in a bucket of gs://; take one of those for the workdir, "
                     "or mount this one as a folder")
  return epath.Path(folder if in_bucket(folder) else os.path.abspath(folder))


def _abstract(tree):
  """Shapes and places; where a leaf has no place yet, the first device."""
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  place = lambda x: getattr(x, "sharding", None) or here
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), tree)


def _load(load, step: int, wanted: dict, folder, alone: bool = False) -> dict:
  """What load(wanted) fills. `alone`: of parts that are dicts, what is wanted may be less than what is stored."""
  asked = dict(wanted)
  for part in (name for name in PARTS if name in wanted):
    stored = v1.metadata(folder / str(step), checkpointable_name=part).metadata
    if alone and isinstance(wanted[part], dict):
      rest = {name: tree for name, tree in stored.items() if name not in wanted[part]}
      rest = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), rest, is_leaf=lambda x: hasattr(x, "shape"))
      asked[part] = _abstract(rest) | wanted[part]
    _same_shapes(stored, asked[part], f"checkpoint {folder}/{step}", part)
  found = load(asked)
  if not all(value.whole for value in wanted.values() if isinstance(value, _Json)):
    raise ValueError(f"checkpoint {folder}/{step}: lacks what some of its processes wrote; restore it, or remove it and "
                     "go on from the one before")
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
      size = self.checkpoints.size / 10**9
      what = f"the disk is full, a checkpoint takes {max(size, 0.01):.2f} GB" if full else str(error).splitlines()[0]
      last = self.checkpoints.latest()   # asked now: one under way counts until it has failed
      kept = f"step {last} is whole" if last is not None else "none was written yet"
      raise ValueError(f"checkpoint {self.checkpoints.folder}: could not be written, {what}; {kept}; "
                       f"{'make room' if full else 'check the folder and its rights'} and run again") from error
