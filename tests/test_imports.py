"""Who may import whom: the table of the architecture, held by reading every file's imports."""
import ast
import functools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.relative_to(ROOT).as_posix() for folder in ("unitok", "train", "configs")
               for path in (ROOT / folder).rglob("*.py"))

CORE = ("models", "losses", "optim", "sharding", "steps")
SEQUENCES = ("vocab", "sequence", "objectives")
ALL = ("config", "errors", "files", *SEQUENCES, "modalities", "data", *CORE, "checkpoint", "metrics", "run", "sampling",
       "model", "evaluation", "interop", "explain", "templates", "plan")

# Part of unitok (a module or a folder), or top-level folder -> the parts it may import besides itself.
# config is data and may be read by every part but vocab and sequence.
MAY_IMPORT = {
    "unitok": (),                       # unitok/__init__.py
    "config": (),
    "errors": (),
    "files": (),
    "vocab": (),
    "sequence": ("vocab",),
    "objectives": ("config", "vocab", "sequence"),
    "templates": ("vocab", "sequence", "objectives"),
    "modalities": ("config", "files", "vocab"),
    **{name: ("config", "metrics", *CORE) for name in CORE},
    "checkpoint": ("config", "files", "vocab"),
    "metrics": ("config", "files", "vocab"),
    "data": ("config", "files", *SEQUENCES, "modalities"),
    "sampling": ("config", *SEQUENCES, *CORE),
    "explain": ("config", *SEQUENCES, "templates"),
    "interop": ("config", "files", "vocab", *CORE, "checkpoint"),
    "run": ("config", "vocab", "modalities", *CORE, "checkpoint"),
    "model": tuple(name for name in ALL if name != "evaluation"),
    "evaluation": ("config", *SEQUENCES, *CORE, "metrics", "sampling", "modalities", "data", "run", "model"),
    "plan": ("config", *SEQUENCES, *CORE, "run"),
    "commands": ALL,
    "cli": (*ALL, "commands"),
    "train": ALL,
    "configs": ("config",),
}

# What may not be reached from a part even in several steps.
MAY_NOT_REACH = {name: ("data", "vocab", "modalities") for name in CORE}

# Parts without jax, so that data workers and `unitok --help` start fast; files exempt with the reason.
WITHOUT_JAX = ("unitok", "config", "errors", "files", "vocab", "sequence", "objectives", "modalities", "data",
               "explain", "templates")
USES_JAX = {
    "unitok/data/pipeline.py": "grain imports jax",
    "unitok/data/shards.py": "it encodes with the tokenizer",
}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "grain"}

# Packages from outside that a part may use; a part that is not here may use all that pyproject.toml declares.
PACKAGES = {
    "config": {"tyro"},
    "errors": set(),
    "files": {"etils"},
    "vocab": {"numpy", "etils"},
    "sequence": {"numpy"},
    "objectives": {"numpy"},
    "templates": {"numpy"},
    **{name: {"jax", "flax", "optax", "einops", "numpy"} for name in CORE},
    "configs": set(),
}
FORBIDDEN = {"pickle": "JSON, safetensors or Orbax", "dill": "JSON, safetensors or Orbax", "argparse": "tyro",
             "cloudpickle": "JSON, safetensors or Orbax", "shelve": "JSON"}
PROVIDES = {"PIL": "pillow", "etils": "etils", "orbax": "orbax-checkpoint", "tensorflow": "tensorflow-cpu"}


def part_of(file: str) -> str:
  """"unitok/data/record.py" -> "data"; "unitok/config.py" -> "config"; "train/loop.py" -> "train"."""
  top, *rest = file.removesuffix(".py").split("/")
  return top if top != "unitok" or rest == ["__init__"] else rest[0]


@functools.cache
def imports(file: str) -> tuple[tuple[str, int], ...]:
  """(dotted module, line) of every import, those inside functions too; relative ones resolved.

  `from unitok import config` gives "unitok.config", `from unitok.data import pictures` "unitok.data.pictures".
  """
  found = []
  package = file.split("/")[:-1]
  for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"), file)):
    if isinstance(node, ast.Import):
      found += [(alias.name, node.lineno) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = package[:len(package) - node.level + 1] if node.level else []
      name = ".".join([*base, *([node.module] if node.module else [])])
      found += [(f"{name}.{alias.name}", node.lineno) for alias in node.names]
  return tuple(found)


def own_parts(file: str) -> list[tuple[str, int]]:
  """(part, line) of the imports of this project. An import of unitok alone is the part "unitok"."""
  parts = []
  for name, line in imports(file):
    top, _, rest = name.partition(".")
    if top in ("train", "configs", "tests"):
      parts.append((top, line))
    elif top == "unitok":
      second = rest.split(".")[0]
      known = (ROOT / "unitok" / f"{second}.py").is_file() or (ROOT / "unitok" / second).is_dir()
      parts.append((second if second and known else "unitok", line))
  return parts


def outside(file: str) -> list[tuple[str, int]]:
  """(package, line) of the imports that are neither this project's nor the standard library's."""
  own = {"unitok", "train", "configs", "tests"}
  return [(top, line) for name, line in imports(file)
          if (top := name.split(".")[0]) not in own | set(sys.stdlib_module_names) | {"__future__"}]


def reached(start: str) -> set[str]:
  """Every part that `start` imports, directly or through others."""
  edges: dict[str, set[str]] = {}
  for file in FILES:
    edges.setdefault(part_of(file), set()).update(part for part, _ in own_parts(file))
  seen, todo = set(), [start]
  while todo:
    for part in edges.get(todo.pop(), set()) - seen:
      seen.add(part)
      todo.append(part)
  return seen


@pytest.mark.parametrize("file", FILES)
def test_direction(file):
  part = part_of(file)
  assert part in MAY_IMPORT, f"{file}: no place in the table; add {part!r} to MAY_IMPORT with what it may import"
  legal = {part, "unitok", *MAY_IMPORT[part]}
  wrong = [f"{file}:{line} imports {other}" for other, line in own_parts(file) if other not in legal]
  assert not wrong, f"{'; '.join(wrong)}. {part} may import: {', '.join(MAY_IMPORT[part]) or 'nothing of unitok'}"


@pytest.mark.parametrize("part", MAY_NOT_REACH)
def test_reach(part):
  assert not reached(part) & set(MAY_NOT_REACH[part])


@pytest.mark.parametrize("file", [f for f in FILES if part_of(f) in WITHOUT_JAX and f not in USES_JAX])
def test_without_jax(file):
  wrong = [f"{file}:{line} imports {name}" for name, line in outside(file) if name in JAX]
  assert not wrong, f"{'; '.join(wrong)}; data workers start without jax"


def test_starts_without_jax():
  """The parts without jax, and the command line, imported for real."""
  modules = [file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in FILES
             if part_of(file) in (*WITHOUT_JAX, "commands", "cli") and file not in USES_JAX]
  program = f"""
import importlib, sys
for name in {modules}:
  importlib.import_module(name)
  found = set({sorted(JAX)}) & set(sys.modules)
  if found:
    sys.exit(f"{{name}} imports {{', '.join(sorted(found))}}")
"""
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("file", FILES)
def test_packages(file):
  """Packages from outside: those of the part's own list, and only what pyproject.toml declares."""
  project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
  declared = {name_of(item) for items in (project["dependencies"], *project["optional-dependencies"].values())
              for item in items}
  allowed = PACKAGES.get(part_of(file))
  for name, line in outside(file):
    assert allowed is None or name in allowed, f"{file}:{line} imports {name}; allowed here: {sorted(allowed)}"
    distribution = PROVIDES.get(name, name).replace("_", "-").lower()
    assert distribution in declared, f"{file}:{line} imports {name}, which pyproject.toml does not declare"


def name_of(requirement: str) -> str:
  """"etils[epath]>=1.13,<2" -> "etils"."""
  end = next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), len(requirement))
  return requirement[:end].replace("_", "-").lower()


@pytest.mark.parametrize("file", FILES)
def test_forbidden(file):
  """No pickle, no argparse, no eval or exec, no shell strings."""
  for name, line in imports(file):
    top = name.split(".")[0]
    assert top not in FORBIDDEN, f"{file}:{line} imports {top}; use {FORBIDDEN[top]}"
  for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"), file)):
    if isinstance(node, ast.Call):
      called = ast.unparse(node.func)
      assert called not in ("eval", "exec", "os.system", "os.popen"), f"{file}:{node.lineno} calls {called}"
      assert not any(k.arg in ("shell", "allow_pickle") and ast.unparse(k.value) != "False" for k in node.keywords), \
          f"{file}:{node.lineno}: shell or allow_pickle"


def test_the_check_can_fail(tmp_path, monkeypatch):
  """Both forms of import, relative ones and those inside functions are seen."""
  folder = tmp_path / "unitok" / "models"
  folder.mkdir(parents=True)
  for name in ("vocab", "data"):
    (tmp_path / "unitok" / f"{name}.py").write_text("")
  (folder / "bad.py").write_text(
      "from unitok import vocab\nimport unitok.data\ndef f():\n  from ..vocab import Block\n  import pickle\n")
  monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
  imports.cache_clear()
  assert [part for part, _ in own_parts("unitok/models/bad.py")] == ["vocab", "data", "vocab"]
  with pytest.raises(AssertionError, match="unitok/models/bad.py:1 imports vocab"):
    test_direction("unitok/models/bad.py")
  with pytest.raises(AssertionError, match="bad.py:5 imports pickle"):
    test_forbidden("unitok/models/bad.py")
  imports.cache_clear()
