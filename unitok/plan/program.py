"""The compiled training step on a mesh: what it holds on a device, and the most rows for which that fits."""
import math
import os
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import NamedSharding

from unitok import config as c
from unitok.plan.counting import KEY
from unitok.sharding import ACTIVATIONS, HOST, on_device, specs, under

GB = 10**9


def training(step_fn: Callable, mesh, places):
  """The jitted step (state, batch, key, *given) -> (state, metrics) of a run: the key is folded with the step, the state
  is used up and lies as before, as `places`."""
  def one(state, batch, key, *given):
    return step_fn(on_device(state, places), batch, jax.random.fold_in(key, state.step), *given)

  return jax.jit(under(mesh, one), donate_argnums=0, out_shardings=(places, None))


def placed(tree, places):
  """The shapes of a tree of arrays, lying as `places` says (a tree of shardings, or one for all)."""
  one = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
  if isinstance(places, NamedSharding):
    return jax.tree.map(lambda x: one(x, places), tree)
  return jax.tree.map(one, tree, places)


def state_on(state, mesh, options: c.Mesh):
  """The shapes of a TrainState where `sharding.create` puts it."""
  return placed(state, specs(state, mesh, options.zero1, options.offload))


def batch_on(batch, mesh, rows: int = 0):
  """The shapes of a batch over the mesh; rows: as many in place of its own."""
  sized = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows or x.shape[0], *x.shape[1:]), x.dtype), batch)
  return placed(sized, NamedSharding(mesh, ACTIVATIONS["batch"]))


def bytes_on(tree) -> int:
  """Of a tree that lies somewhere: what each device has of it in its own memory."""
  return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
             for leaf in jax.tree.leaves(tree) if leaf.dtype != KEY.dtype and leaf.sharding.memory_kind != HOST)


def held(compiled) -> dict[str, int] | None:
  """Bytes a device while the program runs: `arguments`, `temporary` and new results, and their sum `total`; None where
  the compiler does not say."""
  found = compiled.memory_analysis()
  if found is None or not found.argument_size_in_bytes:
    return None
  new = found.output_size_in_bytes - found.alias_size_in_bytes
  parts = {"arguments": found.argument_size_in_bytes, "temporary": found.temp_size_in_bytes + max(new, 0)}
  return {**parts, "total": sum(parts.values())}


def unit(mesh, parts: int = 1) -> int:
  """Rows that a batch in so many parts must be a multiple of."""
  return math.prod(mesh.shape[axis] for axis in ACTIVATIONS["batch"][0]) * parts


def largest(needs: Callable[[int], int], known: dict[int, int], unit: int, room: int, tries: int = 4) -> int:
  """The most rows, a multiple of `unit`, whose step needs no more than `room` bytes; 0 where not even `unit` fit.

  needs(rows) compiles it; known: rows -> bytes of what has been compiled, which is added to. Beyond a part that stays,
  bytes grow in proportion to the rows, so that two sizes tell a third, which is compiled to see that it is so.
  """
  def measure(rows: int):
    known[rows] = needs(rows)

  if len(known) == 1:
    rows, = known
    measure(max(rows // 2 // unit, 1) * unit if rows > unit else 2 * unit)
  for _ in range(tries):
    fit, not_ = ([n for n in sorted(known) if (known[n] <= room) == yes] for yes in (True, False))
    few, many = (fit[-1], not_[0]) if fit and not_ else sorted(known)[-2:] if fit else sorted(known)[:2]
    each = max((known[many] - known[few]) / (many - few), 1e-9)
    guess = max(int((few + (room - known[few]) / each) // unit) * unit, *fit[-1:], unit)
    guess = min(guess, not_[0] - unit) if not_ else guess
    if guess < unit or guess in known:
      break
    measure(guess)
  return max((n for n in known if known[n] <= room), default=0)


def room(mesh, device_gb: float = 0.0) -> int:
  """Bytes that a run may take on a device: of `device_gb` where not 0, else what the device has; of a CPU's simulated
  devices each has its share of the machine's memory (or of its container's)."""
  if device_gb:
    return int(device_gb * GB)
  device = mesh.local_devices[0]
  said = device.memory_stats()
  if said and said.get("bytes_limit"):
    return said["bytes_limit"]
  if device.platform != "cpu":
    return 2**62
  limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
  limits += [int(text) for file in (Path("/sys/fs/cgroup/memory.max"),) if file.exists()
             and (text := file.read_text().strip()).isdigit()]
  return min(limits) // jax.local_device_count()


def check_state(state, mesh, options: c.Mesh, title: str):
  """ValueError where weights and optimizer's state alone, the shapes of a TrainState, are more than a device has."""
  limit = room(mesh, options.device_gb)
  if (size := bytes_on(state_on(state, mesh, options))) > limit:
    raise ValueError(f"{title}: weights and optimizer take {size / GB:.2f} GB of each device, which has "
                     f"{limit / GB:.2f}; spread them over mesh.fsdp {math.ceil(mesh.shape['fsdp'] * size / limit)} or more (now "
                     f"{mesh.shape['fsdp']})")


def check_fits(advance, state, batch, key, given, mesh, limit: int, title: str, parts: int = 1):
  """ValueError with the largest batch that fits where a run's step needs more than `limit` bytes of a device.

  advance: of `training`; what is compiled here is what it runs, so that the check costs nothing where the step fits.
  """
  rows = jax.tree.leaves(batch)[0].shape[0]
  found = held(advance.lower(state, batch, key, *given).compile())
  if found is None or found["total"] <= limit:
    return
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (state, given))

  def needs(rows: int) -> int:
    return held(advance.lower(shapes[0], batch_on(batch, mesh, rows), key, *shapes[1]).compile())["total"]

  most = largest(needs, {rows: found["total"]}, unit(mesh, parts), limit)
  remedy = f"the largest batch that fits is {most}" if most else \
      f"not even {unit(mesh, parts)} fit: spread them over more devices, or take a smaller network"
  raise ValueError(f"{title}.train.batch_size: {rows} rows need {found['total'] / GB:.2f} GB of each device, which has "
                   f"{limit / GB:.2f}; {remedy}")

