"""The settings under which XLA compiles small programs soonest: one of a training step in 1.4 seconds instead of 12.

    XLA_FLAGS="$(python tests/quickly.py)" python -m pytest

Neither changes what is computed but by rounding. XLA ends a process that names a setting it does not know.
"""
from importlib.metadata import version

FLAGS = ["--xla_backend_optimization_level=0"]
if int(version("jaxlib").split(".")[1]) < 11:       # 0.12 knows no other emitters, 0.11 was not tried
  FLAGS.append("--xla_cpu_use_fusion_emitters=false")

if __name__ == "__main__":
  print(" ".join(FLAGS))
