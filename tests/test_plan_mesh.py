"""The plan on a mesh: memory as a real run takes it, communication by hand, time, the largest batch, bad input."""
import dataclasses
import json
import math
import shutil

import pytest
import small_run

from tests import eight_devices
from unitok import cli
from unitok import config as c
from unitok.plan.chips import CHIPS, roofline
from unitok.plan.communication import Sent, sent
from unitok.plan.program import largest

DECODER = c.Decoder(layers=4, width=128, heads=4, kv_heads=2, hidden=384, row_length=256, grid_embedding=0,
                    train=c.Train(steps=4, batch_size=16, warmup_steps=1))
CONFIG = c.Config(text=c.Text(vocab_size=448), image_tokenizer=c.Pixels(colours=512), decoder=DECODER,
                  compute_dtype="float32")
LONG = dataclasses.replace(CONFIG, decoder=dataclasses.replace(DECODER, row_length=512, remat="layer", loss_chunk=256,
                                                      watch_every=100))
MESHES = {"one device": ({}, CONFIG), "eight": (dict(data=2, fsdp=2, tensor=2), CONFIG),
          "blocks, again, in chunks": (dict(fsdp=4, tensor=2), LONG)}


def measure() -> dict:
  """By the names of MESHES: what the process grows by, at most, while a run's state is made and two steps are taken."""
  import gc
  import re
  from pathlib import Path

  import jax

  from tests.batches import documents
  from unitok.plan.program import training
  from unitok.plan.stages import decoder_stage
  from unitok.sharding import create, make_mesh, place_batch

  status = lambda name: 1024 * int(re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())[1])

  def grown(sizes: dict, config: c.Config) -> int:
    stage, options = decoder_stage(config), config.decoder
    mesh = make_mesh(c.Mesh(**{"data": 1, **sizes}), None if sizes else jax.devices()[:1])
    batch, key = documents(options.train.batch_size, options.row_length, stage.model.vocabulary_size), jax.random.key(0)

    def run(state, advance, steps: int):
      for _ in range(steps):
        state, metrics = advance(state, place_batch(batch, mesh), key)
      jax.block_until_ready((state, metrics))

    build = lambda: create(stage.build, mesh, key)
    state = build()
    advance = training(stage.step, mesh, jax.tree.map(lambda x: x.sharding, state))
    run(state, advance, 1)                         # compiled
    del state
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is forgotten
    run(build(), advance, 2)
    return status("VmHWM") - before

  found = {"devices": jax.device_count(), "sent": by_hand()}
  return found | {name: grown(*options) for name, options in MESHES.items()}


def by_hand() -> list:
  """What a program sends that has, in a loop of 5, a sum over tensor, and beside it a gathering over fsdp and a rotation
  over data."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import PartitionSpec as P

  from unitok.sharding import make_mesh
  mesh = make_mesh(c.Mesh(data=2, fsdp=2, tensor=2))

  def own(x):
    once = lambda x, _: (jnp.sin(jax.lax.psum(x, "tensor")), None)
    looped = jax.lax.scan(once, x, length=5)[0]
    return jax.lax.ppermute(jax.lax.all_gather(looped, "fsdp"), "data", [(0, 1), (1, 0)])

  program = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=P(("data", "fsdp")), out_specs=P("data"), check_vma=False))
  text = program.lower(jax.ShapeDtypeStruct((4 * 16, 32), jnp.float32)).compile().as_text()
  return sent(text, dict(mesh.shape), 4)


@pytest.fixture(scope="module")
def report():
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")     # what is freed goes back, so that each run's growth is its own
    patch.setenv("MALLOC_ARENA_MAX", "1")
    return eight_devices.report(__file__)


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_memory_is_that_of_a_real_run(report, name):
  """Within 15 %: weights, moments and all that a step makes, of all devices together."""
  from unitok.plan.on_mesh import mesh_plan
  sizes, config = MESHES[name]
  text = ",".join(f"{axis}={size}" for axis, size in sizes.items())
  found = mesh_plan(config, "decoder", text or "data=1")
  assert report[name] > 50e6, "too little to be seen beside all else"
  assert found["bytes_device"] * math.prod(sizes.values()) == pytest.approx(report[name], rel=0.15)


@pytest.mark.slow
def test_communication_by_hand(report):
  """Arrays of 16 x 32 floats: of two devices an all-reduce sends all of it, a gathering as much, a rotation twice that.
  """
  size = 4 * 16 * 32
  assert [Sent(*one) for one in report["sent"]] == [
      Sent("data", "collective-permute", 2 * size, True), Sent("fsdp", "all-gather", size, False),
      Sent("tensor", "all-reduce", 5 * size, False)]


@pytest.mark.slow
def test_sums_alone_go_over_tensor():
  """What tensor parallelism must send (Shoeybi 2019, 1909.08053): a sum of [b l w] behind attention and SwiGLU, another
  before them on the way back, one of the embedding's rows and one of the head's gradient. Fused weights are not moved."""
  from unitok.plan.on_mesh import mesh_plan
  found, o = mesh_plan(CONFIG, "decoder", "tensor=2")["bytes_sent"], CONFIG.decoder
  assert set(found) == {"tensor"}
  assert found["tensor"] == pytest.approx((4 * o.layers + 2) * 4 * o.train.batch_size * o.row_length * o.width, rel=0.01)


def test_largest_batch():
  """The line between two sizes is looked at where it says; steps beside the line do not lead to what does not fit."""
  for bytes_of, room in ((lambda n: 100 + 7 * n, 400), (lambda n: 100 + 7 * n + 30 * (n > 24), 300),
                         (lambda n: 100 + n * n, 2_000), (lambda n: 500 + n, 400)):
    asked, known = [], {16: bytes_of(16)}
    found = largest(lambda n: asked.append(n) or bytes_of(n), known, 4, room)
    best = max((n for n in range(4, 400, 4) if bytes_of(n) <= room), default=0)
    assert len(asked) <= 5 and found % 4 == 0
    assert found == best or (best > found > 0.9 * best and bytes_of(found) <= room)


def test_roofline():
  """The longest part; far links are the slower ones."""
  h100 = CHIPS["h100"]
  parts = roofline(h100, 989e12, 3350e9 / 2, 450e9 / 4, 50e9 / 2)
  assert parts["seconds_products"] == 1 and parts["seconds_memory"] == 0.5 and parts["seconds_communication"] == 0.75
  assert parts["seconds_step"] == 1 and parts["seconds_step_in_turn"] == 2.25


HLO = """HloModule some

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%add_promoted (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum.1 = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %all-reduce.1 = f32[8,4]{1,0} all-reduce(%x), replica_groups=[4,2]<=[8], use_global_device_ids=true, to_apply=%add
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%n, %all-reduce.1)
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  %n = s32[] get-tuple-element(%p), index=0
  %constant.3 = s32[] constant(7)
  ROOT %less = pred[] compare(%n, %constant.3), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %loop = (s32[], f32[8,4]{1,0}) while(%start), condition=%condition, body=%body
  %all-gather.1 = bf16[16,4]{1,0} all-gather(%y), dimensions={0}, replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %all-reduce.2 = f32[16]{0} all-reduce(%z), replica_groups=[2,4]<=[2,2,2]T(1,0,2), to_apply=%add_promoted
  %all-reduce.3 = f32[16]{0} all-reduce(%z), replica_groups=[4,2]<=[2,2,2]T(0,2,1), to_apply=%add
  %all-gather.2 = f32[4]{0} all-gather(%w), replica_groups=mesh['axis_0'=2,'axis_1'=4], \
device_ids=([2,2,2]T(1,0,2)) {'axis_0'}, dimensions={0}
  %all-gather.3 = f32[4]{0} all-gather(%w), replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] \
{'axis_0','axis_2'}, dimensions={0}
  ROOT %part = f32[8]{0} dynamic-slice(%all-reduce.3, %at), dynamic_slice_sizes={8}
}
"""


def test_text_of_a_program():
  """A loop without its count written down, groups in both spellings, axes together, sums in float32 for bfloat16, and of
  which a device keeps a part."""
  mesh = {"data": 2, "fsdp": 2, "tensor": 2}
  assert sent(HLO, mesh) == [
      Sent("data", "all-gather", 2 * 64 / 2, False), Sent("data+tensor", "all-gather", 4 * 4 * 3 / 4, False),
      Sent("data+tensor", "all-reduce", 2 * 16 * 2 * 3 / 4, False), Sent("fsdp", "all-gather", 4 * 4 / 2, False),
      Sent("fsdp", "reduce-scatter", 16 * 4 / 2, False), Sent("tensor", "all-reduce", 7 * 8 * 4 * 4, False)]
  assert [one.axis for one in sent(HLO, mesh, domain=4) if one.far] == ["data", "data+tensor", "data+tensor"]
  with pytest.raises(ValueError, match="loop loop sends, and its length is known to the data alone"):
    sent(HLO.replace("constant(7)", "parameter(1)"), mesh)


@pytest.mark.slow
def test_a_batch_that_does_not_fit(tmp_path_factory, tmp_path):
  """The run ends in a line before its first step; the batch that the line names does fit, a larger one does not."""
  import train.decoder
  from train.stage import open_workdir
  workdir = tmp_path / "run"
  shutil.copytree(small_run.made(tmp_path_factory), workdir)
  shutil.rmtree(workdir / "decoder")

  def run(rows: int, device_gb: float):
    train_options = dataclasses.replace(small_run.TRAIN, batch_size=rows, steps=1)
    decoder = dataclasses.replace(small_run.CONFIG.decoder, train=train_options)
    config = dataclasses.replace(small_run.CONFIG, decoder=decoder, mesh=c.Mesh(device_gb=device_gb))
    train.decoder.run(config, open_workdir(workdir, config))

  with pytest.raises(ValueError, match="weights and optimizer take .* spread them over mesh.fsdp"):
    run(24, 1e-4)
  with pytest.raises(ValueError, match="^decoder.train.batch_size: 24 rows need .* which has 0.01; the largest") as e:
    run(24, 0.012)
  assert "\n" not in str(e.value)
  most = int(str(e.value).split()[-1])
  assert 1 <= most < 24
  with pytest.raises(ValueError, match=f"largest batch that fits is {most}$"):
    run(most + 1, 0.012)
  run(most, 0.012)
  assert (workdir / "decoder" / "1").exists()


@pytest.mark.slow
def test_command(tmp_path, capsys):
  path = tmp_path / "small.py"
  path.write_text("from unitok.config import *\n"
                  "def get_config():\n  return Config(name='small', image_tokenizer=Pixels(), decoder=Decoder(layers=2, "
                  "width=64, heads=4, kv_heads=2, hidden=128, row_length=128, train=Train(batch_size=8, steps=10)))\n")
  ask = lambda *more: cli.main(["plan", "--config", str(path), "--mesh", "data=2,tensor=2", *more])
  assert ask("--chip", "v5e", "--tokens", "1e9", "--json") == 0
  said = json.loads(capsys.readouterr().out)["on_mesh"]
  assert said["mesh"]["data"] == said["mesh"]["tensor"] == 2 and said["devices"] == 4 and said["fits"]
  assert said["tokens"] == pytest.approx(1e9, rel=1e-5) and said["steps"] * 8 * 128 == said["tokens"]
  assert said["days"] == pytest.approx(said["steps"] * said["seconds_step"] / 86400)
  assert 0 < said["share_of_peak_in_turn"] < said["share_of_peak"] <= 1
  assert set(said["bytes_sent"]) >= {"data", "tensor"} and said["largest_batch"] % 2 == 0 and said["largest_batch"] > 8
  parts = ("weights", "optimizer", "average", "batch", "temporary")
  assert said["bytes_device"] == sum(said[f"bytes_{name}"] for name in parts)
  assert said["bytes_optimizer"] == pytest.approx(2 * said["bytes_weights"], abs=64)
  assert ask() == 0
  lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
  assert lines["on_mesh.bytes_device"].endswith("MB") and "on_mesh.days" not in lines


@pytest.mark.parametrize("words, said", [
    ("--mesh data=3", "decoder.train.batch_size: 32 rows do not divide over data 3 x fsdp 1; take a multiple of 3"),
    ("--mesh tensor=3", "mesh.tensor: 3 does not divide decoder.heads 4; take 2 or a divisor of it"),
    ("--mesh rows=3", "--mesh: no axis 'rows'; take AXIS=NUMBER,"),
    ("--mesh data=-1", "--mesh: data is '-1', must be a whole number from 1 on"),
    ("--mesh data=8192", "--mesh: 8192 devices are more than"),
    ("--mesh data=2 --chip h900", "--chip: no chip 'h900'; take one of v5e, v5p, v6e, a100, h100, h200"),
    ("--tokens 1e9", "--tokens: how long they take is told for a --chip; name one"),
    ("--mesh data=2 --chip h100 --stage image_tokenizer --tokens 1e9", "--tokens: a number of the decoder's; the image_"),
    ("--mesh data=2 --stage image_tokenizer", "image_tokenizer: one of pixels has nothing to train; plan the decoder")])
def test_bad_input(tmp_path, capsys, words, said):
  path = tmp_path / "small.py"
  path.write_text("from unitok.config import *\ndef get_config():\n  return Config(image_tokenizer=Pixels())\n")
  assert cli.main(["plan", "--config", str(path), *words.split()]) == 2
  error = capsys.readouterr().err
  assert error.startswith(f"unitok: {said}") and error.count("\n") == 1


@pytest.mark.parametrize("name, millions", [("100m", 110), ("1b", 1_091), ("7b", 7_013), ("34b", 34_300)])
def test_chameleons_shapes(name, millions):
  from unitok.plan.counting import parameters
  from unitok.plan.stages import decoder_stage, flops_row
  config = c.load(f"configs/chameleon_{name}.py")
  stage = decoder_stage(config)
  count, o = parameters(stage.state().params), config.decoder
  assert count / 1e6 == pytest.approx(millions, rel=0.02)
  assert o.train.batch_size % o.readers == 0 < o.watch_every
  inside = count - 2 * o.width * stage.model.vocabulary_size
  norms = count - inside - o.width * stage.model.vocabulary_size
  assert stage.model.vocabulary_size == (16_384 if name == "100m" else 65_536)
  expected = 2 * o.row_length * (count - norms) + 4 * o.layers * o.width * o.row_length * (o.row_length + 1) // 2
  assert flops_row(config) == pytest.approx(expected, rel=1e-3)


if __name__ == "__main__":
  print(json.dumps(measure()))
