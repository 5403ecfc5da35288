"""The Makefile's settings of the memory allocator, for benchmarks whose sides must all run under the same."""
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TUNABLES = "GLIBC_TUNABLES"     # a list, with colons between


def settings() -> dict[str, str]:
  """Name -> value, as `make allocator` prints them."""
  done = subprocess.run(["make", "--silent", "--no-print-directory", "allocator"], cwd=ROOT, capture_output=True,
                        text=True, env={name: value for name, value in os.environ.items() if name != TUNABLES})
  if done.returncode:
    said = (done.stderr.strip().splitlines() or ["failed"])[-1]
    sys.exit(f"make allocator: {said}; benchmarks of speed run under what it prints")
  return dict(one.split("=", 1) for one in done.stdout.split())


def missing(wanted: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
  """Of the settings wanted those that the environment has not got; tunables stand behind those it has."""
  has = {name: environment.get(name, "") for name in wanted}
  return {name: f"{has[name]}:{value}".lstrip(":") if name == TUNABLES else value for name, value in wanted.items()
          if has[name] != value and not (name == TUNABLES and has[name].endswith(f":{value}"))}


def under_settings() -> str:
  """Starts this program anew under the settings, which a process reads when it starts -> what they are, in a line."""
  wanted = settings()
  if more := missing(wanted, os.environ):
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **more})
  return " ".join(f"{name}={value}" for name, value in wanted.items())
