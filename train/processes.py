"""Several processes that train as one, each with its own devices and its own part of every batch.

Started by the same command on every machine, the workdir on a file system that all see:

    python -m train.decoder … --coordinator HOST:PORT --processes N --process I     # I: 0 .. N-1; 0 runs on HOST
    python -m train.decoder … --coordinator auto                                     # Slurm, Open MPI, GKE, Cloud TPU

The first alone prints, writes metrics, config and report; all write checkpoints. The batches are those of one process.
"""
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P
from orbax.checkpoint.multihost import get_barrier_sync_fn

from train.stage import PROCESSES

FORM = "--coordinator HOST:PORT --processes N --process I, or --coordinator auto"
WAIT = 300
"""Seconds that the processes wait for each other at the start."""
LAST = 3_600
"""And at the end: the first may still write."""


@dataclass(frozen=True)
class Processes:
  """Where the first one listens ("auto": all three are the cluster environment's), how many, and which this is."""
  coordinator: str
  count: int = 0
  index: int = 0
  wait: int = WAIT


def take(argv: list[str]) -> tuple[Processes | None, list[str]]:
  """(the processes of a command line, None of one that names none; its other words). ValueError where incomplete."""
  said, rest, words = {}, [], list(argv)
  while words:
    word = words.pop(0)
    name, _, value = word.partition("=")
    if name not in PROCESSES:
      rest.append(word)
      continue
    if not value and (not words or words[0].startswith("--")):
      raise ValueError(f"{name}: needs a value; {FORM}")
    said[name] = value or words.pop(0)
  if not said:
    return None, rest
  coordinator, auto = said.get("--coordinator", ""), said.get("--coordinator") == "auto"
  numbers = {}
  for name, least in (("--processes", 1), ("--process", 0), ("--coordinator-wait", 1)):
    if name in said:
      if not said[name].isdecimal() or int(said[name]) < least:
        raise ValueError(f"{name} {said[name]}: must be a whole number of {least} or more")
      numbers[name] = int(said[name])
  if auto and ("--processes" in said or "--process" in said):
    raise ValueError(f"--coordinator auto: takes the processes' number from the cluster, too; {FORM}")
  if not auto and not {"--coordinator", "--processes", "--process"} <= said.keys():
    raise ValueError(f"several processes: {', '.join(sorted(said))} alone do not name them; {FORM}")
  host, _, port = coordinator.rpartition(":")
  if not auto and not (host and port.isdecimal() and 0 < int(port) < 65536):
    raise ValueError(f"--coordinator {coordinator}: must be HOST:PORT, or auto; HOST is where process 0 runs")
  count, index = numbers.get("--processes", 0), numbers.get("--process", 0)
  if not auto and index >= count:
    raise ValueError(f"--process {index}: must be in 0 .. {count - 1}, of --processes {count}")
  return Processes(coordinator, count, index, numbers.get("--coordinator-wait", WAIT)), rest


def start(processes: Processes) -> None:
  """Joins the others; before anything else of jax is used. ValueError where they are not there after the wait (with
  "auto", jax ends the program itself).

  All but the first are silent from here on, their errors aside.
  """
  if processes.coordinator != "auto":
    meet(processes)
  auto = processes.coordinator == "auto"
  named = {} if auto else dict(coordinator_address=processes.coordinator, num_processes=processes.count,
                               process_id=processes.index)
  jax.config.update("jax_enable_preemption_service", False)   # it takes SIGTERM, which train.loop looks after
  try:
    jax.distributed.initialize(**named, initialization_timeout=processes.wait, shutdown_timeout_seconds=30)
  except (RuntimeError, ValueError) as error:
    what = "finds no cluster" if auto else "its processes cannot be joined"
    raise ValueError(f"--coordinator {processes.coordinator}: {what} ({' '.join(str(error).split())[:200]}); give "
                     f"{FORM}") from None
  if jax.process_index():
    sys.stdout = open(os.devnull, "w")


def meet(processes: Processes) -> None:
  """Returns when all have been at the coordinator's address. ValueError, naming who was not, after the wait.

  jax would end the program there without a line that says what is missing.
  """
  said, (host, _, port) = f"--coordinator {processes.coordinator}", processes.coordinator.rpartition(":")
  end, told = time.monotonic() + processes.wait, "nobody answers"
  left = lambda: max(end - time.monotonic(), 0.01)
  if processes.index == 0:
    _gather(processes, int(port), left)
    return
  while time.monotonic() < end:
    try:
      with socket.create_connection((host.strip("[]"), int(port)), timeout=left()) as own:
        own.sendall(b"%d\n" % processes.index)
        told = "process 0 is there, but not all of the others"
        own.settimeout(left())
        if own.recv(1):
          return
    except OSError as error:
      if not isinstance(error, TimeoutError):
        told = (error.strerror or str(error)).lower()
    time.sleep(min(0.2, left()))
  raise ValueError(f"{said}: process {processes.index} waited {processes.wait} s ({told}); check the address, and that "
                   f"all of the {processes.count} processes were started")


def _gather(processes: Processes, port: int, left: Callable[[], float]) -> None:
  """`meet` of the first: it listens until each of the others has said its number, then tells them."""
  here: dict[int, socket.socket] = {}
  form = dict(family=socket.AF_INET6, dualstack_ipv6=True) if socket.has_dualstack_ipv6() else {}
  try:
    server = socket.create_server(("", port), **form)
  except OSError as error:
    raise ValueError(f"--coordinator {processes.coordinator}: process 0 cannot listen on port {port} "
                     f"({os.strerror(error.errno).lower()}); take a free one") from None
  with server:
    while len(here) < processes.count - 1:
      server.settimeout(left())
      try:
        other, _ = server.accept()
      except TimeoutError:
        missing = ", ".join(str(n) for n in range(1, processes.count) if n not in here)
        raise ValueError(f"--coordinator {processes.coordinator}: process 0 waited {processes.wait} s for process "
                         f"{missing}, of {processes.count}; start them, or check that they reach this address") from None
      other.settimeout(5)
      try:
        number = int(other.makefile("rb").readline(16))
      except (OSError, ValueError):   # not one of ours
        number = 0
      if 0 < number < processes.count:
        here[number] = other
      else:
        other.close()
    for other in here.values():
      other.sendall(b".")
      other.close()


def first() -> bool:
  """Is this the one that speaks and writes?"""
  return jax.process_index() == 0


def in_turn(what: Callable) -> Any:
  """what() in the first process, then in the others. Where it fails in the first, ValueError in the others."""
  if jax.process_count() == 1:
    return what()
  error, found = None, None
  if first():
    try:
      found = what()
    except Exception as problem:
      error = problem
  failed = int(multihost_utils.broadcast_one_to_all(np.int32(error is not None)))
  if error:
    raise error
  if failed:
    raise ValueError("the first process stopped, its own line says why")
  return found if first() else what()


def leave() -> None:
  """Returns when all have come here: who is done first waits, for jax ends all of them where one is 30 s behind."""
  get_barrier_sync_fn()(key="done", timeout_ms=1000 * LAST)


def gathered(tree):
  """A tree of arrays whole on this machine; all processes take part. Of one process, the tree as it is."""
  return tree if jax.process_count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


def agreement(mesh) -> Callable[[int], int]:
  """said(number): the largest number that any process gave at the call before this one, so that all go on alike and
  none waits for the step under way. Of one process, its own of now."""
  if jax.process_count() == 1:
    return lambda number: number
  spread = NamedSharding(mesh, P(mesh.axis_names))
  largest, before = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P())), []

  def said(number: int) -> int:
    numbers = jax.make_array_from_callback((mesh.size,), spread, lambda place: np.full(1, number, np.int32))
    before.append(largest(numbers))
    return int(before.pop(0)) if len(before) > 1 else 0
  return said
