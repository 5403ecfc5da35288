"""The device mesh, the one table of rules, and placing a tree by it. One device is a mesh of one."""
import math
import re

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from unitok import config

AXES = ("data", "fsdp", "expert", "sequence", "tensor")
"""Of the mesh, the slowest links first: rows lie over data, fsdp and expert, weights over fsdp and tensor, those of
experts over expert, too, tokens over sequence."""
ROWS = ("data", "fsdp", "expert")

RULES: tuple[tuple[str, P], ...] = (
    (r"embed/embedding$", P("tensor", "fsdp")),                       # [v w]
    (r"layers/qkv/kernel$", P(None, "fsdp", "tensor")),               # [layers w key heads, queries of each + 2, d]
    (r"layers/(experts/shared/)?gate_up/kernel$", P(None, "fsdp", None, "tensor")),     # [layers w 2 out]
    (r"layers/(experts/shared/)?(out|down)/kernel$", P(None, "tensor", "fsdp")),        # [layers in w]
    (r"layers/experts/(gate|up)/kernel$", P(None, "expert", "fsdp", "tensor")),         # [layers e w out]
    (r"layers/experts/down/kernel$", P(None, "expert", "tensor", "fsdp")),              # [layers e in w]
    (r"layers/(qkv/kinds|mlp/gate|mlp/up)/kernel$", P(None, None, "fsdp", "tensor")),   # [layers 2 w out]
    (r"layers/(out/kinds|mlp/down)/kernel$", P(None, None, "tensor", "fsdp")),          # [layers 2 in w]
    (r"head/kernel$", P("fsdp", "tensor")),                           # [w v]
    (r"depth/gate_up/kernel$", P("fsdp", None, "tensor")),            # [w 2 out]
    (r"depth/down/kernel$", P("tensor", "fsdp")),                     # [in w]
    (r"", P()),                                                       # the image tokenizer, its judge, norms, biases
)
"""(regular expression of a parameter's path, its spec), the first that matches. Moments and running means end in
the same paths, so they lie where their parameters lie. An axis that does not divide its side is left out; fsdp, where it
has no side by the table, takes the longest one that it divides, of stacked layers not their number."""

ACTIVATIONS: dict[str, P] = {
    "batch": P(ROWS),                              # [b …]
    "hidden": P(ROWS, "sequence"),                 # [b l w]
    "queries": P(ROWS, None, ("tensor", "sequence")),   # [b l h d]: all tokens of some heads
    "keys": P(ROWS, ("tensor", "sequence")),       # [b g l d], and values
    "ring queries": P(ROWS, "sequence", "tensor"),      # [b l h d]: some tokens of some heads
    "ring keys": P(ROWS, "tensor", "sequence"),    # [b g l d], and values
    "wide": P(ROWS, "sequence", "tensor"),         # [b l n]: what products with "kinds in" make
    "experts in": P("expert", None, "tensor"),     # [e w n]: an expert's weights beside its tokens, gathered over fsdp
    "experts out": P("expert", "tensor"),          # [e n w]
    "kinds in": P(None, None, "tensor"),           # [2 w n]
    "kinds out": P(None, "tensor"),                # [2 n w]
    "head": P(None, "tensor"),                     # [w v]: the head's columns beside those, gathered over fsdp
}
"""What runs between them, by name."""

MOMENTS = r"(^|/)\.?opt_state/"
"""Paths of the optimizer's state, which `zero1` spreads over data, too, and `offload` keeps in the host's memory."""

HOST = "pinned_host"
"""jax's name of the memory that `offload` uses."""


def make_mesh(options: config.Mesh = config.Mesh(), devices=None) -> jax.sharding.Mesh:
  """The mesh over all devices (or these), the first axes over slices; one axis may be -1 and takes what is left.
  ValueError with the numbers otherwise."""
  devices = devices or jax.devices()
  sizes, count = [getattr(options, name) for name in AXES], len(devices)
  said = f"mesh: {' x '.join(f'{name} {n}' for name, n in zip(AXES, sizes))}"
  if sizes.count(-1) > 1 or any(n < 1 and n != -1 for n in sizes):
    raise ValueError(f"{said}: every axis must be 1 or more, one of them may be -1")
  given = math.prod(n for n in sizes if n != -1)
  if count % given or (-1 not in sizes and given != count):
    raise ValueError(f"{said} does not fill the {count} device(s) here; take numbers whose product is {count}, "
                     "or -1 for one of them")
  sizes = [count // given if n == -1 else n for n in sizes]
  types, slices = (AxisType.Auto,) * len(AXES), len({getattr(device, "slice_index", 0) for device in devices})
  if slices == 1:
    return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
  return jax.sharding.Mesh(over_slices(sizes, slices, devices), AXES, axis_types=types)


def over_slices(sizes: list[int], slices: int, devices) -> np.ndarray:
  """Devices [*sizes] of several slices (TPU slices, GPU nodes), between which the network is slow: the first axes go over
  them, outermost, so that the last ones stay within a slice. ValueError where the slices do not divide the axes."""
  between, left = [], slices
  for size in sizes:
    between.append(math.gcd(size, left))
    left //= between[-1]
  if left > 1:
    raise ValueError(f"mesh: {' x '.join(map(str, sizes))} does not divide over the {slices} slices here; take a multiple "
                     f"of {slices} for data")
  within = [size // slow for size, slow in zip(sizes, between)]
  return mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)


def path_name(path) -> str:
  return "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)


def specs(tree, mesh, zero1: bool = False, offload: bool = False):
  """A NamedSharding for every array of a tree (arrays or their shapes) by the table.

  zero1: the optimizer's state lies over data, too (ZeRO-1, Rajbhandari 2019, 1910.02054); offload: its arrays are in the
  host's memory (ZeRO-Offload, Ren 2021, 2101.06840).
  """
  def one(path, leaf):
    name = path_name(path)
    spec = next(spec for rule, spec in RULES if re.search(rule, name))
    sides = [()] * leaf.ndim
    shares = lambda side: math.prod(mesh.shape[axis] for axis in sides[side])
    fits = lambda side, axis: leaf.shape[side] % (shares(side) * mesh.shape[axis]) == 0

    def longest(axis):
      free = [side for side in range("layers/" in name, leaf.ndim) if fits(side, axis)]
      if free and mesh.shape[axis] > 1:
        side = max(free, key=lambda side: leaf.shape[side] // shares(side))
        sides[side] += (axis,)

    for side, axis in enumerate(spec if len(spec) <= leaf.ndim else ()):
      if axis and fits(side, axis):
        sides[side] = (axis,)
    if not any("fsdp" in axes for axes in sides):
      longest("fsdp")
    if zero1 and re.search(MOMENTS, name):
      longest("data")
    kind = HOST if offload and leaf.ndim and re.search(MOMENTS, name) else None
    return NamedSharding(mesh, P(*(axes[0] if len(axes) == 1 else axes or None for axes in sides)), memory_kind=kind)
  return jax.tree_util.tree_map_with_path(one, tree)


def place(tree, mesh):
  """The tree on the mesh, by the table; the optimizer's state stays where `create` made it on this mesh."""
  def one(path, leaf, spec):
    there = getattr(leaf, "sharding", None)
    made = isinstance(there, NamedSharding) and there.mesh == mesh and re.search(MOMENTS, path_name(path))
    return there if made else spec
  return jax.device_put(tree, jax.tree_util.tree_map_with_path(one, tree, specs(tree, mesh)))


def create(build, mesh, *arguments, zero1: bool = False, offload: bool = False):
  """`build(*arguments)` made where the table wants it: no device ever holds the whole. ValueError where the devices have no
  memory of the host's to offload to."""
  if offload and not all(HOST in (one.kind for one in device.addressable_memories()) for device in mesh.local_devices):
    raise ValueError(f"mesh.offload: {jax.default_backend()} devices here cannot reach the host's memory ({HOST}); leave it "
                     "at False, and spread the optimizer's state by mesh.zero1 or mesh.fsdp")
  return jax.jit(build, out_shardings=specs(jax.eval_shape(build, *arguments), mesh, zero1, offload))(*arguments)


def on_device(tree, places):
  """The traced tree, what `places` (a sharding of each array) has in the host's memory copied to the devices."""
  fetched = lambda x, place: jax.device_put(x, jax.memory.Space.Device) if place.memory_kind == HOST else x
  return jax.tree.map(fetched, tree, places)


def place_batch(batch, mesh):
  """Every array's first side over data, fsdp and expert; this process's rows where there are several processes."""
  sharding = NamedSharding(mesh, ACTIVATIONS["batch"])
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def rows_here(mesh, size: int) -> np.ndarray:
  """The rows of a batch of `size`, rising, that this process's devices hold: what it gives to `place_batch`."""
  places = NamedSharding(mesh, ACTIVATIONS["batch"]).addressable_devices_indices_map((size,)).values()
  return np.unique(np.concatenate([np.arange(size)[place] for place in places]))


def under(mesh, function):
  """The function, traced with this mesh in use, as `constrain` and `over` ask for it."""
  def run(*arguments):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)
  return run


def in_use():
  """The mesh that `under` traces with; None where there is none, or of one device."""
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty or mesh.size == 1 else mesh


def devices(axis: str) -> int:
  """How many the mesh in use has along an axis."""
  mesh = in_use()
  return mesh.shape[axis] if mesh else 1


def _divides(spec: P, shape: tuple[int, ...]) -> bool:
  sizes = (math.prod(map(devices, axes if isinstance(axes, tuple) else (axes,))) if axes else 1 for axes in spec)
  return all(side % size == 0 for side, size in zip(shape, sizes))


def constrain(x, name: str):
  """x, which lies as ACTIVATIONS says where there is a mesh in use that divides it."""
  fits = in_use() and _divides(ACTIVATIONS[name], x.shape)
  return jax.lax.with_sharding_constraint(x, ACTIVATIONS[name]) if fits else x


def over(function, arrays: tuple, names: tuple[str, ...], rows, name: str = "batch"):
  """function(*arrays, rows) on what each device has of them, where the mesh in use has several devices.

  arrays lie as ACTIVATIONS has it under `names`, the tree `rows` as under `name`, the result as the first array. Where
  the mesh does not divide an array's heads, and `rows` are whole rows, they are split over these alone. What a row does
  (how many blocks it looks at) then binds no other device.
  """
  if not in_use():
    return function(*arrays, rows)
  specs = tuple(ACTIVATIONS[one] for one in names)
  if name == "batch" and not all(_divides(spec, x.shape) for spec, x in zip(specs, arrays)):
    specs = (ACTIVATIONS["batch"],) * len(arrays)
  in_specs = (*specs, jax.tree.map(lambda _: ACTIVATIONS[name], rows))
  return jax.shard_map(function, in_specs=in_specs, out_specs=specs[0])(*arrays, rows)


def spread(function, x, choices, more: tuple, kernels: tuple, names: tuple[str, ...], into="hidden", out="hidden"):
  """function(x, choices, *more, *kernels) on what each device has of them, where the mesh in use has several devices.

  x [b l n] lies as ACTIVATIONS has it under `into`, choices i32[b l k] and `more` as "hidden", kernels under `names`,
  the result under `out`, added up over the axes it does not lie over. Where the kernels [e …] lie over `expert`, a
  device gets the rows of all devices along it, with choices that are 0 for its first expert, and what they make is
  added up.
  """
  arrays, mesh = (x, choices, *more, *kernels), in_use()
  specs = [ACTIVATIONS[name] for name in (into, *["hidden"] * (1 + len(more)), *names)]
  if not mesh or not all(_divides(spec, array.shape) for spec, array in zip(specs, arrays)):
    return function(*arrays)
  axes = lambda spec: {axis for side in spec for axis in (side if isinstance(side, tuple) else (side,))}
  others = lambda spec: tuple(axis for axis in mesh.axis_names if axis not in axes(spec))
  moves = "expert" in axes(specs[-1])

  def own(*arrays):
    arrays = [jax.lax.pcast(array, others(spec), to="varying") for spec, array in zip(specs, arrays)]
    tokens, kernels = arrays[:2 + len(more)], arrays[2 + len(more):]
    if moves:
      x, choices, *rest = (jax.lax.all_gather(array, "expert", tiled=True) for array in tokens)
      tokens = (x, choices - jax.lax.axis_index("expert") * len(kernels[0]), *rest)
    made = function(*tokens, *kernels)
    if moves:
      made = jax.lax.psum_scatter(made, "expert", tiled=True)
    over = others(ACTIVATIONS[out])
    return jax.lax.psum(made, over) if over else made

  return jax.shard_map(own, in_specs=tuple(specs), out_specs=ACTIVATIONS[out])(*arrays)


def check_batch(size: int, mesh, name: str, parts: int = 1):
  """ValueError where a batch of `size` rows in so many parts does not divide over the mesh; `name` is the config field."""
  shares = math.prod(mesh.shape[axis] for axis in ROWS) * parts
  if size < 1 or size % shares:
    said = f" in {parts} parts (accumulate)" if parts > 1 else ""
    over = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in ROWS if axis != "expert" or mesh.shape[axis] > 1)
    raise ValueError(f"{name}: {size} rows{said} do not divide over {over}; take a multiple of {shares}, "
                     f"e.g. {max(size // shares, 1) * shares}")


def check_decoder(options: config.Decoder, vocabulary_size: int, mesh):
  """ValueError where the mesh does not divide the decoder's heads, its experts, its vocabulary or its rows."""
  tensor, sequence, expert = (mesh.shape[axis] for axis in ("tensor", "sequence", "expert"))
  if expert > 1 and (options.experts < 2 or options.experts % expert):
    raise ValueError(f"mesh.expert: {expert} does not divide decoder.experts {options.experts}; take 1, or a divisor of "
                     "that")
  hidden = "expert_hidden" if options.experts > 1 and options.expert_hidden else "hidden"
  if (options.experts > 1 or options.modality_experts != "none") and getattr(options, hidden) % tensor:
    raise ValueError(f"mesh.tensor: {tensor} does not divide decoder.{hidden} {getattr(options, hidden)}; take a "
                     f"multiple of {tensor}, or another mesh.tensor")
  ulysses = sequence if options.sequence_attention == "ulysses" else 1
  said = f"mesh.tensor: {tensor}" if ulysses == 1 else f"mesh.tensor x mesh.sequence (ulysses): {tensor} x {sequence}"
  for name in ("heads", "kv_heads"):
    if (count := getattr(options, name)) % (tensor * ulysses):
      raise ValueError(f"{said} does not divide decoder.{name} {count}; take "
                       f"{math.gcd(options.heads, options.kv_heads)} or a divisor of it")
  if vocabulary_size % tensor:
    raise ValueError(f"mesh.tensor: {tensor} does not divide the vocabulary's {vocabulary_size} ids; take "
                     f"{-vocabulary_size % tensor} more of text.vocab_size, or another mesh.tensor")
  if sequence > 1 and (more := -options.row_length % (2 * sequence)):
    raise ValueError(f"mesh.sequence: twice {sequence} does not divide decoder.row_length {options.row_length}; take rows "
                     f"of {options.row_length + more}")
