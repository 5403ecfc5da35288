"""The notebook runs top to bottom, with pictures in every section, and is committed without outputs."""
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
SHORT = {"TOKENIZER_STEPS": 8, "DECODER_STEPS": 4, "EXAMPLES": 64}
"""Values of the cell tagged "parameters" that make the run short."""


def read(path: Path):
  return nbformat.read(path, as_version=4)


def parameters(notebook):
  return next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_form(path):
  """Valid, no outputs, and every parameter that the test replaces is there once."""
  notebook = read(path)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if cell.cell_type == "code":
      assert not cell.outputs and cell.execution_count is None, f"{path.name}: has outputs; clear them"
      assert not re.search(r"^\s*[!%]", cell.source, re.M), f"{path.name}: shell and magic lines are out: {cell.source[:80]}"
  assert all(len(re.findall(rf"^{name} = ", parameters(notebook).source, re.M)) == 1 for name in (*SHORT, "WORKDIR"))


@pytest.fixture
def set_up(tmp_path, monkeypatch):
  """set_up(notebook, REPOSITORY) -> the programs that its first cell starts, outside a checkout and without the project."""
  started = []
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [*sys.path])
  monkeypatch.setitem(sys.modules, "train.pipeline", None)      # importing it is a ModuleNotFoundError
  monkeypatch.setattr(subprocess, "run", lambda words, check: started.append(words))

  def run(notebook, repository):
    started.clear()
    source = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    field = re.compile(r'^REPOSITORY = ""(?=  # @param \{type:"string"\}$)', re.M)
    assert len(field.findall(source)) == 1, "Colab shows it as a field to fill in"
    exec(compile(field.sub(f"REPOSITORY = {repository!r}", source), "set-up", "exec"), {})
    return started
  return run


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_set_up_outside_a_checkout(path, set_up, tmp_path, monkeypatch):
  """What is cloned and installed; a jax that is there is asked for in its own version."""
  with pytest.raises(ValueError, match="REPOSITORY is empty, and this notebook is in no checkout; give what to clone"):
    set_up(read(path), "")
  clone = ["git", "clone", "--depth", "1", "https://example.org/x.git", str(tmp_path / "unitok")]
  install = [sys.executable, "-m", "pip", "install", "--quiet", "-e", str(tmp_path / "unitok")]
  kept = [f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "jaxlib")]
  assert set_up(read(path), "https://example.org/x.git") == [clone, [*install, *kept]]
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert set_up(read(path), "https://example.org/x.git") == [clone, install]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_top_to_bottom(path, tmp_path):
  """Every cell without an error; every section with code but the set-up has a picture."""
  import nbclient
  notebook = read(path)
  cell = parameters(notebook)
  for name, value in {**SHORT, "WORKDIR": str(tmp_path / "run")}.items():
    cell.source = re.sub(rf"^{name} = .*$", lambda _: f"{name} = {value!r}", cell.source, flags=re.M)
  nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3",
                          resources={"metadata": {"path": str(path.parent)}}).execute()
  pictures, title = {}, ""
  for cell in notebook.cells:
    if cell.cell_type == "markdown":
      title = next((line for line in cell.source.splitlines() if line.startswith("## ")), title)
    elif title:
      pictures[title] = pictures.get(title, 0) + sum("image/png" in out.get("data", {}) for out in cell.outputs)
  devices = "".join(out.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs)
  assert "Device" in devices
  assert [title for title, count in pictures.items() if not count] == ["## Set-up"], pictures
