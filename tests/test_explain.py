"""`unitok explain`: what it prints is what the documents are, and the pages show just that."""
import json

import explained
import numpy as np
import pytest
import small_run
from PIL import Image

from unitok import cli, explain
from unitok.objectives import OBJECTIVES
from unitok.sequence import FOREVER
from unitok.templates import TEMPLATES


def said(capsys, *argv) -> str:
  assert cli.main(["explain", *argv]) == 0
  return capsys.readouterr().out


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective(name, capsys):
  """Line by line: the token, what it predicts where it carries loss, the three integers, its row of the mask."""
  codes, vocabulary, names = explain.example()
  document = explain.document(name, codes, vocabulary)
  lines = json.loads(said(capsys, "--objective", name, "--json"))["tokens"]
  assert len(lines) == document.length and tuple(lines[0]) == explain.COLUMNS
  for i, line in enumerate(lines):
    assert int(line["id"]) == document.inputs[i] and line["token"] == names(int(document.inputs[i]))
    assert line["predicts"] == (names(int(document.targets[i])) if document.loss_weights[i] else "")
    assert [int(line[axis]) for axis in ("time", "row", "col")] == document.positions[i].tolist()
    for j, see in enumerate(line["sees"]):
      until = int(lines[j]["until"] or FOREVER)
      assert (see == "x") == (int(lines[j]["order"]) <= int(line["order"]) <= until)
  text = said(capsys, "--objective", name)
  assert len(text.splitlines()) == document.length + 1 and lines[0]["token"] in text


@pytest.mark.parametrize("options, text", explained.shown(), ids=[options for options, _ in explained.shown()])
def test_the_pages_show_what_is_printed(options, text):
  assert text == explained.printed(options), "what is printed has changed; renew the pages: python -m tests.explained"


@pytest.mark.parametrize("wanted", [*(f"--objective {name}" for name in OBJECTIVES),
                                    *(f"--template {name}" for name in TEMPLATES)])
def test_the_pages_show_all(wanted):
  """Every objective with some seed, every template's usual form."""
  assert any(options.partition(" --seed")[0] == wanted for options, _ in explained.shown()), f"no page shows {wanted}"


def test_a_record_of_a_run(tmp_path_factory, capsys):
  folder = small_run.made(tmp_path_factory)
  text = said(capsys, "--objective", "image_to_text", "--model", str(folder), "--record", "3")
  assert "[image_to_text]" in text and "image " in text
  assert text != said(capsys, "--objective", "image_to_text", "--model", str(folder), "--record", "4")
  assert cli.main(["explain", "--objective", "text", "--model", str(folder), "--record", "9"]) == 2
  assert "--record 9: must be in 0 .. 8" in capsys.readouterr().err


def test_png(tmp_path, capsys):
  """A square a pair of tokens: hidden pairs are pale, rows with loss orange."""
  file = tmp_path / "mask.png"
  said(capsys, "--objective", "infill", "--png", str(file))
  document = explain.document("infill", *explain.example()[:2])
  pixels = np.asarray(Image.open(file))[7::14, 7::14]
  seen = explain.mask(document)
  assert pixels.shape[:2] == seen.shape and (pixels[~seen] == explain.HIDDEN).all()
  learned = document.loss_weights > 0
  assert (pixels[learned][seen[learned]] == explain.LEARNED).all() and (pixels[~learned][seen[~learned]] == explain.SEEN).all()


def test_bad_input(capsys):
  assert cli.main(["explain", "--objective", "nonsense"]) == 2
  assert "objective 'nonsense': there is none of that name; legal: text_to_image" in capsys.readouterr().err
  for argv in (("--objective", "text"), ("--template", "chameleon")):
    assert cli.main(["explain", *argv, "--record", "3"]) == 2
    assert "explain: --record 3 goes with --objective and --model" in capsys.readouterr().err
  codes, vocabulary, _ = explain.example()
  with pytest.raises(ValueError, match="objective 'question': the example lacks questions"):
    explain.document("question", codes._replace(questions=()), vocabulary)
