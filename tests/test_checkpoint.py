"""Save at k, restore, go on = uninterrupted; parts alone; refusals in one line."""
import dataclasses
import errno
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.image_tokenizer import Pictures, frozen_part
from unitok import checkpoint
from unitok import config as c
from unitok.checkpoint import Checkpoints, load_meta, load_part, read_config
from unitok.data.record import Record
from unitok.optim import optimizer
from unitok.run import check_vocabulary, fingerprint_of, image_modality, in_batches, load_image_tokenizer
from unitok.sharding import check_batch, create, make_mesh, over_slices, place_batch, rows_here, specs
from unitok.steps import Tokenizer, TrainState, tokenizer_state, tokenizer_step
from unitok.vocab import make_vocabulary

TRAIN = c.Train(steps=8, batch_size=4, warmup_steps=2)


def options(kind="l2", **changes) -> c.ImageTokenizer:
  quantizer = c.Quantizer(kind=kind, codebook_size=16, code_dim=4, levels=(4, 4), revive_every=2)
  return c.ImageTokenizer(**{"widths": (8,), "blocks": (1,), "patch": 4, "quantizer": quantizer, "train": TRAIN, **changes})


class Source:
  """Ten pictures of noise."""

  def __len__(self):
    return 10

  def __getitem__(self, index):
    return Record(str(index), np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8), ())


@functools.cache
def programs(kind, patterns):
  """(new state, jitted step)."""
  tokenizer = Tokenizer(options(kind))
  frozen, _ = frozen_part(patterns, jax.eval_shape(tokenizer.init, jax.random.key(0))[0], "image_tokenizer")
  tx = optimizer(TRAIN, frozen)
  return (functools.partial(tokenizer_state, tokenizer, tx),
          jax.jit(lambda s, x: tokenizer_step(tokenizer, tx, s, x, jax.random.key(1)), donate_argnums=0))


def training(kind="l2", patterns=()):
  """(fresh state, jitted step, batches)."""
  new, step = programs(kind, patterns)
  return create(new, make_mesh(), jax.random.key(0)), step, Pictures(Source(), 8, 4, seed=3)


def same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind, patterns", [("l2", ()), ("ema", ()), ("fsq", ("image_tokenizer/encoder",))])
def test_resumed_is_uninterrupted(tmp_path, kind, patterns):
  """Bit for bit: weights, moments, averages, codebook and batches. Training goes on while the checkpoint is written."""
  state, step, batches = training(kind, patterns)
  seen = []
  with Checkpoints(tmp_path / "c", 2) as checkpoints:
    for n in range(8):
      if n == 3:
        checkpoints.save(n, state, batches, {"note": "three"})
      seen.append(next(batches))
      state, _ = step(state, seen[-1])
  batches.close()
  fresh, step, batches = training(kind, patterns)
  next(batches)
  with Checkpoints(tmp_path / "c", 2) as checkpoints:
    restored = checkpoints.restore_latest(fresh, batches)
  assert restored.step == 3 and restored.meta == {"note": "three"} and int(restored.state.step) == 3
  again = restored.state
  for n in range(3, 8):
    batch = next(batches)
    np.testing.assert_array_equal(batch, seen[n])
    again, _ = step(again, batch)
  batches.close()
  same(again, state)


def plain(value: float = 1.0, width: int = 3) -> TrainState:
  return TrainState(jnp.zeros((), jnp.int32), {"w": jnp.full(width, value)}, {"m": jnp.zeros(width)},
                    {"average": {"w": jnp.full(width, -value)}})


def test_keeps_the_last(tmp_path):
  with Checkpoints(tmp_path, 2) as checkpoints:
    assert checkpoints.latest() is None and checkpoints.restore_latest(plain()) is None
    for step in (1, 2, 3):
      checkpoints.save(step, plain(float(step)))
    checkpoints.wait()
    assert checkpoints.latest() == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]
    checkpoints.save(3, plain(9.0))
    assert checkpoints.restore_latest(plain()).state.params["w"][0] == 3


def test_keeps_some_for_ever(tmp_path):
  for start, end in ((1, 8), (8, 13)):   # a run that goes on keeps them, too
    with Checkpoints(tmp_path, 2, keep_every=5) as checkpoints:
      for step in range(start, end):
        checkpoints.save(step, plain(float(step)))
  assert sorted(int(p.name) for p in tmp_path.iterdir()) == [5, 10, 11, 12]
  with pytest.raises(ValueError, match="train.keep_every: -1 0 or more"):
    Checkpoints(tmp_path, 2, -1)


def test_positions_of_several_processes(tmp_path):
  """What several wrote is read together, whoever reads it; where one's is missing, that is told."""
  with Checkpoints(tmp_path, 2) as checkpoints:
    checkpoints.save(1, plain(), type("Batches", (), {"get_state": lambda self: {"0": 3}})(), {"a": 1})
  for name in ("data", "meta"):
    folder = tmp_path / "1" / name
    (folder / "process_0_of_1.json").rename(folder / "process_0_of_2.json")
    (folder / "process_1_of_2.json").write_text('{"1": 4}' if name == "data" else '{"a": 1}')
  set_to, batches = [], type("Batches", (), {"set_state": lambda self, state: set_to.append(state)})()
  with Checkpoints(tmp_path, 2) as checkpoints:
    assert checkpoints.restore_latest(plain(), batches).meta == {"a": 1} and set_to == [{"0": 3, "1": 4}]
  assert load_meta(tmp_path) == ({"a": 1}, 1)
  (tmp_path / "1" / "data" / "process_0_of_2.json").unlink()
  with Checkpoints(tmp_path, 2) as checkpoints, pytest.raises(ValueError, match="lacks what some of its processes wrote"):
    checkpoints.restore_latest(plain(), batches)


def test_pictures_of_some_rows():
  """Those of the whole batch, at any position."""
  whole, some = Pictures(Source(), 8, 4, seed=3), Pictures(Source(), 8, 4, seed=3, rows=np.array([1, 3]))
  for _ in range(4):
    np.testing.assert_array_equal(next(whole)[[1, 3]], next(some))
  assert whole.get_state() == some.get_state() and rows_here(make_mesh(), 8).tolist() == list(range(8))
  whole.close(), some.close()


@pytest.mark.parametrize("error, what, remedy", [
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full, a checkpoint takes 0.03 GB", "make room"),
    (RuntimeError("write: Disk quota exceeded [122]"), "the disk is full, a checkpoint takes 0.03 GB", "make room"),
    (PermissionError(errno.EACCES, "Permission denied"), r"\[Errno 13\] Permission denied", "check the folder and its rights")])
@pytest.mark.parametrize("before", [None, 3])
@pytest.mark.parametrize("then", ["wait", "save", "close"])
def test_cannot_be_written(tmp_path, monkeypatch, capfd, error, what, remedy, before, then):
  """One line, and nothing else on the screen, at the next call: what is whole is named, not what has just failed."""
  checkpoints = Checkpoints(tmp_path, 2)
  if before:
    checkpoints.save(before, plain())
    checkpoints.wait()

  def fail():
    raise error
  monkeypatch.setattr(checkpoint, "_json_name", fail)
  checkpoints.save(6, plain(2.0, 2_500_000))
  kept, again = f"step {before} is whole" if before else "none was written yet", plain(3.0, 2_500_000)
  with pytest.raises(ValueError, match=f"^checkpoint {tmp_path}: could not be written, {what}; {kept}; {remedy} and run again$"):
    {"wait": checkpoints.wait, "save": lambda: checkpoints.save(9, again), "close": checkpoints.close}[then]()
  assert "Traceback" not in capfd.readouterr().err


def test_a_part_without_the_optimizer(tmp_path):
  with Checkpoints(tmp_path, 2) as checkpoints:
    checkpoints.save(5, plain(2.0), meta={"vocabulary": "abc"})
  part, step, meta = load_part(tmp_path, "extra", {"average": {"w": jax.ShapeDtypeStruct((3,), jnp.float32)}})
  assert step == 5 and meta == {"vocabulary": "abc"} and part["average"]["w"].tolist() == [-2.0] * 3
  assert load_meta(tmp_path) == ({"vocabulary": "abc"}, 5)


def test_an_unfinished_one_is_none(tmp_path):
  """What a kill left half written is not taken for a checkpoint."""
  with Checkpoints(tmp_path, 2) as checkpoints:
    checkpoints.save(1, plain())
  (tmp_path / "1").rename(tmp_path / "1.orbax-checkpoint-tmp")
  with Checkpoints(tmp_path, 2) as checkpoints:
    assert checkpoints.latest() is None


def test_refuses_other_shapes(tmp_path):
  with Checkpoints(tmp_path, 2) as checkpoints:
    checkpoints.save(5, plain())
    checkpoints.wait()
    with pytest.raises(ValueError, match=r"/5: params/w is float32\[3\] there, float32\[4\] by this run's config; use") as told:
      checkpoints.restore_latest(plain(width=4))
  assert "\n" not in str(told.value)
  with pytest.raises(ValueError, match="extra/average/b is absent there"):
    load_part(tmp_path, "extra", {"average": {"w": jnp.zeros(3), "b": jnp.zeros(3)}})


def test_refuses_where_there_is_none(tmp_path):
  with pytest.raises(ValueError, match="no such folder; train this stage first"):
    load_part(tmp_path / "none", "extra", {})
  with pytest.raises(ValueError, match="holds no checkpoint"):
    load_part(tmp_path, "extra", {})
  with pytest.raises(ValueError, match="is no run's folder"):
    read_config(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"data": 3}', '{"data": {"source": "scenes"}, "decoder": 3}',
                                     '{"data": {"source": "scenes"}, "decoder": []}', '{"data": {"source": "scenes"}, "nix": 3}',
                                     '{"data": {"source": "scenes", "image_size": "32"}}'])
def test_refuses_what_is_no_config(tmp_path, content):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(ValueError, match="config.json: is not a run's config .*; restore it or train anew"):
    read_config(tmp_path)


def test_refuses_another_vocabulary():
  one, two = (make_vocabulary({"text": 300, "image": 16}, {"image": name}) for name in "ab")
  check_vocabulary({"vocabulary": one.fingerprint}, one, "decoder")
  with pytest.raises(ValueError, match=f"trained on vocabulary {one.fingerprint}, this run's is {two.fingerprint}"):
    check_vocabulary({"vocabulary": one.fingerprint}, two, "decoder")


def test_load_image_tokenizer(tmp_path):
  """The averaged weights come back: the same codes, pictures and fingerprint as before they were saved."""
  config = c.Config(data=c.Scenes(image_size=8), image_tokenizer=options("ema"))
  tokenizer = Tokenizer(config.image_tokenizer)
  state, step, batches = training("ema")
  pixels = next(batches)
  for _ in range(2):
    state, _ = step(state, pixels)
  batches.close()
  with Checkpoints(tmp_path / "image_tokenizer", 2) as checkpoints:
    checkpoints.save(2, state, batches)
  (tmp_path / "config.json").write_text(json.dumps(c.to_json(config)))
  average, quantizer = state.extra["average"], state.extra["quantizer"]
  image = load_image_tokenizer(tmp_path)
  assert (image.grid, image.downsampling, image.codebook_size) == ((2, 2), 4, 16)
  codes = image.encode(pixels)
  np.testing.assert_array_equal(codes, jax.jit(tokenizer.encode)(average, quantizer, pixels))
  np.testing.assert_array_equal(image.decode(codes), jax.jit(tokenizer.decode)(average, quantizer, codes))
  assert image.fingerprint == image_modality(tokenizer, average, quantizer, 8).fingerprint == load_image_tokenizer(tmp_path).fingerprint
  moved = jax.tree.map(lambda x: x, average)
  moved["painter"]["enter"]["bias"] = moved["painter"]["enter"]["bias"].at[0].add(1e-3)
  assert fingerprint_of(tokenizer.options, moved, quantizer) != image.fingerprint


def test_fingerprints_stay():
  """A later version's options change no fingerprint where they are as before; that of this tokenizer was written down when
  there were neither networks nor losses. A network of another kind has another."""
  quantizer = c.Quantizer(kind="ema", codebook_size=16, code_dim=4, revive_below=0.05)
  one = c.ImageTokenizer(widths=(8,), blocks=(1,), patch=4, quantizer=quantizer)
  weights = {"a": np.arange(6, dtype=np.float32)}, {"codebook": np.ones((2, 2), np.float32), "counts": np.ones(2)}
  assert fingerprint_of(one, *weights) == "340655123ad776a0"
  assert fingerprint_of(dataclasses.replace(one, losses=c.PictureLosses(l1=1.0)), *weights) == "340655123ad776a0"
  for other in (dict(network="vqgan"), dict(patch=8), dict(quantizer=dataclasses.replace(one.quantizer, gradient="rotation"))):
    assert fingerprint_of(dataclasses.replace(one, **other), *weights) != "340655123ad776a0"


def test_in_batches():
  """One shape for each power of two, however many pictures come."""
  shapes = set()

  def double(x):
    shapes.add(x.shape)
    return 2 * x
  for n in (0, 1, 3, 4, 7, 8, 9, 21):
    x = np.arange(n * 2).reshape(n, 2)
    np.testing.assert_array_equal(in_batches(double, x, 8), 2 * x)
  assert shapes == {(1, 2), (4, 2), (8, 2)}


def test_one_device_is_a_mesh_of_one():
  mesh = make_mesh(c.Mesh())
  assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "expert": 1, "sequence": 1, "tensor": 1}
  state, _, batches = training()
  batches.close()
  for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(specs(state, mesh))):
    assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
  batch = {"pixels": np.arange(12).reshape(4, 3)}
  np.testing.assert_array_equal(place_batch(batch, mesh)["pixels"], batch["pixels"])


@pytest.mark.parametrize("mesh, message", [
    (c.Mesh(data=1024), "data 1024 x fsdp 1 x expert 1 x sequence 1 x tensor 1 does not fill"),
    (c.Mesh(fsdp=7919), "does not fill"),
    (c.Mesh(data=-1, fsdp=-1), "one of them may be -1"), (c.Mesh(tensor=0), "must be 1 or more")])
def test_mesh_that_does_not_fit(mesh, message):
  with pytest.raises(ValueError, match=message):
    make_mesh(mesh)


def test_slices_go_to_the_first_axes():
  """Every device is there once; whoever differs in the other axes alone is in the same slice."""
  device = lambda n: types.SimpleNamespace(id=n, slice_index=n % 4, process_index=n % 4, platform="gpu", device_kind="card")
  devices = [device(n) for n in range(32)]
  by_data = over_slices([8, 1, 2, 2], 4, devices)
  assert by_data.shape == (8, 1, 2, 2) and {one.id for one in by_data.flat} == set(range(32))
  for n, part in enumerate(by_data):
    assert {one.slice_index for one in part.flat} == {n // 2}
  by_both = over_slices([2, 8, 1, 2], 4, devices)      # two slices in a row of data, each half of fsdp
  assert [[{one.slice_index for one in half.flat} for half in np.split(row, 2)] for row in by_both] == [[{0}, {1}], [{2}, {3}]]
  with pytest.raises(ValueError, match="mesh: 3 x 1 x 1 x 1 does not divide over the 4 slices here; take a multiple of 4"):
    over_slices([3, 1, 1, 1], 4, devices)


def test_rules():
  """By the paths of a real decoder on a mesh of eight: moments lie where their parameters lie."""
  mesh = jax.sharding.AbstractMesh((2, 2, 1, 2), ("data", "fsdp", "expert", "tensor"))
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
  params = {"embed": {"embedding": shape(10, 4)}, "layers": {"qkv": {"kernel": shape(3, 4, 8)}, "out": {"kernel": shape(3, 4, 4)},
            "mlp_norm": {"scale": shape(3, 4)}}, "head": {"kernel": shape(4, 9)}}
  found = jax.tree.map(lambda x: tuple(x.spec), specs({"params": params, "mu": (params,)}, mesh))
  assert found["mu"][0] == found["params"]
  assert found["params"]["embed"]["embedding"] == ("tensor", "fsdp")
  assert found["params"]["layers"]["qkv"]["kernel"] == (None, "fsdp", "tensor")
  assert found["params"]["layers"]["out"]["kernel"] == (None, "tensor", "fsdp")
  assert found["params"]["head"]["kernel"] == ("fsdp", None), "nine columns do not divide"
  assert found["params"]["layers"]["mlp_norm"]["scale"] == (None, "fsdp")
  with pytest.raises(ValueError, match="decoder.train.batch_size: 6 rows .* multiple of 4, e.g. 4"):
    check_batch(6, mesh, "decoder.train.batch_size")
