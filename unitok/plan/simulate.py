"""A stage's step compiled for a mesh of devices that are not there: python -m unitok.plan.simulate, asked in JSON.

The compiler is that of this machine's CPU, in a process that is told it has as many devices; sizes and sharding are the
run's. What it plans for temporary arrays is what a run on CPUs takes; GPU and TPU fuse and order some of it otherwise.
On a CPU bfloat16 arrays are kept and sent in float32, those of float16 are not: for chips it stands for the other.
"""
import json
import math
import os
import subprocess
import sys
from pathlib import Path

from unitok import config as c

ROOT = Path(__file__).resolve().parents[2]


def compiled(config: c.Config, stage: str, sizes: dict[str, int], room: int = 0, domain: int = 0) -> dict:
  """What a stage's step of config.mesh, whose axes have these sizes, holds and sends: {"memory": program.held, "bytes":
  [rows, those of a device] of each batch that was looked at, "sent": list of communication.Sent}.

  room: bytes of a chip; then there is "largest_batch", too. domain: chips joined by a fast network, see `sent`.
  ValueError in a line where the step cannot be compiled.
  """
  count = math.prod(sizes.values())
  flags = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"   # quickly, not well
  paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
  asked = {"config": c.to_json(config), "stage": stage, "sizes": sizes, "room": room, "domain": domain or count}
  run = subprocess.run(
      [sys.executable, "-m", "unitok.plan.simulate"], input=json.dumps(asked), capture_output=True, text=True,
      env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths,
           "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"})
  if run.returncode:
    last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
    raise ValueError(f"plan: the step cannot be compiled for {count} devices: {last}")
  return json.loads(run.stdout.splitlines()[-1])


def answer(config: c.Config, stage: str, sizes: dict[str, int], room: int, domain: int) -> dict:
  """`compiled`, in a process that has the devices and does nothing else."""
  import jax
  from jax.sharding import NamedSharding, PartitionSpec

  from unitok.models.precision import PRECISIONS, Precision
  from unitok.plan.communication import sent
  from unitok.plan.counting import KEY
  from unitok.plan.program import batch_on, held, largest, placed, state_on, training, unit
  from unitok.plan.stages import STAGES
  from unitok.sharding import make_mesh
  if room:
    PRECISIONS["bfloat16"] = Precision(jax.numpy.dtype("float16"), jax.numpy.dtype("float16"))
  one, mesh = STAGES[stage](config), make_mesh(config.mesh)
  state, given = state_on(one.state(), mesh, config.mesh), placed(one.given, NamedSharding(mesh, PartitionSpec()))
  advance = training(one.step, mesh, jax.tree.map(lambda x: x.sharding, state))
  compile_for = lambda rows: advance.lower(state, batch_on(one.batch(rows), mesh), KEY, *given).compile()
  needs = lambda rows: held(compile_for(rows))["total"]
  program, rows = compile_for(one.train.batch_size), one.train.batch_size
  found = {"memory": held(program), "sent": sent(program.as_text(), sizes, domain)}
  known = {rows: found["memory"]["total"]}
  del program
  if room:
    found["largest_batch"] = largest(needs, known, unit(mesh, one.train.accumulate), room)
  return {**found, "bytes": sorted(known.items())}


def main():
  asked = json.load(sys.stdin)
  print(json.dumps(answer(c.from_json(asked.pop("config")), **asked)))


if __name__ == "__main__":
  main()
