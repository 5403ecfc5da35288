"""The device mesh, the one table of rules, and placing a tree by it. One device is a mesh of one."""
import re

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from unitok import config
from unitok.optim import path_name

RULES: tuple[tuple[str, P], ...] = (
    (r"embed/embedding$", P("tensor", "fsdp")),                       # [v w]
    (r"layers/(qkv|gate_up)/kernel$", P(None, "fsdp", "tensor")),     # [layers w out]
    (r"layers/(out|down)/kernel$", P(None, "tensor", "fsdp")),        # [layers in w]
    (r"(head|depth/gate_up)/kernel$", P("fsdp", "tensor")),           # [w v], [w out]
    (r"depth/down/kernel$", P("tensor", "fsdp")),                     # [in w]
    (r"kernel$", P("fsdp", None)),                                    # the image tokenizer's
    (r"", P()),
)
"""(regular expression of a parameter's path, its spec), the first that matches. Moments and running means end in
the same paths, so they lie where their parameters lie. An axis that does not divide its side is left out."""

BATCH = P(("data", "fsdp"))
"""The spec of a batch's first side."""


def make_mesh(options: config.Mesh = config.Mesh()) -> jax.sharding.Mesh:
  """The mesh over all devices; one axis may be -1 and takes what is left. ValueError with the numbers otherwise."""
  sizes, devices = [options.data, options.fsdp, options.tensor], jax.device_count()
  said = f"mesh: data {sizes[0]} x fsdp {sizes[1]} x tensor {sizes[2]}"
  if sizes.count(-1) > 1 or any(n < 1 and n != -1 for n in sizes):
    raise ValueError(f"{said}: every axis must be 1 or more, one of them may be -1")
  given = int(np.prod([n for n in sizes if n != -1]))
  if devices % given or (-1 not in sizes and given != devices):
    raise ValueError(f"{said} does not fill the {devices} device(s) here; take numbers whose product is {devices}, "
                     "or -1 for one of them")
  sizes = [devices // given if n == -1 else n for n in sizes]
  return jax.make_mesh(sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def specs(tree, mesh):
  """A NamedSharding for every array of a tree (arrays or their shapes) by the table."""
  def one(path, leaf):
    spec = next(spec for rule, spec in RULES if re.search(rule, path_name(path)))
    axes = list(spec) + [None] * (leaf.ndim - len(spec))
    if len(spec) > leaf.ndim:
      axes = []
    fits = lambda n, axis: axis and leaf.shape[n] % mesh.shape[axis] == 0
    return NamedSharding(mesh, P(*(axis if fits(n, axis) else None for n, axis in enumerate(axes))))
  return jax.tree_util.tree_map_with_path(one, tree)


def place(tree, mesh):
  """The tree on the mesh, by the table."""
  return jax.device_put(tree, specs(tree, mesh))


def create(build, mesh, *arguments):
  """`build(*arguments)` made where the table wants it: no device ever holds the whole."""
  return jax.jit(build, out_shardings=specs(jax.eval_shape(build, *arguments), mesh))(*arguments)


def place_batch(batch, mesh):
  """Every array's first side over data and fsdp; this process's rows where there are several processes."""
  sharding = NamedSharding(mesh, BATCH)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def rows_here(mesh, size: int) -> np.ndarray:
  """The rows of a batch of `size`, rising, that this process's devices hold: what it gives to `place_batch`."""
  places = NamedSharding(mesh, BATCH).addressable_devices_indices_map((size,)).values()
  return np.unique(np.concatenate([np.arange(size)[place] for place in places]))


def under(mesh, function):
  """The function, traced with this mesh in use, as `over_rows` asks for it."""
  def run(*arguments):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)
  return run


def over_rows(function, heads: tuple, axes: tuple[int, ...], rows):
  """function(*heads, rows) on each device's own rows and heads, where the mesh in use has several devices.

  heads: arrays [b …] whose side `axes` counts heads and may be split over "tensor"; rows: a tree of arrays [b …]; the
  result is as the first of `heads`. What a row does (how many blocks it looks at) then binds no other device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return function(*heads, rows)
  split = all(x.shape[axis] % mesh.shape["tensor"] == 0 for x, axis in zip(heads, axes))
  specs = tuple(P(*BATCH, *[None] * (axis - 1), "tensor" if split else None) for axis in axes)
  return jax.shard_map(function, in_specs=(*specs, jax.tree.map(lambda _: BATCH, rows)), out_specs=specs[0])(*heads, rows)


def check_batch(size: int, mesh, name: str):
  """ValueError where a batch of `size` rows does not divide over the mesh; `name` is the config field."""
  shares = mesh.shape["data"] * mesh.shape["fsdp"]
  if size < 1 or size % shares:
    raise ValueError(f"{name}: {size} rows do not divide over data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}; "
                     f"take a multiple of {shares}, e.g. {max(size // shares, 1) * shares}")
