"""A test file run by itself on eight simulated devices; its last line of output is JSON."""
import json
import os
import subprocess
import sys
from pathlib import Path

from tests import quickly

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--xla_cpu_collective_call_terminate_timeout_seconds=600", "--xla_cpu_collective_timeout_seconds=600",
         *quickly.FLAGS]
"""Compiled quickly rather than well; devices that share a busy machine wait longer for each other."""


def report(file, *arguments) -> dict:
  """What `python FILE ARGUMENTS` prints last, where jax finds eight devices."""
  flags = " ".join([os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", *FLAGS])
  paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
  run = subprocess.run([sys.executable, str(file), *map(str, arguments)], capture_output=True, text=True, timeout=1800,
                       env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": paths})
  assert run.returncode == 0, run.stderr[-3000:]
  found = json.loads(run.stdout.splitlines()[-1])
  assert found["devices"] == 8
  return found
