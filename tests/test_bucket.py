"""A run whose folder is in a bucket, on a stand-in: objects are written whole, and there is no end to write at.

The stand-in is a folder behind etils' gs:// and behind Orbax's arrays, so all of Orbax's own way of writing a bucket is
run (a file that says that a step is whole, no renaming). What it leaves out is Google's client itself.
"""
import json

import fsspec
import jax
import numpy as np
import pytest
import small_run
from etils import epath
from fsspec.implementations.local import LocalFileSystem
from orbax.checkpoint._src.path import gcs_utils

from unitok import files
from unitok.checkpoint import Checkpoints, load_meta
from unitok.data.shards import CodeShards
from unitok.metrics import JsonlWriter
from unitok.model import Model
from unitok.run import load_decoder


class Bucket(LocalFileSystem):
  """gs://NAME/… is ROOT/NAME/…; folders are where objects are."""
  protocol, cachable, root = ("gs", "gcs"), False, ""

  def __init__(self, **options):
    super().__init__(auto_mkdir=True)

  @classmethod
  def _strip_protocol(cls, path):
    path = fsspec.utils.stringify_path(path)
    return f"{cls.root}/{path[5:]}".rstrip("/") if path.startswith("gs://") else LocalFileSystem._strip_protocol(path)

  def _open(self, path, mode="rb", **options):
    assert "a" not in mode and "+" not in mode, "objects cannot be appended to"
    return super()._open(path, mode, **options)

  def glob(self, path, **options):
    return [name[len(self.root) + 1:] for name in super().glob(path, **options)]


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  monkeypatch.setattr(Bucket, "root", str(tmp_path / "bucket"))
  fsspec.register_implementation("gcs", Bucket, clobber=True)
  monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
  monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", lambda path: {
      "driver": "file", "path": Bucket._strip_protocol(path)})
  return tmp_path / "bucket" / "b"


@pytest.mark.slow
def test_a_run(bucket, tmp_path_factory):
  """All stages, to the same bits as in a folder; it goes on, and is used, from there."""
  run, here = small_run.make("gs://b/run"), small_run.made(tmp_path_factory)
  assert run.exists() and (bucket / "run" / "decoder" / "3").is_dir()
  for name in ("config.json", "vocab.json", "text_tokenizer/sentencepiece.model", "codes/train/manifest.json"):
    assert (bucket / "run" / name).read_bytes() == (here / name).read_bytes(), name
  lines = lambda folder: [{k: v for k, v in json.loads(line).items() if k != "examples_per_second"}
                          for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert lines(run) == lines(here) and len(lines(here)) == 7
  jax.tree.map(np.testing.assert_array_equal, load_decoder(run).params, load_decoder(here).params)
  picture = Model.open("gs://b/run").generate(["a red circle"], seed=1)
  np.testing.assert_array_equal(picture, Model.open(here).generate(["a red circle"], seed=1))
  assert (run / "report" / "samples" / "decoder_000003.png").exists()
  there, own = CodeShards(run / "codes" / "train"), CodeShards(here / "codes" / "train")
  assert len(there) == len(own) and all((there[n].image == own[n].image).all() for n in range(len(own)))
  small_run.make("gs://b/run")   # there is nothing left to do
  assert not [path for path in bucket.rglob("*") if path.name.endswith((".new", "tmp"))]


def test_checkpoints(bucket):
  """The newest stay; one that a kill left without the file that says it is whole is none."""
  from test_checkpoint import plain
  with Checkpoints("gs://b/c", 2) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, plain(float(step)), meta={"at": step})
  assert sorted(path.name for path in (bucket / "c").iterdir()) == ["2", "3"] and load_meta("gs://b/c") == ({"at": 3}, 3)
  next((bucket / "c" / "3").glob("commit_success*")).unlink()
  with Checkpoints("gs://b/c", 2) as checkpoints:
    assert checkpoints.latest() == 2 and checkpoints.restore_latest(plain()).state.params["w"][0] == 2
  with pytest.raises(ValueError, match="s3://b/c: checkpoints lie in a folder or in a bucket of gs://"):
    Checkpoints("s3://b/c", 2)


def test_metrics_and_files(bucket):
  writer = JsonlWriter("gs://b/m/metrics.jsonl", "decoder")
  for step in (1, 2, 3):
    writer.write(step, {"loss": step})
  writer.resume(1)
  writer.write(2, {"loss": 4.0})
  assert [json.loads(line)["loss"] for line in epath.Path("gs://b/m/metrics.jsonl").read_text().splitlines()] == [1, 4]
  files.write("gs://b/x/y.txt", b"one")
  files.write("gs://b/x/y.txt", b"two")
  assert [path.name for path in (bucket / "x").iterdir()] == ["y.txt"] and (bucket / "x" / "y.txt").read_bytes() == b"two"
  copy = files.local("gs://b/x/y.txt")
  assert open(copy, "rb").read() == b"two" and files.local("gs://b/x/y.txt") == copy and files.local(copy) == copy
