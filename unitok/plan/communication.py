"""What a compiled program sends between its devices, read from its text: bytes by the mesh's axis."""
import math
import re
from typing import NamedTuple

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
BITS = {"pred": 8, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32, "u32": 32, "f32": 32,
        "s64": 64, "u64": 64, "f64": 64}
INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<kind>[a-z][\w\-]*)\((?P<rest>.*)$")


class Sent(NamedTuple):
  axis: str         # of the mesh, or several: "data+fsdp"
  kind: str
  bytes: float      # that each device sends in a step
  far: bool         # do they leave the chips of a domain?


class Instruction(NamedTuple):
  name: str
  shape: str
  kind: str
  rest: str         # operands and attributes


def sent(text: str, mesh: dict[str, int], domain: int = 2**62) -> list[Sent]:
  """Of a program's optimized HLO for the devices of a mesh, which are numbered row by row: one `Sent` an axis and kind.

  Bytes are those of the ring algorithms of n devices: of an array of s bytes all-gather, all-to-all and reduce-scatter
  send s (n-1) / n, an all-reduce twice that, a permutation s. What is in a loop counts as often as it runs; of a
  condition the branch that sends most. An all-reduce of which each device goes on with its own part is a reduce-scatter
  on GPU and TPU, and counts as one; so does one that a CPU does in float32 for bfloat16 as one of bfloat16.
  ValueError for communication in a loop whose length only the data knows.
  """
  computations = _computations(text)
  found = _walk(computations, "ENTRY", mesh, domain, {})
  return sorted(Sent(axis, kind, count, far) for (axis, kind, far), count in found.items() if count)


def _computations(text: str) -> dict[str, list[Instruction]]:
  """By their names, the entry also under "ENTRY"."""
  found, at = {}, None
  for line in text.splitlines():
    if line.endswith("{") and not line.startswith(" ") and ("->" in line or line.startswith("ENTRY")):
      words = line.split()
      at = found.setdefault(words[1 if words[0] == "ENTRY" else 0].lstrip("%").split("(")[0], [])
      if words[0] == "ENTRY":
        found["ENTRY"] = at
    elif at is not None and (match := INSTRUCTION.match(line)):
      at.append(Instruction(**match.groupdict()))
  return found


def _walk(computations, name: str, mesh, domain: int, known: dict) -> dict[tuple, float]:
  """(axis, kind, far) -> bytes of a computation with all that it calls."""
  if name in known:
    return known[name]
  total: dict[tuple, float] = {}

  def add(more, times=1):
    for key, count in more.items():
      total[key] = total.get(key, 0) + times * count

  inner = lambda name: _walk(computations, name, mesh, domain, known)
  for one in computations[name]:
    kind = one.kind.removesuffix("-start")
    if kind in KINDS:
      add(_collective(one._replace(kind=kind), computations[name], computations, mesh, domain))
    elif kind == "while":
      if body := inner(_called(one, "body")[0]):
        add(body, _trips(one, computations))
    elif kind == "conditional":
      branches = _called(one, "branch_computations") or [
          *_called(one, "true_computation"), *_called(one, "false_computation")]
      add(max(map(inner, branches), key=lambda found: sum(found.values())))
    elif kind in ("call", "async-start", "fusion"):
      for called in (*_called(one, "to_apply"), *_called(one, "calls")):
        add(inner(called))
  known[name] = total
  return total


def _called(one: Instruction, name: str) -> list[str]:
  match = re.search(rf"\b{name}=(\{{[^}}]*\}}|%?[\w.\-]+)", one.rest)
  return [part.strip().lstrip("%") for part in match[1].strip("{}").split(",")] if match else []


def _trips(one: Instruction, computations) -> int:
  """Of a loop: as the compiler wrote it down, else the constant that its condition compares with."""
  if match := re.search(r'known_trip_count":\s*\{"n":\s*"(\d+)"', one.rest):
    return int(match[1])
  condition = computations[_called(one, "condition")[0]]
  constants = [int(one.rest.split(")")[0]) for one in condition
               if one.kind == "constant" and re.match(r"[su]\d+\[\]", one.shape)]
  if len(constants) != 1:
    raise ValueError(f"communication: the loop {one.name} sends, and its length is known to the data alone")
  return constants[0]


def _size(shape: str) -> float:
  """Bytes of "f32[4,8]{1,0}", or of a tuple of such."""
  return sum(BITS[kind] / 8 * math.prod(map(int, sides.split(",") if sides else ()))
             for kind, sides in re.findall(r"\b([a-z]+\d+|pred)\[([\d,]*)\]", shape))


def _collective(one: Instruction, around: list[Instruction], computations, mesh, domain: int) -> dict[tuple, float]:
  groups, size, kind = _groups(one, mesh), _size(one.shape), one.kind
  if one.kind != "collective-permute" and groups.shape[1] == 1:
    return {}
  count = groups.shape[1]
  if "promoted" in " ".join(_called(one, "to_apply")):
    size /= 2
  if kind == "reduce-scatter":
    size *= count
  if kind == "all-reduce" and _parted(one, around, computations, count):
    kind = "reduce-scatter"
  share = {"all-reduce": 2 * (count - 1) / count, "collective-permute": 1, "collective-broadcast": 1}.get(
      kind, (count - 1) / count)
  far = bool((groups // domain != groups[:, :1] // domain).any())
  return {(_axis(groups, mesh), kind, far): size * share}


def _parted(one: Instruction, around: list[Instruction], computations, count: int) -> bool:
  """Is every use of an all-reduce a part of it, 1/count or less?"""
  named = re.compile(rf"\b{re.escape(one.name)}(?![\w.\-])")
  users = [other for other in around if named.search(other.rest.split("), ")[0])]

  def part(user):
    if user.kind in ("bitcast", "copy", "reshape", "convert", "get-tuple-element"):
      return _parted(user, around, computations, count)
    return user.kind in ("dynamic-slice", "fusion") and _size(user.shape) * count <= 1.01 * _size(one.shape)
  return bool(users) and all(map(part, users))


def _groups(one: Instruction, mesh) -> np.ndarray:
  """i[groups n]: the devices that speak with each other; of a permutation, its pairs."""
  total = math.prod(mesh.values())
  if match := re.search(r"(?:source_target_pairs|replica_groups)=\{(\{[\d,{} ]*\})\}", one.rest):
    return np.array([[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d, ]+)\}", match[1])])
  if match := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", one.rest):
    return _devices(match[2], total).reshape([int(n) for n in match[1].split(",")])
  if match := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\[[^)]*\](?:T\([\d,]+\))?)\))? \{([^}]*)\}",
                        one.rest):
    axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
    devices = _devices(match[2], total) if match[2] else np.arange(total)
    within = re.findall(r"'(\w+)'(?!:)", match[3])
    if set(within) <= axes.keys() and within:
      apart = [name for name in axes if name not in within]
      order = [list(axes).index(name) for name in (*apart, *within)]
      return devices.reshape(list(axes.values())).transpose(order).reshape(-1, math.prod(axes[name] for name in within))
  if "mesh[" in one.rest:
    raise ValueError(f"communication: the groups of {one.name} are spelled in a way that is not known here: "
                     f"{one.rest[one.rest.index('mesh['):][:120]}")
  return np.arange(total)[None]          # all of them


def _devices(text: str, total: int) -> np.ndarray:
  """i[total] of "[2,4]T(1,0)": the numbers in rows of these lengths, turned."""
  shape, *turn = ([int(n) for n in part.split(",")] for part in re.findall(r"[\d,]+", text))
  devices = np.arange(total).reshape(shape)
  return (devices.transpose(*turn) if turn else devices).ravel()


def _axis(groups: np.ndarray, mesh) -> str:
  """The axes along which the devices of a group differ."""
  places = np.stack(np.unravel_index(groups, tuple(mesh.values())), -1)
  differ = (places != places[:, :1]).any((0, 1))
  return "+".join(name for name, yes in zip(mesh, differ) if yes)
