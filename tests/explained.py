"""What the pages show of `unitok explain`. To renew their blocks:

    python -m tests.explained
"""
import contextlib
import io
import re
from pathlib import Path

from unitok import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "unitok/objectives/README.md", "unitok/templates/README.md")]
BLOCK = re.compile(r"(?<=^```\n)\$ unitok explain (.*)\n((?:.*\n)*?)(?=```$)", re.M)


def printed(options: str) -> str:
  """What `unitok explain` prints with these options."""
  with contextlib.redirect_stdout(io.StringIO()) as out:
    if cli.main(["explain", *options.split()]):
      raise ValueError(f"unitok explain {options}: it fails; mend the page's command")
  return out.getvalue()


def shown() -> list[tuple[str, str]]:
  """(options, output) of every block of the pages."""
  return [block for page in PAGES for block in BLOCK.findall(page.read_text())]


def renew():
  for page in PAGES:
    page.write_text(BLOCK.sub(lambda block: f"$ unitok explain {block[1]}\n{printed(block[1])}", page.read_text()))


if __name__ == "__main__":
  renew()
