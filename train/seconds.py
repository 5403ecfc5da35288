"""How long each stage took, kept in WORKDIR/seconds.json, so that a run that was stopped and goes on adds up."""
import contextlib
import json
import time

from etils import epath

from unitok.files import write_json

FILE = "seconds.json"


def read(workdir) -> dict[str, float]:
  """Stage -> seconds; {} where nothing was timed, or the file is damaged."""
  try:
    value = json.loads((epath.Path(workdir) / FILE).read_text())
    return {str(name): float(seconds) for name, seconds in value.items()}
  except (FileNotFoundError, ValueError, TypeError, AttributeError):
    return {}


def add(workdir, stage: str, seconds: float, anew: bool = False) -> None:
  """Adds to a stage's seconds, or, `anew`, replaces them."""
  now = read(workdir)
  now[stage] = round((0.0 if anew else now.get(stage, 0.0)) + seconds, 3)
  write_json(epath.Path(workdir) / FILE, now)


@contextlib.contextmanager
def timed(workdir, stage: str):
  """The time inside counts for the stage, also where it ends in an error or a signal."""
  start = time.perf_counter()
  try:
    yield
  finally:
    add(workdir, stage, time.perf_counter() - start)


def with_total(seconds: dict[str, float]) -> dict[str, float]:
  """The stages and, under "total", their sum."""
  stages = {name: value for name, value in seconds.items() if name != "total"}
  return {**stages, "total": round(sum(stages.values()), 3)}
