"""Two processes with four devices each train as one with eight: the same losses and weights, checkpoints for either."""
import concurrent.futures
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import small_run

from tests.eight_devices import FLAGS
from train import processes
from train.processes import Processes
from unitok import config as c
from unitok.checkpoint import load_part

ROOT = Path(__file__).resolve().parents[1]
TRAIN = dataclasses.replace(small_run.TRAIN, steps=12, batch_size=8, save_every=4, sample_every=99)
CONFIG = dataclasses.replace(
    small_run.CONFIG, image_tokenizer=dataclasses.replace(small_run.CONFIG.image_tokenizer, train=TRAIN),
    decoder=dataclasses.replace(small_run.CONFIG.decoder, train=TRAIN, readers=2), mesh=c.Mesh(fsdp=2))
PATIENCE = 300


@pytest.mark.parametrize("words, found", [
    ("--config c.py --workdir w", None), ("--debug --coordinator auto", Processes("auto")),
    ("--coordinator=h:80 --processes 4 --process 0", Processes("h:80", 4, 0)),
    ("--coordinator [::1]:80 --process=3 --processes=4 --coordinator-wait 7", Processes("[::1]:80", 4, 3, 7))])
def test_take(words, found):
  rest = [word for word in words.split() if word in ("--config", "c.py", "--workdir", "w", "--debug")]
  assert processes.take(words.split()) == (found, rest)


@pytest.mark.parametrize("words, says", [
    ("--coordinator", "--coordinator: needs a value; --coordinator HOST:PORT --processes N --process I, or"),
    ("--coordinator h:80 --processes 2", "--coordinator, --processes alone do not name them; --coordinator HOST:PORT"),
    ("--process 1", "--process alone do not name them"),
    ("--coordinator auto --processes 2", "--coordinator auto: takes the processes' number from the cluster"),
    ("--coordinator h --processes 2 --process 1", "--coordinator h: must be HOST:PORT, or auto"),
    ("--coordinator h:x --processes 2 --process 1", "--coordinator h:x: must be HOST:PORT"),
    ("--coordinator h:99999 --processes 2 --process 1", "--coordinator h:99999: must be HOST:PORT"),
    ("--coordinator h:80 --processes two --process 1", "--processes two: must be a whole number of 1 or more"),
    ("--coordinator h:80 --processes 2 --process 2", "--process 2: must be in 0 .. 1, of --processes 2"),
    ("--coordinator h:80 --processes 2 --process -1", "--process -1: must be a whole number of 0 or more")])
def test_take_refuses(words, says):
  with pytest.raises(ValueError, match=re.escape(says)) as told:
    processes.take(words.split())
  assert "\n" not in str(told.value)


def together(*some: Processes) -> list[str]:
  """What each says, "" where it met the others."""
  def one(these):
    try:
      processes.meet(these)
    except ValueError as error:
      return str(error)
    return ""
  with concurrent.futures.ThreadPoolExecutor(len(some)) as threads:
    return list(threads.map(one, some))


def test_meet():
  """All in any order, one of them late, and what is none of them is passed over."""
  at, count = f"localhost:{port()}", 4

  def stray():
    with socket.create_connection(("127.0.0.1", int(at.split(":")[1]))) as line:
      line.sendall(b"GET / HTTP/1.1\r\n\r\n")
  late = threading.Timer(0.5, stray)
  late.start()
  found = together(*(Processes(at, count, index, 20) for index in (2, 3, 1, 0)))
  late.cancel()
  assert found == [""] * 4
  processes.meet(Processes(at, 1, 0, 1))


def test_meet_tells_who_is_missing():
  at = f"127.0.0.1:{port()}"
  alone = f"--coordinator {at}: process 2 waited 1 s (connection refused); check the address, and that all of the 3 processes"
  assert together(Processes(at, 3, 2, 1))[0].startswith(alone)
  zero, two = together(Processes(at, 3, 0, 1), Processes(at, 3, 2, 2))
  assert zero == (f"--coordinator {at}: process 0 waited 1 s for process 1, of 3; start them, or check that they reach this "
                  "address") and "process 2 waited 2 s" in two
  with socket.create_server(("", port())) as taken:
    number = taken.getsockname()[1]
    said, = together(Processes(f"h:{number}", 2, 0, 1))
  assert said.startswith(f"--coordinator h:{number}: process 0 cannot listen on port {number} (address already in use)")


def port() -> int:
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]


def new_workdir(stage: str, folder: Path, tmp_path_factory) -> Path:
  """A folder in which only `stage` is left to do."""
  if stage == "decoder":
    stays = shutil.ignore_patterns("decoder", "report", "config.json", "metrics.jsonl")
    shutil.copytree(small_run.made(tmp_path_factory), folder, ignore=stays)
  else:
    folder.mkdir()
  (folder / "config.json").write_text(json.dumps(c.to_json(CONFIG)))
  return folder


def start(stage: str, workdir: Path, count: int, *fields: str, slurm: bool = False) -> list[subprocess.Popen]:
  """`count` processes that share eight devices; each says what it says in a file of its own."""
  free, started = port(), []
  for index in range(count):
    named = ["--coordinator", f"127.0.0.1:{free}", "--processes", str(count), "--process", str(index)]
    several = ["--coordinator", "auto"] if slurm else named if count > 1 else []
    flags = " ".join([f"--xla_force_host_platform_device_count={8 // count}", *FLAGS])
    # jax makes the port of the job's number
    cluster = {"SLURM_JOB_ID": str(free), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count),
               "SLURM_PROCID": str(index), "SLURM_LOCALID": "0"} if slurm else {}
    with (workdir / f"said_{count}_{index}.txt").open("a") as said:
      started.append(subprocess.Popen(
          [sys.executable, "-m", f"train.{stage}", "--workdir", str(workdir), *several, *fields], cwd=ROOT, stdout=said,
          stderr=said, env={**os.environ, **cluster, "XLA_FLAGS": flags}))
  return started


def said(workdir: Path) -> str:
  return "\n".join(f"{file.name}: {file.read_text()[-3000:]}" for file in sorted(workdir.glob("said_*")))


def finish(started: list[subprocess.Popen], workdir: Path, code: int = 0):
  try:
    assert [process.wait(PATIENCE) for process in started] == [code] * len(started), said(workdir)
  finally:
    for process in started:
      process.kill()


def lines(workdir: Path, stage: str) -> dict[int, float]:
  """The loss of each step."""
  found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  found, name = [line for line in found if line["stage"] == stage], "loss"
  steps = [line["step"] for line in found if name in line]
  assert steps == sorted(set(steps)), "one process writes"
  return {line["step"]: line[name] for line in found if name in line}


def weights(workdir: Path, stage: str):
  parts = {}
  for name in ("params", "extra"):
    from orbax.checkpoint import v1
    shapes = v1.metadata(workdir / stage / str(TRAIN.steps), checkpointable_name=name).metadata
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), shapes, is_leaf=lambda x: hasattr(x, "shape"))
    parts[name], step, _ = load_part(workdir / stage, name, like)
    assert step == TRAIN.steps
  return parts


def check(stage: str, workdir: Path, want: Path):
  """Losses and weights are those of `want` to rounding."""
  losses, wanted = (lines(folder, stage) for folder in (workdir, want))
  assert list(losses) == list(wanted) == list(range(1, TRAIN.steps + 1))
  np.testing.assert_allclose(list(losses.values()), list(wanted.values()), rtol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), weights(workdir, stage), weights(want, stage))


@pytest.mark.slow
def test_the_first_to_be_done_waits():
  """The other comes 35 seconds later: jax alone would end both with an error."""
  program = ("import sys, time; from train import processes as p; n = int(sys.argv[1]); "
             "p.start(p.Processes(sys.argv[2], 2, n)); time.sleep(35 * n); p.leave()")
  where = f"127.0.0.1:{port()}"
  both = [subprocess.Popen([sys.executable, "-c", program, str(n), where], cwd=ROOT, stderr=subprocess.PIPE, text=True)
          for n in range(2)]
  assert [(process.wait(PATIENCE), process.stderr.read()[-300:]) for process in both] == [(0, ""), (0, "")]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  """one(stage): the folder of a training in one process."""
  made = {}

  def of(stage: str) -> Path:
    if stage not in made:
      made[stage] = new_workdir(stage, tmp_path_factory.mktemp("one") / stage, tmp_path_factory)
      finish(start(stage, made[stage], 1), made[stage])
    return made[stage]
  return of


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["decoder", "image_tokenizer"])
def test_two_train_as_one(stage, one, tmp_path, tmp_path_factory):
  workdir = new_workdir(stage, tmp_path / stage, tmp_path_factory)
  finish(start(stage, workdir, 2), workdir)
  check(stage, workdir, one(stage))
  assert f"{stage}: step 12" in (workdir / "said_2_0.txt").read_text()
  assert "step" not in (workdir / "said_2_1.txt").read_text(), "the second says nothing"
  picture = f"report/samples/{stage}_{TRAIN.steps:06d}.png"
  assert (workdir / picture).exists() and not list(workdir.rglob("*.new"))
  finish(start(stage, workdir, 2), workdir)   # there is nothing left to do
  assert "already trained to step 12" in (workdir / "said_2_0.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stage, before, after", [("decoder", 2, 1), ("decoder", 1, 2), ("image_tokenizer", 2, 1)])
def test_others_go_on(stage, before, after, one, tmp_path, tmp_path_factory):
  """A signal to one process stops all at the same step, saved; as many others go on with the same batches."""
  workdir = new_workdir(stage, tmp_path / stage, tmp_path_factory)
  started, end = start(stage, workdir, before), time.monotonic() + PATIENCE
  while not any(path.name.isdigit() for path in (workdir / stage).glob("*")):
    assert all(process.poll() is None for process in started) and time.monotonic() < end, said(workdir)
    time.sleep(0.002)
  started[-1].send_signal(signal.SIGTERM)
  finish(started, workdir, 143)
  step = max(int(path.name) for path in (workdir / stage).glob("*") if path.name.isdigit())
  assert 4 <= step < TRAIN.steps and f"{stage}: stopped at step {step} of 12, saved in" in said(workdir)
  finish(start(stage, workdir, after), workdir)
  check(stage, workdir, one(stage))


@pytest.mark.slow
def test_a_cluster_names_them(one, tmp_path, tmp_path_factory):
  """--coordinator auto, with what Slurm sets."""
  workdir = new_workdir("image_tokenizer", tmp_path / "image_tokenizer", tmp_path_factory)
  finish(start("image_tokenizer", workdir, 2, slurm=True), workdir)
  check("image_tokenizer", workdir, one("image_tokenizer"))


@pytest.mark.slow
def test_a_coordinator_that_is_not_there(tmp_path, tmp_path_factory):
  """One line within the wait; so are a batch that does not divide, and a stage that runs in one process."""
  workdir = new_workdir("decoder", tmp_path / "decoder", tmp_path_factory)
  def told(stage, *words):
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"train.{stage}", "--workdir", str(workdir), *words], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr.splitlines(), time.monotonic() - start
  code, line, seconds = told("decoder", "--coordinator", f"127.0.0.1:{port()}", "--processes", "2", "--process", "1",
                             "--coordinator-wait", "3")
  assert code == 2 and seconds < 60 and len(line) == 1 and "process 1 waited 3 s (connection refused)" in line[0], line
  code, line, _ = told("encode", "--coordinator", f"127.0.0.1:{port()}", "--processes", "2", "--process", "1")
  assert code == 2 and len(line) == 1 and "train.encode: runs in one process; leave out --coordinator" in line[0]
  finish(start("decoder", workdir, 2, "--decoder.train.batch-size", "12"), workdir, 2)
  assert said(workdir).count("unitok: decoder.train.batch_size: 12 rows do not divide over data 4 x fsdp 2; take a "
                             "multiple of 8, e.g. 8") == 2 and "Traceback" not in said(workdir)
