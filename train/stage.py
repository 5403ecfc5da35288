"""What all entry points share besides the loop: the command line, the workdir, and how errors end.

    python -m train.NAME --config configs/FILE.py --workdir DIR [--data.path … any field] [--debug]
"""
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable

from etils import epath

from unitok import config as c
from unitok.errors import disk_full, message
from unitok.files import write_json
from unitok.objectives import needed

USAGE = "usage: python -m {module} --config FILE --workdir DIR [--FIELD VALUE …] [--debug]; --help lists the fields"
"""A workdir that has a config.json already needs no --config."""

PROCESSES = ("--coordinator", "--processes", "--process", "--coordinator-wait")
"""Of a stage in several processes, see train/processes.py."""

MADE = ("text_tokenizer", "image_tokenizer", "codes", "decoder")
"""Of a run's folder: what stages make that its config.json then belongs to."""


def parse(argv: list[str], module: str = "train.STAGE") -> tuple[c.Config, str, bool]:
  """(config with its overrides, workdir, debug); without --config it is that of the workdir.

  ValueError where the command line or the config file is at fault.
  """
  own, rest, words = {}, [], list(argv)
  debug = "--debug" in words
  while words:
    word = words.pop(0)
    name, _, value = word.partition("=")
    if name in ("--config", "--workdir"):
      if not value and (not words or words[0].startswith("--")):
        raise ValueError(f"{name}: needs a value; {USAGE.format(module=module)}")
      own[name] = value or words.pop(0)
    elif word != "--debug":
      rest.append(word)
  asks = any(word in ("--help", "-h") for word in rest)
  if asks:
    print(USAGE.format(module=module) + "\n")
  made = "--config" not in own and "--workdir" in own and (epath.Path(own["--workdir"]) / "config.json").exists()
  for name in ("--config", "--workdir"):
    if name not in own and not asks and not (made and name == "--config"):
      raise ValueError(f"{name} is missing; {USAGE.format(module=module)}")
  if made:
    from unitok.checkpoint import read_config   # it imports jax
    config = read_config(own["--workdir"])
  else:
    config = c.load(own["--config"]) if "--config" in own else c.Config()
  return c.override(config, rest), own.get("--workdir", ""), debug


def open_workdir(workdir, config: c.Config) -> epath.Path:
  """The run's folder, with its config.json, which may change until something is made by it.

  As long as no decoder is trained there, fields of it may change that nothing made so far depends on.
  ValueError where a field is out of its range (see `check`), or the folder belongs to another config: it names the
  first field that differs and the remedy.
  """
  check(config)
  workdir = epath.Path(workdir)
  path = workdir / "config.json"
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"{workdir}: is a file; name a folder with --workdir")
  if not path.exists() or not any((workdir / name).exists() for name in MADE):
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, c.to_json(config))
    return workdir
  try:
    old = c.from_json(json.loads(path.read_text()))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{path}: cannot be read ({error}); use another --workdir, or the version that made it") from None
  change = c.difference(old, config)
  if change and not has_decoder(workdir):
    new = dataclasses.replace(old, decoder=config.decoder)
    other = c.difference(new, config) or relied_on(workdir, old.decoder, new.decoder)
    if not other:
      print(f"{workdir}: no decoder is trained yet, so it becomes the one asked for ({change})", flush=True)
      measure_anew(workdir)
      write_json(path, c.to_json(new))
    change = other
  if change:
    raise ValueError(f"{workdir}: made with another config ({change}); use another --workdir, or set that field back")
  return workdir


def check(config: c.Config) -> None:
  """ValueError for a field that a later stage refuses: told now, not when the stages before it are through."""
  from unitok.data.pipeline import mixture   # they import jax
  from unitok.models import decoder
  from unitok.run import kind_of
  kind_of(config).check(config.image_tokenizer, config.data.image_size, config.data.sizes)
  mixture(config.decoder)
  decoder.check(config.decoder)
  for name in ("image_tokenizer", "decoder"):
    if train := getattr(getattr(config, name), "train", None):   # not every kind of tokenizer is trained
      c.check_train(train, f"{name}.train")


def has_decoder(workdir: epath.Path) -> bool:
  """Is there a checkpoint of it?"""
  folder = workdir / "decoder"
  return folder.exists() and any(step.name.isdigit() for step in folder.iterdir())


def relied_on(workdir: epath.Path, old: c.Decoder, new: c.Decoder) -> str | None:
  """The change, as `c.difference` tells it, that would have made the tokenizers' or the codes' stage do otherwise."""
  kinds = lambda tasks: needed(tasks) & {"questions", "objects", "pieces", "coarse"}   # texts; [location]; codes
  if (workdir / "text_tokenizer").exists() and kinds(old.tasks) != kinds(new.tasks):
    return f"decoder.tasks: {old.tasks} -> {new.tasks}"
  before, after = old.objectives.size_tokens, new.objectives.size_tokens
  if (workdir / "vocab.json").exists() and before != after:
    return f"decoder.objectives.size_tokens: {before} -> {after}"
  return None


def measure_anew(workdir: epath.Path) -> None:
  """Forgets how many of the decoder's steps the config's `minutes` have room for."""
  from unitok.run import STEPS, read_steps   # it imports jax
  steps = read_steps(workdir)
  if steps.pop("decoder", None):
    write_json(workdir / STEPS, steps)


def main(run: Callable[[c.Config, epath.Path], object], argv: list[str] | None = None, opened=open_workdir,
         several: bool = False) -> None:
  """`run(config, workdir)` of a stage as a program: ends with 0, 2 for an error told in one line, 130 for Ctrl-C.
  opened(workdir, config) -> workdir; several: may the stage run in several processes?"""
  argv = sys.argv[1:] if argv is None else argv
  module = getattr(sys.modules.get(run.__module__), "__spec__", None)
  module = module.name if module else run.__module__
  try:
    with stoppable():
      if any(word.partition("=")[0] in PROCESSES for word in argv):
        config, workdir = joined(argv, module, several, opened)
        from train.processes import leave
      else:
        (config, workdir, _), leave = parse(argv, module), lambda: None
        workdir = opened(workdir, config)
      try:
        run(config, workdir)
      except SystemExit:     # a signal, which stops all at the same step
        leave()
        raise
      leave()
  except (ValueError, OSError, ImportError) as error:
    if "--debug" in argv:
      raise
    _say(message(error))
    raise SystemExit(2) from None
  except Exception as error:
    if not disk_full(error) or "--debug" in argv:
      raise   # not foreseen: the traceback says more than a line
    _say(message(error))
    raise SystemExit(2) from None


def joined(argv: list[str], module: str, several: bool, opened: Callable) -> tuple[c.Config, epath.Path]:
  """(config, workdir) of a stage in several processes, which have found each other. ValueError where they have not."""
  from train import processes   # it imports jax
  these, words = processes.take(argv)
  config, workdir, _ = parse(words, module)
  if not several:
    raise ValueError(f"{module}: runs in one process; leave out {', '.join(PROCESSES)} (train.image_tokenizer and "
                     "train.decoder can run in several)")
  processes.start(these)

  def open_it():
    if not processes.first() and not (epath.Path(workdir) / "config.json").exists():
      raise ValueError(f"{workdir}: this process sees no config.json there, which the first has written; give a "
                       "--workdir on a file system or in a bucket that all processes see")
    return opened(workdir, config)
  return config, processes.in_turn(open_it)


@contextlib.contextmanager
def stoppable():
  """Ctrl-C inside ends the program with one line and 130."""
  try:
    yield
  except KeyboardInterrupt:
    _say("stopped; the same command goes on from here")
    raise SystemExit(130) from None


def _say(line: str) -> None:
  print(f"unitok: {line}", file=sys.stderr, flush=True)
