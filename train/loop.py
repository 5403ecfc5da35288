"""The one training loop: resumes, steps, logs, saves, samples, and stops cleanly."""
import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import rich.console
import rich.progress
from etils import epath

from train.guard import BACKS, Guard
from train.processes import agreement
from unitok import config
from unitok.checkpoint import Checkpoints
from unitok.data.record import BadRecord
from unitok.files import write_json
from unitok.metrics import Mean, Writers
from unitok.plan.program import check_fits, room, training
from unitok.run import STEPS, read_steps
from unitok.sharding import check_batch, make_mesh, place, place_batch


class Interrupted(SystemExit):
  """A signal ended the run after its checkpoint was written, and said so on stderr.

  Uncaught it ends the program with `code`, the shell's 128 + signal: 130 for SIGINT, 143 for SIGTERM.
  """

  def __init__(self, number: int, message: str):
    super().__init__(128 + number)
    self.message = message


def fit(*, state, step_fn: Callable, batches, train: config.Train, checkpoints: Checkpoints, writer: Writers, key,
        examples_per_step: float, title: str, on_sample: Callable | None = None, mesh=None, meta: dict | None = None,
        given: tuple = (), device_gb: float = 0.0):
  """Trains `state` up to step `train.steps`, from the newest checkpoint where there is one -> the last state.

  step_fn(state, batch, key, *given) -> (state, metrics): pure; the key is `key` folded with the step, metrics are
  scalars or Means, `skipped` among them 1 where the step changed nothing; given: trees of arrays that stay as they are
  and that no checkpoint keeps. batches: an endless iterator with get_state() and set_state(). on_sample(step, state) is
  called every `sample_every` steps and at the end. `state` is used up (donated). meta is kept in each checkpoint.
  Interrupted after SIGINT or SIGTERM, a checkpoint written (a second signal stops at once). So it is before a BadRecord
  of the batches goes on: what was learned up to there stays.
  After a spike (`train.spike_deviations`) the run is back at its newest checkpoint and goes on with the first batch that
  it has not learned from; what follows depends on no more than the checkpoint and that batch's place.
  ValueError where the step needs more memory than a device has (`plan.program.room`, of which device_gb), naming the
  largest batch that fits; where more than `train.skip_at_most` steps in a row have no finite loss or are skipped, a
  weight is not finite, or spikes lead back to one checkpoint again and again; no such weights are ever saved.
  """
  mesh = make_mesh() if mesh is None else mesh
  config.check_train(train, f"{title}.train")
  check_batch(train.batch_size, mesh, f"{title}.train.batch_size", train.accumulate)
  state, given = place(state, mesh), place(given, mesh)
  restored = checkpoints.restore_latest(state, batches)
  if restored:
    state, start = restored.state, restored.step
  else:
    start = 0
  guard, backs = Guard(train, restored.meta if restored else {}), (start, 0)
  writer.resume(start)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
  places = jax.tree.map(lambda x: x.sharding, state)
  advance = training(step_fn, mesh, places)
  finite = jax.jit(lambda params: jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]).all())
  meter = Meter(title, writer, start, train.steps, train.log_every, examples_per_step)

  def broken(what: str):
    last = checkpoints.latest()
    kept = "there is no checkpoint yet" if last is None else \
        f"the last good checkpoint is step {last} in {checkpoints.folder}"
    return ValueError(f"{title}: {what}; {kept}; train in a new workdir with a lower "
                      f"{title}.train.learning_rate (now {train.learning_rate:g}) or more warmup_steps")

  def settle(pending) -> bool:
    """A step's metrics, once the next step is under way; true where its loss is a spike to go back from."""
    step, metrics = pending
    metrics = jax.device_get(metrics)
    loss, bound = float(metrics["loss"]), guard.bound()
    if guard.skips(metrics):
      meter.add(step, {"skipped": 1})
      if guard.skipped > train.skip_at_most:
        before = f", nor at the {guard.skipped - 1} before it" if guard.skipped > 1 else ""
        raise broken(f"no finite loss and gradient at step {step}{before}")
    elif loss > bound and checkpoints.latest() is not None:
      print(f"{title}: the loss {loss:.4g} of step {step} is above {bound:.4g}", flush=True)
      return True
    else:
      meter.add(step, metrics)
      guard.add(loss)
    return False

  def back(step: int):
    """(state, step) of the newest checkpoint, the batches since used up."""
    nonlocal guard, backs, state
    state = None      # its memory is the other's now
    checkpoints.wait()
    restored = checkpoints.restore_latest(shapes)
    backs = (restored.step, backs[1] + 1 if backs[0] == restored.step else 1)
    if backs[1] > BACKS:
      raise broken(f"spikes of the loss have led back to step {restored.step} {BACKS} times, now at step {step} again")
    guard = Guard(train, restored.meta)
    writer.resume(restored.step)
    meter.back(restored.step, step - restored.step)
    print(f"{title}: back to step {restored.step}; the {step - restored.step} batches since are passed over", flush=True)
    return restored.state, restored.step

  def save(step: int):
    if not finite(state.params):
      raise broken(f"a weight is no longer finite at step {step}")
    checkpoints.save(step, state, batches, {**(meta or {}), **guard.kept()})

  agreed = agreement(mesh)
  with signals() as caught, meter:
    pending, step, again = None, start, None
    while step < train.steps:
      try:
        batch = next(batches) if again is None else again
      except BadRecord:
        # of several processes the others have no bad record, and go on without this one
        if jax.process_count() == 1 and step > start and not (pending and settle(pending)):
          save(step)
          checkpoints.wait()
        raise
      rows = place_batch(batch, mesh)
      if step == start:
        check_fits(advance, state, rows, key, given, mesh, room(mesh, device_gb), title, train.accumulate)
      state, metrics = advance(state, rows, key, *given)
      step += 1
      if pending and settle(pending):
        (state, step), pending, again = back(step - 1), None, batch
        continue
      pending, again = (step, metrics), None
      stop, last = agreed(caught()), step == train.steps
      due = step % train.save_every == 0 or train.keep_every and step % train.keep_every == 0
      sample = on_sample and (step % train.sample_every == 0 or last)
      if stop or last or due or sample:
        spike, pending = settle(pending), None
        if spike:
          state, step = back(step)
          continue
      if stop or last or due:
        with meter.paused():
          save(step)
      if stop:
        checkpoints.wait()
        message = (f"{title}: stopped at step {step} of {train.steps}, saved in {checkpoints.folder}; "
                   "the same command goes on from there")
        meter.bar.stop()
        if jax.process_index() == 0:
          print(message, file=sys.stderr, flush=True)
        raise Interrupted(stop, message)
      if sample:
        with meter.paused():
          on_sample(step, state)
    checkpoints.wait()
  return state


TIMED = 32
"""Steps whose time says how many fit into a limit, after half as many that are not timed: the input is preparing many ahead
then (in the demo they are a tenth slower than the mean of the run)."""


def within(seconds: float, options: config.Config, workdir, stage: str, trial: Callable) -> None:
  """Leaves in workdir/steps.json, for `with_steps`, how many of a stage's steps fit into so many seconds.

  trial() -> (state, step_fn as in `fit`, batches, mesh) is timed once in a run, so that one that goes on has the same
  schedule. ValueError where not even one step fits.
  """
  train, kept, start = getattr(options, stage).train, read_steps(workdir), time.perf_counter()
  if stage not in kept:
    state, step_fn, batches, mesh = trial()
    check_batch(train.batch_size, mesh, f"{stage}.train.batch_size", train.accumulate)
    once, each = seconds_a_step(state, step_fn, batches, mesh)
    batches.close()
    left = seconds - (time.perf_counter() - start) - once   # it is compiled again, with the schedule of its steps
    steps = min(train.steps, int(left / each))
    if steps < 1:
      raise ValueError(f"minutes: {max(left, 0):.0f} s are left for the {stage}, a step takes {each:.2f} s; allow more "
                       "minutes, or set 0 for no limit")
    write_json(epath.Path(workdir) / STEPS, kept | {stage: steps})
    print(f"{stage}: {1e3 * each:.0f} ms a step, so {steps} of {train.steps} steps fit into the {left:.0f} s left for "
          "it", flush=True)


def seconds_a_step(state, step_fn: Callable, batches, mesh) -> tuple[float, float]:
  """(the first call with its compilation, mean of TIMED later ones with their input). `state` is used up."""
  state, start = place(state, mesh), time.perf_counter()
  advance, key = training(step_fn, mesh, jax.tree.map(lambda x: x.sharding, state)), jax.random.key(0)
  state, _ = jax.block_until_ready(advance(state, place_batch(next(batches), mesh), key))
  compiled = time.perf_counter()
  for n in range(TIMED // 2 + TIMED):
    if n == TIMED // 2:
      begun = time.perf_counter()
    state, metrics = advance(state, place_batch(next(batches), mesh), key)
    jax.block_until_ready(metrics)
  return compiled - start, (time.perf_counter() - begun) / TIMED


@contextlib.contextmanager
def signals():
  """While inside, SIGINT and SIGTERM are noted: yields a function that gives the signal's number or 0.

  A second one raises KeyboardInterrupt. Outside the main thread nothing is caught.
  """
  seen: list[int] = []

  def note(number, frame):
    if seen:
      raise KeyboardInterrupt
    seen.append(number)

  if threading.current_thread() is not threading.main_thread():
    yield lambda: 0
    return
  before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield lambda: seen[0] if seen else 0
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


COUNTED = ("skipped", "passed_over")
"""Metrics whose sum over an interval is told, not their mean."""


class Meter:
  """Means over the interval since the last line, to the writers and to the screen."""

  def __init__(self, title: str, writer: Writers, first: int, steps: int, every: int, examples_per_step: float):
    self.title, self.writer, self.steps, self.every = title, writer, steps, every
    self.examples, self.sums, self.said = examples_per_step, {}, ""
    self.since, self.since_step, self.printed = None, first, -math.inf
    console = rich.console.Console()
    self.bar = rich.progress.Progress(
        "{task.description}", rich.progress.BarColumn(24), "{task.completed}/{task.total}", "{task.fields[said]}",
        console=console, transient=True, disable=not console.is_terminal)
    self.row = self.bar.add_task(title, total=steps, completed=first, said="compiling")

  def __enter__(self):
    self.bar.start()
    return self

  def __exit__(self, *error):
    self.bar.stop()
    if self.said and not error[0]:
      print(f"{self.title}: step {self.steps}, {self.said}", flush=True)

  @contextlib.contextmanager
  def paused(self):
    """Time inside counts neither for speed nor for time left."""
    start = time.perf_counter()
    yield
    if self.since is not None:
      self.since += time.perf_counter() - start

  def add(self, step: int, metrics: dict):
    """The metrics of one step (numpy scalars, or Means)."""
    if self.since is None:   # the first step compiled, which says nothing about the speed
      self.since, self.since_step = time.perf_counter(), step
    for name, value in metrics.items():
      value = value if isinstance(value, Mean) else Mean(value, 1)
      self.sums[name] = self.sums[name] + value if name in self.sums else value
    if step % self.every == 0 or step == self.steps:
      self._line(step)
    self.bar.update(self.row, completed=step)

  def back(self, step: int, batches: int):
    """The run is at this earlier step again, with so many batches passed over, which the next line tells."""
    self.sums, self.since, self.since_step = {"passed_over": Mean(batches, 1)}, None, step
    self.bar.update(self.row, completed=step)

  def _line(self, step: int):
    now = time.perf_counter()
    values = {name: mean.value() for name, mean in self.sums.items() if float(mean.count)}
    values |= {name: float(self.sums[name].total) for name in COUNTED if name in self.sums}
    self.said = text = describe(values)
    if step > self.since_step:
      rate = (step - self.since_step) / max(now - self.since, 1e-9)   # steps a second
      values["examples_per_second"], left = rate * self.examples, (self.steps - step) / rate
      text += f", {values['examples_per_second']:.0f} examples/s, {left // 60:.0f}:{left % 60:02.0f} left"
    self.writer.write(step, values)
    self.sums, self.since, self.since_step = {}, now, step
    self.bar.update(self.row, said=text)
    if self.bar.disable and now - self.printed > 5 and step < self.steps:
      print(f"{self.title}: step {step}/{self.steps}, {text}", flush=True)
      self.printed = now


def describe(values: dict[str, float]) -> str:
  """"loss 1.23 (text_to_image/image 1.20, infill/image 1.30), 24.1 dB"."""
  tasks = ", ".join(f"{name[5:]} {value:.2f}" for name, value in values.items() if name.startswith("loss/"))
  text = f"loss {values.get('loss', math.nan):.3f}" + (f" ({tasks})" if tasks else "")
  if "psnr_db" in values:
    text += f", {values['psnr_db']:.1f} dB"
  if "codebook_usage" in values:
    text += f", {values['codebook_usage']:.0%} of codes used"
  if values.get("skipped"):
    text += f", {values['skipped']:.0f} skipped"
  return text
