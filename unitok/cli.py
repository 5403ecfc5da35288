"""Draw, caption, fill in and continue with a trained model; look into a run's folder; check a data source."""
# The program: it parses, calls unitok.commands and prints. What needs jax is imported when a command runs.
import dataclasses
import io
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Annotated, Literal, Union

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, Suppress, arg, subcommand

from unitok import commands
from unitok import config as c
from unitok.errors import message

Files = Annotated[Positional[tuple[str, ...]], arg(metavar="PICTURE…", help_behavior_hint="")]
OWN = "(default: the run's for pictures, greedy for text)"
RUNS = "(default: the run's)"


@dataclass(frozen=True, kw_only=True)
class Command:
  json: bool = False
  """Print one JSON object on stdout, for machines."""
  debug: bool = False
  """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class Drawing(Command):
  model: Annotated[str, arg(metavar="DIR")]
  """Folder of a run (the --workdir of its training)."""
  seed: int = 0
  """The same seed draws the same."""
  temperature: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=OWN)] = None
  """Below 1 plays safe, 0 takes the most likely."""
  top_k: Annotated[int | None, arg(metavar="INT", help_behavior_hint=OWN)] = None
  """Draw from the k most likely; 0 from all."""
  top_p: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=OWN)] = None
  """Draw from the most likely that make up this share."""
  min_p: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=OWN)] = None
  """Draw from those at least this times as likely as the likeliest; 0 from all."""
  repetition_penalty: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=OWN)] = None
  """Above 1 what was drawn before comes less likely again; 1 is plain sampling."""
  guidance_scale: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=OWN)] = None
  """How much a picture keeps to its prompt; 1 is plain sampling (text takes no other)."""
  strategy: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=OWN)] = None
  """sequential: code by code; jacobi: the same sample in fewer passes; groups, maskgit: see --passes; rows: several rows of
  a picture at once."""
  window: Annotated[int | None, arg(metavar="INT", help_behavior_hint=OWN)] = None
  """Codes that jacobi computes in a pass; 0: 16."""
  batch_size: int = 64
  """Drawn side by side."""
  int8: bool = False
  """Compute with the decoder's matrices in int8: faster, a quarter of the memory, near the same."""
  int8_cache: bool = False
  """Keep keys and values in int8: a quarter of their memory, near the same."""


@dataclass(frozen=True, kw_only=True)
class Picturing(Drawing):
  passes: Annotated[int | None, arg(metavar="INT", help_behavior_hint=RUNS)] = None
  """Draw in so many passes, by groups of codes or, as maskgit, by how sure the model is of them (one trained on the
  objective parallel); 0: code by code."""
  group_sizes: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=RUNS)] = None
  """cosine: small groups first; uniform."""
  group_order: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=RUNS)] = None
  """random, raster, halton, locality."""
  choice_temperature: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=RUNS)] = None
  """Chance in which codes maskgit keeps; 0 keeps those it is surest of."""
  row_window: Annotated[int | None, arg(metavar="INT", help_behavior_hint=RUNS)] = None
  """Places of the row above, from the one above on, that rows waits for; 0: half a row, or of a hole's width."""
  guidance_schedule: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=RUNS)] = None
  """constant; linear, cosine: guidance grows from 1 while a picture is drawn."""
  guidance_interval: Annotated[tuple[float, float] | None, arg(metavar="FROM TO", help_behavior_hint=RUNS)] = None
  """Shares of the drawing between which there is guidance, e.g. 0.2 1."""
  guesses: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=RUNS)] = None
  """above, left: the code that jacobi first takes for one that it has not drawn."""
  text_attention: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=RUNS)] = None
  """Added to the attention that the prompt gets (CogView2: 1.4); 0 is plain sampling."""


@dataclass(frozen=True, kw_only=True)
class Generate(Picturing):
  """Draw a picture for each prompt."""
  samples: int = 1
  """Pictures of each prompt, those first that make the prompt the likeliest as their caption."""
  size: Annotated[tuple[int, int] | None, arg(metavar="H W", help_behavior_hint="(default: the run's square)")] = None
  """Height and width of the pictures in pixels."""
  enlarge: bool = False
  """Draw each picture again at twice its sides (a model trained on the objective refine)."""
  texts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT…", help_behavior_hint="")] = ()
  """Prompts; "" draws whatever the model likes."""
  prompts: Annotated[str, arg(metavar="FILE")] = ""
  """File with a prompt on each line."""
  out: Annotated[str, arg(metavar="DIR")] = "drawn"
  """Where the PNG files go; several also come as one grid.png."""


@dataclass(frozen=True, kw_only=True)
class Caption(Drawing):
  """Say what is in each picture."""
  pictures: Files = ()
  """Picture files."""
  limit: int = 64
  """Longest caption, text tokens."""


@dataclass(frozen=True, kw_only=True)
class Answer(Drawing):
  """Answer a question about each picture."""
  question: Annotated[str, arg(metavar="TEXT")]
  """The question."""
  pictures: Files = ()
  """Picture files."""
  limit: int = 64
  """Longest answer, text tokens."""


@dataclass(frozen=True, kw_only=True)
class Detect(Drawing):
  """Name the objects of each picture, with their boxes: x0 y0 x1 y1 as shares of the sides, (0, 0) at the top left."""
  pictures: Files = ()
  """Picture files; a box is that of the square the run's config makes of one."""
  limit: int = 16
  """Most objects of a picture."""
  name_limit: int = 8
  """Longest name, text tokens."""


@dataclass(frozen=True, kw_only=True)
class Filling(Picturing):
  image_guidance_scale: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=RUNS)] = None
  """How much a hole keeps to the picture around it, apart from the prompt; 1 is plain sampling."""
  pictures: Files = ()
  """Picture files."""
  prompt: str = ""
  """Caption of the whole picture."""
  out: Annotated[str, arg(metavar="DIR")] = "drawn"
  """Where the PNG files go; several also come as one grid.png."""


@dataclass(frozen=True, kw_only=True)
class Infill(Filling):
  """Draw a part of each picture anew."""
  mask: Annotated[str, arg(metavar="PNG|x,y,w,h")]
  """What is drawn anew: the white part of a picture of the same size, or a box in the picture's pixels."""
  keep_original: bool = True
  """Outside the mask the picture keeps its own pixels; otherwise it is what its codes decode to."""
  out: Annotated[str, arg(metavar="DIR")] = "drawn"
  """Where STEM_filled.png goes, and for several grid.png: original, masked, filled in each row."""


@dataclass(frozen=True, kw_only=True)
class Extend(Filling):
  """Draw each picture on past its sides, by windows of the size that the model learned from."""
  top: Annotated[int, arg(metavar="PIXELS")] = 0
  """How far above, a multiple of the model's pixels a code."""
  right: Annotated[int, arg(metavar="PIXELS")] = 0
  """How far to the right."""
  bottom: Annotated[int, arg(metavar="PIXELS")] = 0
  """How far below."""
  left: Annotated[int, arg(metavar="PIXELS")] = 0
  """How far to the left."""
  own_size: bool = False
  """Take pictures at their own size, cut to whole codes, instead of as the run's squares."""
  whole: bool = False
  """Draw the larger picture at once, on a grid that the model may never have seen, instead of by windows."""
  keep_original: bool = True
  """The picture keeps its own pixels; otherwise it is what its codes decode to."""
  out: Annotated[str, arg(metavar="DIR")] = "drawn"
  """Where STEM_extended.png goes, and for several squares grid.png."""


@dataclass(frozen=True, kw_only=True)
class Enlarge(Filling):
  """Draw each picture again at twice its sides, by windows, by groups of codes or maskgit, in 8 passes unless --passes says (a
  model trained on the objective refine)."""
  own_size: bool = False
  """Take pictures at their own size, cut to whole codes, instead of as the run's squares."""
  out: Annotated[str, arg(metavar="DIR")] = "drawn"
  """Where STEM_enlarged.png goes, and for several squares grid.png."""


@dataclass(frozen=True, kw_only=True)
class Vary(Filling):
  """Draw each picture again with some of its codes kept."""
  share: float = 0.5
  """Share of the codes that is drawn anew: 0 leaves the reconstruction, 1 draws a new picture."""
  anew: Annotated[str, arg(metavar="NAME")] = "random"
  """Which codes: random, or unlikely: those that the model would have expected least."""
  samples: int = 1
  """Variations of each picture."""
  out: Annotated[str, arg(metavar="DIR")] = "drawn"
  """Where STEM_varied.png goes, and for several grid.png: original and variations in each row."""


@dataclass(frozen=True, kw_only=True)
class Complete(Drawing):
  """Continue each text."""
  texts: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT…", help_behavior_hint="")] = ()
  """Beginnings."""
  limit: int = 64
  """Longest continuation, text tokens."""


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Command):
  """Show what the image tokenizer keeps of each picture."""
  model: Annotated[str, arg(metavar="DIR")]
  """Folder of a run."""
  pictures: Files = ()
  """Picture files."""
  tile: int = 0
  """Take pictures at their own size, cut to whole codes, through the tokenizer by overlapping tiles of so many pixels;
  0: as the run's squares."""
  out: Annotated[str, arg(metavar="DIR")] = "drawn"
  """Where STEM_reconstructed.png goes, and for several squares grid.png: original, reconstruction in each row."""


@dataclass(frozen=True, kw_only=True)
class Info(Command):
  """Tell what a run's folder holds."""
  folder: Annotated[Positional[str], arg(metavar="DIR")]
  """Folder of a run."""


@dataclass(frozen=True, kw_only=True)
class Plan(Command):
  """Tell what a config's training would cost: parameters, FLOPs of products and convolutions, bytes; with --mesh on so
  many devices, with --chip in how much time."""
  config: Annotated[str, arg(metavar="FILE")]
  """Config file."""
  mesh: Annotated[str, arg(metavar="AXIS=NUMBER,…")] = ""
  """Devices that the stage's step is compiled for, e.g. data=8,fsdp=32,tensor=4; needs none of them."""
  chip: Annotated[str, arg(metavar="NAME")] = ""
  """v5e, v5p, v6e, a100, h100 or h200: time, share of its peak, and the largest batch that fits."""
  stage: Literal["decoder", "image_tokenizer"] = "decoder"
  """Which of them is planned on --mesh and --chip."""
  tokens: float = 0.0
  """Tokens of the decoder's training, e.g. 1e12; 0: the config's steps."""


@dataclass(frozen=True, kw_only=True)
class Explain(Command):
  """Show a document of an objective or of a published system: its tokens, what each predicts and may see."""
  objective: Annotated[str, arg(metavar="NAME")] = ""
  """Of unitok/objectives, e.g. text_to_image."""
  template: Annotated[str, arg(metavar="NAME")] = ""
  """Of unitok/templates, e.g. chameleon: a small example over that system's vocabulary."""
  form: Annotated[str, arg(metavar="NAME", help_behavior_hint="(default: the template's first)")] = ""
  """Which of the template's documents, e.g. image_to_text."""
  model: Annotated[str, arg(metavar="DIR")] = ""
  """Folder of a run, for one of its own records; else a small example."""
  record: int = 0
  """Number of the run's record, of its validation split."""
  seed: int = 0
  """Of what the objective or form leaves to chance."""
  png: Annotated[str, arg(metavar="FILE")] = ""
  """Draw the mask there."""


@dataclass(frozen=True, kw_only=True)
class Validate(Command):
  """List every bad record of a data source: unitok validate FOLDER… or --config FILE, and any --data.FIELD VALUE."""
  sources: Annotated[Positional[tuple[str, ...]], arg(metavar="FOLDER…", help_behavior_hint="")] = ()
  """Folders of pictures."""
  config: Annotated[str, arg(metavar="FILE")] = ""
  """Config file whose source is read."""
  fields: Suppress[tuple[str, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class Import(Command):
  """Make a run's folder of a published checkpoint: unitok import FAMILY PATH --out DIR."""
  family: Annotated[Positional[str], arg(metavar="FAMILY")]
  """llamagen, janus or taming: whose VQGAN it is."""
  path: Annotated[Positional[str], arg(metavar="PATH")]
  """Its safetensors file."""
  what: Literal["image-tokenizer"] = "image-tokenizer"
  """What is in the file."""
  out: Annotated[str, arg(metavar="DIR")]
  """The new folder, for `--init.from` and `unitok reconstruct`."""


COMMANDS: dict[type[Command], Callable[..., commands.Said]] = {
    Generate: commands.generate,
    Caption: commands.caption,
    Answer: commands.answer,
    Detect: commands.detect,
    Infill: commands.infill,
    Extend: commands.extend,
    Enlarge: commands.enlarge,
    Vary: commands.vary,
    Complete: commands.complete,
    Reconstruct: commands.reconstruct,
    Info: commands.info,
    Plan: commands.plan,
    Explain: commands.explain,
    Validate: commands.validate,
    Import: commands.bring,
}


def parse(argv: list[str]) -> Command:
  """The command and its options. ValueError for what cannot be understood; SystemExit(0) after --help."""
  argv, fields = _data_fields(argv) if argv[:1] == ["validate"] else (argv, ())
  kinds = tuple(Annotated[cls, subcommand(cls.__name__.lower())] for cls in COMMANDS)
  stderr = io.StringIO()
  try:
    with redirect_stderr(stderr):
      command = tyro.cli(Union[kinds], args=argv or ["--help"], prog="unitok", description=__doc__.splitlines()[0],
                         config=(FlagCreatePairsOff,))
  except SystemExit as stop:
    if not stop.code:
      raise
    raise ValueError(_told(stderr.getvalue())) from None
  return dataclasses.replace(command, fields=fields) if fields else command


def _told(box: str) -> str:
  """tyro's box of an error as one line: what is wrong, and where the options are listed."""
  lines = [" ".join(re.sub(r"[^\x20-\x7e]", " ", line).split()) for line in box.splitlines()]
  lines = [line for line in lines if line.strip("-")][1:]      # without rules and the title
  said, hint = [], ""
  for n, line in enumerate(lines):
    if line.startswith("Perhaps you meant"):
      hint = f"; did you mean {lines[n + 1].split()[0]}?" if n + 1 < len(lines) else ""
    if line.startswith(("Argument helptext", "Perhaps you meant", "For full helptext", "Subcommands",
                        "Available subcommands")):
      break
    said.append(line)
  where = re.search(r"unitok [a-z]* ?--help", " ".join(lines))
  text = " ".join(said).replace(" (required)", "").rstrip(".")
  hint = hint or f"; {where[0] if where else 'unitok --help'} lists what there is"
  return f"{text[:1].lower()}{text[1:]}{hint}"


def _data_fields(argv: list[str]) -> tuple[list[str], tuple[str, ...]]:
  """validate's words without and with --data.FIELD and its values; a tuple's are all words up to the next option."""
  several = {name for cls in c.DATA.values() for name, value in c.flat(cls()) if isinstance(value, tuple)}
  rest, fields, words = [], [], list(argv)
  while words:
    word = words.pop(0)
    if not word.startswith("--data."):
      rest.append(word)
      continue
    fields.append(word)
    if "=" in word:
      continue
    many = word.removeprefix("--data.").replace("-", "_") in several
    while words and not words[0].startswith("--"):
      fields.append(words.pop(0))
      if not many:
        break
  return rest, tuple(fields)


def show(o: Command, said: commands.Said) -> None:
  """One JSON object, or a table on a terminal, or plain lines."""
  if o.json:
    print(json.dumps(said.data))
    return
  if not sys.stdout.isatty():
    for line in said.lines:
      print(line)
    return
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text
  console, table = Console(), Table(show_header=any(said.columns), box=None, header_style="bold", padding=(0, 2, 0, 0))
  for name in said.columns:
    table.add_column(name, overflow="fold")
  for row in said.rows:
    table.add_row(*(Text(str(cell)) for cell in row))
  if said.rows:
    console.print(table)
  for note in said.notes:
    console.print(Text(note))


@contextmanager
def waiting(o: Command):
  """A sign of life on a terminal while a command runs, and how much of what it draws is there."""
  if not sys.stderr.isatty():
    yield
    return
  from rich.console import Console
  name = type(o).__name__.lower()
  with Console(stderr=True).status(f"{name} …") as status:
    before = commands.TELL.set(lambda first, share: status.update(f"{name} … {first + 1}: {share:.0%}"))
    try:
      yield
    finally:
      commands.TELL.reset(before)


def main(argv: list[str] | None = None) -> int:
  """0; 1 where validate found bad records; 2 after an error, told in one line; 130 for Ctrl-C."""
  argv = sys.argv[1:] if argv is None else list(argv)
  try:
    o = parse(argv)
    with waiting(o):
      said = COMMANDS[type(o)](o)
    show(o, said)
    sys.stdout.flush()
    return said.code
  except KeyboardInterrupt:
    print("unitok: stopped", file=sys.stderr)
    return 130
  except BrokenPipeError:      # the reader has enough, as `head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except (ValueError, OSError, ImportError) as error:
    if "--debug" in argv:
      raise
    print(f"unitok: {message(error)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
  sys.exit(main())
