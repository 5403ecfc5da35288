"""Where a compiled step's time goes: the device's own times of its operations, by the function that asked for them."""
import collections
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

PRODUCT = re.compile(r"\b(dot|convolution|dot_general)\b|gemm|matmul|cublas|nvjet|cutlass|__triton", re.IGNORECASE)
"""In an operation's opcode, call target or root's path: a matrix product, alone or with what is fused to it."""

HOW = "models/precision.py"
"""How products are made, whoever asks for them."""


def self_times(spans: list[tuple[float, float, str]]) -> dict[str, float]:
  """name -> time of (start, length, name) without what lies inside of it, as a loop's body does; same units."""
  times, open_ = collections.Counter(), []
  for start, length, name in sorted(spans, key=lambda one: (one[0], -one[1])):
    while open_ and start >= open_[-1][0]:
      open_.pop()
    if open_:
      times[open_[-1][1]] -= length
    times[name] += length
    open_.append((start + length, name))
  return dict(times)


def operations(run: Callable[[], None]) -> dict[str, float]:
  """Seconds of each operation on the device while run() is called, by its name in the program's text, or the kernel's
  where it has none there. Of a CPU, whose cores share an operation, of the thread that runs the program."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run()
    data = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob("*.xplane.pb"))))
    devices = [plane for plane in data.planes if plane.name.startswith("/device:")]
    times = collections.Counter()
    for plane in devices or [plane for plane in data.planes if plane.name == "/host:CPU"]:
      for line in plane.lines:
        if devices and not line.name.startswith("Stream"):
          continue     # the same again, by step and module
        spans = []
        for event in line.events:
          name = dict(event.stats).get("hlo_op") or (event.name if devices else None)
          if name:
            spans.append((event.start_ns, event.duration_ns, name))
        times.update(self_times(spans))
  return {name: nanoseconds / 1e9 for name, nanoseconds in times.items()}


def askers(text: str, package: str = "unitok") -> dict[str, str]:
  """Operation -> "file function" of the innermost frame within the package (but for HOW), "other" without one;
  "products: …" for matrix products. text: a compiled program's as_text()."""
  table = lambda name: re.search(rf"^{name}\n((?:\d+ .*\n)+)", text, re.MULTILINE)
  rows = lambda name: dict(re.findall(r"^(\d+) (.*)$", table(name).group(1), re.MULTILINE)) if table(name) else {}
  files, functions, places, frames = map(rows, ("FileNames", "FunctionNames", "FileLocations", "StackFrames"))
  number = lambda row, field: (re.search(rf"{field}=(\d+)", row) or [None, "0"])[1]
  ahead = int(number(frames.get("1", ""), "parent_frame_id"))     # 1 where the printer counts parents from 1, not 0

  def asker(metadata: str) -> str:
    frame = number(metadata, "stack_frame_id")
    for _ in range(len(frames) + 1):
      if frame not in frames:
        break
      place = places.get(number(frames[frame], "file_location_id"), "")
      file = files.get(number(place, "file_name_id"), "").strip('"')
      if f"/{package}/" in file and not file.endswith(HOW):
        function = functions.get(number(place, "function_name_id"), "").strip('"')
        return f"{Path(file).stem} {function.split('.<locals>')[0]}"
      frame = str(int(number(frames[frame], "parent_frame_id")) - ahead)
    named = re.search(r'source_file="([^"]*)"', metadata)
    return Path(named[1]).stem if named and f"/{package}/" in named[1] else "other"

  found = {}
  for name, rest in re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$", text, re.MULTILINE):
    metadata = re.search(r"metadata=\{(.*?)\}(?:,|$)", rest)
    where = asker(metadata[1]) if metadata else "other"
    opcode = re.search(r"\s([\w\-]+)\(", rest)
    target = re.search(r'custom_call_target="([^"]*)"', rest)
    path = re.search(r'op_name="([^"]*)"', rest)
    what = " ".join([opcode[1] if opcode else "", target[1] if target else "", path[1].split("/")[-1] if path else ""])
    found[name] = f"products: {where}" if PRODUCT.search(what) else where
  return found


def summary(times: dict[str, float], named: dict[str, str], steps: int) -> list[tuple[str, float, str]]:
  """(who asked, milliseconds a step, its longest operation), the longest first."""
  groups = collections.defaultdict(list)
  for name, seconds in times.items():
    where = named.get(name) or ("products: kernel" if PRODUCT.search(name) else "other")
    groups[where].append((seconds, name))
  rows = [(where, 1e3 * sum(seconds for seconds, _ in some) / steps, max(some)[1]) for where, some in groups.items()]
  return sorted(rows, key=lambda row: -row[1])


def told(rows: list[tuple[str, float, str]], step_ms: float, most: int = 16) -> str:
  """The summary as a table; what is missing to step_ms, in which nothing ran, is its last line."""
  lines = ["| asked for by | ms a step | share | longest operation |", "|---|---|---|---|"]
  for where, milliseconds, name in rows[:most]:
    lines.append(f"| {where} | {milliseconds:.2f} | {milliseconds / step_ms:.1%} | {name} |")
  rest, left = sum(ms for _, ms, _ in rows[most:]), step_ms - sum(ms for _, ms, _ in rows)
  lines += [f"| {len(rows) - most} more | {rest:.2f} | {rest / step_ms:.1%} | |"] if rows[most:] else []
  return "\n".join([*lines, f"| nothing | {left:.2f} | {left / step_ms:.1%} | |"])
