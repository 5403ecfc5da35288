"""What the benchmarks of speed count and compare, at tiny shapes. No time is asserted."""
import dataclasses
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
import small_run
import tyro

from tests.benchmarks import (gpu_sampling, gpu_step, gpu_tokenizer, loss_memory, sampling, sampling_side, scaling,
                              strategies, train_step)
from tests.benchmarks import train_step_side as sides
from tests.benchmarks.allocator import ROOT, missing, settings
from tests.benchmarks.profiled import askers, operations, self_times, summary, told
from tests.benchmarks.train_step_side import SHAPES, Ours, Shape, model_of, rows_of
from unitok import config as c
from unitok.config import Sampling
from unitok.model import Model
from unitok.plan import flops, stages
from unitok.steps import decoder_state, decoder_step

TINY = Shape(layers=2, width=32, heads=4, kv_heads=2, hidden=48, vocabulary=128, length=16, batch=2)


def test_flops():
  """By hand at the default shape, and against all products of the step as traced, which attend to all pairs."""
  matrices = 4 * (256 * 512 + 256 * 256 + 3 * 256 * 704) + 256 * 2048
  assert SHAPES["256"].matrices == matrices
  assert SHAPES["256"].flops() == 6 * 8 * 512 * matrices + 4 * 8 * 12 * 256 * (512 * 513 // 2)
  assert SHAPES["256"].flops(causal=False) - SHAPES["256"].flops() == 4 * 8 * 12 * 256 * (512 * 511 // 2)
  for shape in (TINY, dataclasses.replace(TINY, layers=3, length=24, kv_heads=4)):
    (model, tx), key = model_of(shape, attention="dense"), jax.random.key(0)
    state = jax.eval_shape(lambda key: decoder_state(model, tx, key), key)
    assert flops(lambda *x: decoder_step(model, tx, *x), state, rows_of(shape), key) == shape.flops(causal=False)


def test_mfu():
  shape = Shape(layers=1, width=2, heads=1, kv_heads=1, hidden=3, vocabulary=5, length=2, batch=1)
  useful = 6 * 2 * (2 * 6 + 2 * 2 + 3 * 2 * 3 + 2 * 5) + 12 * 2 * 3
  assert shape.flops() == useful
  assert train_step.mfu(shape, 2.0, {"x·W": 400.0, "xᵀ·dy": 100.0}) == useful / 2.0 / 400.0


def test_default_config():
  """Ours at 256 is config.Decoder's default, and the peers' optimizer has its numbers."""
  (model, _), default, train = model_of(SHAPES["256"]), c.Decoder(), c.Train()
  kept = {"train": dataclasses.replace(train, batch_size=8), "tasks": {"text": 1.0}, "row_length": 512}
  assert model.options == dataclasses.replace(default, **kept)
  assert train.optimizer == "adamw"
  assert (sides.WARMUP, sides.RATE, sides.DECAY, sides.BETAS, sides.CLIP) == (
      train.warmup_steps, train.learning_rate, train.weight_decay, (train.beta1, train.beta2), train.clip)


@pytest.mark.slow
def test_ours_learns_and_answers():
  """The protocol of a side: the first step, then as asked; the mask rule's rows are all targets."""
  batch = rows_of(TINY)
  assert batch.loss_weights.all() and (batch.inputs[:, 1:] == batch.targets[:, :-1]).all()
  answers = []
  given = {"side": "ours", "shape": dataclasses.asdict(TINY), "dtype": "float32", "options": {"remat": "dots"}}
  lines = io.StringIO('{"steps": 30}\n{"steps": 2, "products": 1}\n')
  sides.serve(json.dumps(given), lines, lambda answer: answers.append(json.loads(json.dumps(answer))))
  first, many, last = answers
  assert first["parameters"] == Ours(TINY).parameters and first["versions"]["jax"] == jax.__version__
  assert [len(one["seconds"]) for one in (many, last)] == [30, 2] and not many["products"]
  assert last["loss"] < many["loss"] < first["loss"] - 0.2
  assert set(last["products"]) == {"x·W", "dy·Wᵀ", "xᵀ·dy"} and min(last["products"].values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("network", ["gpt", "emu3"])
def test_peer(network):
  """Parameters within 3 % at both sizes, its mask causal, its loss falls as ours does from ln v."""
  torch = pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from tests.benchmarks.train_step_torch import NETWORKS, Peer
  for shape in (SHAPES["256"], dataclasses.replace(SHAPES["768"], layers=1)):
    with torch.device("meta"):
      count = sum(weight.numel() for weight in NETWORKS[network](shape).parameters())
    (model, _) = model_of(shape)
    ours = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
    assert abs(count / ours - 1) <= train_step.ALIKE
  for dtype in ("float32", "bfloat16"):
    peer = Peer(TINY, network, "eager", dtype)
    losses = [peer.step() for _ in range(60)]
    assert abs(losses[0] - 4.852) < 0.15 and losses[-1] < losses[0] - 0.2      # ln 128 = 4.852
    assert all(weight.dtype == torch.float32 for weight in peer.weights)
  with torch.no_grad():
    changed = peer.inputs.clone()
    changed[:, 9] = (changed[:, 9] + 1) % TINY.vocabulary
    before, after = peer.model(peer.inputs), peer.model(changed)
  assert torch.equal(before[:, :9], after[:, :9]) and not torch.equal(before[:, 9:], after[:, 9:])


@pytest.mark.slow
def test_compile_ratio():
  """Deeper programs are scanned: no larger text, and both times are told."""
  found = train_step.compile_ratio(1, {"unroll": 1}, layers=(1, 3), shape=TINY)
  assert set(found) == {"compile_ratio_3_over_1", "compile_s"} and set(found["compile_s"]) == {"1", "3"}


@pytest.mark.slow
def test_loss_memory():
  assert loss_memory.measured(chunk=128, rounds=1, vocabulary=2_048)["loss_memory_ratio"] < 0.5


@pytest.mark.slow
def test_scaling():
  """The lines of an axis at a tiny shape, their table, and a plot that is an SVG."""
  lines = scaling.measured("vocabulary", (64,), TINY, 1)
  assert set(lines) == {"vocabulary", "vocabulary, in chunks"}
  for points in lines.values():
    (point,) = points
    assert point["value"] == 64 and point["ms"] > 0 and point["tokens_per_s"] == pytest.approx(32e3 / point["ms"])
    points.append({**point, "value": 4_096})
  lines["context"] = lines["vocabulary"]
  rows = scaling.table("context", lines["context"]).splitlines()
  assert rows[0].startswith("| context | step, ms |")
  assert [row.split("|")[1].strip() for row in rows[2:]] == ["64", "4,096"]
  svg = ElementTree.fromstring(scaling.plot(lines))
  assert len(list(svg.iter("{http://www.w3.org/2000/svg}polyline"))) == 3


def test_shapes_of_scaling():
  base = Shape()
  assert scaling.shape_at("width", 256, base, 0) == base
  assert scaling.shape_at("context", 4_096, base, scaling.TOKENS) == dataclasses.replace(base, length=4_096, batch=4)
  assert scaling.shape_at("depth", 8, base, 0).layers == 8
  assert scaling.shape_at("vocabulary", 99, base, 0).vocabulary == 99


@pytest.mark.slow
def test_input_rate():
  decoder = dataclasses.replace(scaling.CONFIG.decoder, layers=1, width=32, heads=2, kv_heads=1, hidden=32)
  data = dataclasses.replace(scaling.CONFIG.data, train_examples=64)
  found = scaling.input_rate(dataclasses.replace(scaling.CONFIG, decoder=decoder, data=data), 1, 2, 1)
  assert found["input_rate_ratio"] == pytest.approx(found["input_rows_per_s"] / found["step_rows_per_s"])


def test_allocator():
  """The Makefile's settings, asked for once: what is there already is not asked for again."""
  wanted = settings()
  assert wanted["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1" and wanted["MALLOC_ARENA_MAX"] == "1"
  assert missing(wanted, {}) == wanted and missing(wanted, wanted) == {}
  more = missing(wanted, {**wanted, "GLIBC_TUNABLES": "a=1"})
  assert more == {"GLIBC_TUNABLES": "a=1:glibc.malloc.hugetlb=1"} and missing(wanted, {**wanted, **more}) == {}


def test_self_times():
  """A loop's time is without its body's; two of one name add up."""
  spans = [(0, 100, "while"), (10, 30, "dot"), (15, 5, "copy"), (50, 20, "dot"), (100, 7, "add")]
  assert self_times(spans) == {"while": 50, "dot": 45, "copy": 5, "add": 7}


@pytest.mark.slow
def test_profile():
  """Of a real program: its operations are found in its text, and asked for by this project's functions."""
  side = Ours(dataclasses.replace(TINY, width=64, hidden=256, batch=16))
  program = side.advance.lower(side.state, side.batch, side.key).compile()
  named = askers(program.as_text())
  assert any(name.startswith("products: decoder ") for name in named.values())
  times = operations(lambda: [side.step() for _ in range(2)])
  rows = summary(times, named, 2)
  assert sum(ms for where, ms, _ in rows if where.startswith("products: ")) > 0
  assert told(rows, 1e3 * sum(times.values())).count("\n") > 4
  assert askers('%dot.1 = f32[2]{0} dot(%a), metadata={op_name="jit(f)/dot_general"}') == {"dot.1": "products: other"}


@pytest.mark.parametrize("script", ["gpu_step", "gpu_tokenizer", "gpu_sampling"])
def test_for_accelerators_alone(script):
  run = subprocess.run([sys.executable, "-m", f"tests.benchmarks.{script}"], cwd=ROOT, capture_output=True, text=True,
                       env={**os.environ, "JAX_PLATFORMS": "cpu"})
  assert run.returncode == 1 and run.stderr.count("\n") == 1 and "this wants an accelerator" in run.stderr


@pytest.mark.slow
def test_gpu_step_measures():
  """Its figures at a tiny shape, here; what is computed again is done and of no use."""
  found, profile = gpu_step.measure(TINY, 1e9, 1, 1, "float32", remat="layer")
  head = 6 * TINY.width * TINY.vocabulary * TINY.tokens
  assert found["done"] / found["mfu"] == pytest.approx((4 * TINY.flops() - head) / 3 / TINY.flops())
  assert found["parameters"] > 0 and profile.startswith("| asked for by |")
  assert found["peak_gib"] is found["plan_gib"] is found["plan_ratio"] is None, "a CPU says nothing"


@pytest.mark.slow
def test_gpu_step_compares_with_the_plan(monkeypatch):
  """The plan's bytes over those that a card says it held, where it held more than before."""
  class Card:
    device_kind, stats = "NVIDIA H100 80GB HBM3", iter((2**20, 2**30, 2**30))

    def memory_stats(self):
      return {"peak_bytes_in_use": next(self.stats)}

  monkeypatch.setattr(gpu_step, "jax", SimpleNamespace(devices=lambda card=Card(): [card]))
  before = gpu_step.most_gib()
  assert gpu_step.most_gib(before) == 1 and before == 2**-10 and gpu_step.most_gib(1.0) is None
  plan = gpu_step.plan_gib(TINY, "float32", remat="layer")
  parameters = TINY.matrices + TINY.width * TINY.vocabulary
  assert 4 * 4 * parameters < plan * 2**30 < 64 * 4 * parameters


@pytest.mark.slow
def test_gpu_tokenizer_measures():
  """Its figures at a tiny size, here, with a judge; the FLOPs are the plan's."""
  options = c.ImageTokenizer(widths=(16,), blocks=(1,), patch=4, losses=c.PictureLosses(adversarial=0.5),
                             train=c.Train(batch_size=4))
  config = c.Config(data=c.Scenes(image_size=24), image_tokenizer=options, compute_dtype="float32")
  found, profile = gpu_tokenizer.measure(config, 4, 1e9, 2, 1)
  assert found["mfu"] * 4 / found["images_per_s"] == pytest.approx(stages.tokenizer_flops_step(config) / 1e9)
  assert found["encode_mfu"] > 0 and found["decode_images_per_s"] > 0 and profile.startswith("| asked for by |")


@pytest.mark.slow
def test_gpu_sampling_measures():
  """At a tiny shape, here; the floor's bytes by hand: 15 passes over the matrices, and over 8 known codes on average
  behind 16 words, in two rows."""
  options = c.Decoder(layers=2, width=32, heads=4, kv_heads=2, hidden=48)
  side = gpu_sampling.Side(options, "bfloat16", 64, 128)
  matrices = 2 * (32 * (32 + 16 + 16) + 32 * 32 + 3 * 32 * 48) + 32 * 128
  assert side.matrices == matrices
  assert side.floor_bytes(16, 1) == 15 * 2 * (matrices + 2 * (16 + 8) * 2 * 2 * 8 * 2)
  found = gpu_sampling.measure(side, 16, 1e9, (1, 2), 4, 1)
  assert found["floor_share"] == pytest.approx(side.floor_bytes(16, 1) / 1e9 / found["seconds"])
  assert found["best_batch"] in (1, 2) and min(found.values()) > 0


def test_shapes_of_gpu_step():
  """Of the sizes in their names, 7B with all its 32 layers."""
  sizes = {"100M": 1e8, "1B": 1e9, "7B": 6.7e9}
  shapes = {**gpu_step.SHAPES, "7B": dataclasses.replace(gpu_step.SHAPES["7B"], layers=32)}
  assert all(0.9 < shapes[name].matrices / size < 1.1 for name, size in sizes.items())


@pytest.mark.parametrize("script", [train_step, sampling, scaling, strategies, gpu_step, gpu_tokenizer, gpu_sampling,
                                    loss_memory])
def test_help(script, capsys):
  with pytest.raises(SystemExit) as stop:
    tyro.cli(script.main, args=["--help"])
  assert stop.value.code == 0 and "--rounds" in capsys.readouterr().out


@pytest.mark.slow
def test_main_of_strategies(tmp_path_factory, capsys, monkeypatch):
  """Of a run that knows nothing: jacobi gives the very samples of sequential, in the same program, one token a pass and
  other batches; codes that differ are told from near-ties by how far apart their logits are; all ways have figures."""
  monkeypatch.setattr(strategies, "SHAPES", {"256": dict(layers=1, width=32, heads=2, kv_heads=1, hidden=32)})
  folder = small_run.made(tmp_path_factory, small_run.VERSATILE)
  strategies.main(folder, folder, folder, keys=6, prompts=6, windows=(3,), guesses=("above",), passes=(3, 4), rounds=1,
                  shapes=("256",))
  found = json.loads(capsys.readouterr().out.splitlines()[-1])
  for suffix in ("", "_emoji"):
    assert found[f"jacobi_identical{suffix}"] == found[f"jacobi_identical_one_token{suffix}"] == 1
    assert found[f"jacobi_identical_batch{suffix}"] == 1 and 0.3 < found[f"jacobi_pass_share{suffix}"] < 1
  assert found["groups_pass_share"] == pytest.approx(2 / 15) and found["groups_accuracy_drop"] >= 0
  ways = {"sequential", *(f"{n} {way}" for n in (3, 4) for way in ("random", "halton", "locality", "maskgit 4.5", "maskgit 0")),
          *(f"rows {n}" for n in (2, 1))}
  assert set(found["ways_emoji"]) == ways and set(found["groups"]) == {*ways, "raster"}
  assert all(5 < one["nats"] < 9 and one["ms"] > 0 for one in found["ways_emoji"].values())      # of some 1,400 ids
  assert found["groups_wall_ratio"] > 0 and found["window_pass_ratio"] > 0
  model = Model.open(folder)
  texts = [model.text.encode(text) for text in ("a ring", "blue")]
  warm = Sampling(temperature=1.0)
  ids, _ = strategies.drawn(model, texts, warm, 1)
  others = [np.where(np.arange(16) == 5, np.roll(one, 1), one) for one in ids]
  gaps = strategies.gaps(model, texts, ids, others, warm, 1)
  assert len(strategies.gaps(model, texts, ids, ids, warm, 1)) == 0 and (gaps > strategies.TIE).all() and len(gaps)


def test_main(monkeypatch, capsys):
  """All comparisons, with sides whose times are told: the fastest candidate counts, one that does not run does not."""
  took = {"ours float32": 2.0, "ours mixed": 1.0, "ours bfloat16": 4.0, "gpt compile float32": 3.0,
          "gpt eager float32": 5.0, "gpt compile bfloat16": 2.5, "gpt eager bfloat16": 6.0}

  class Told(train_step.Side):
    def __init__(self, python, side, shape, dtype="float32", options=None):
      self.name, self.shape, self.seconds, self.rates = f"{side} {dtype}", shape, [], []
      if self.name not in took:
        raise train_step.Failed("no compiler")
      self.first = {"first_s": 9.0, "parameters": shape.matrices, "versions": {"python": python}}

    def turn(self, steps, products=0):
      self.seconds += [took[self.name]] * steps
      self.rates += [{"x·W": 2e12, "dy·Wᵀ": 1e12}] if products else []
      return self.seconds

    def close(self):
      pass

  monkeypatch.setattr(train_step, "Side", Told)
  monkeypatch.setattr(train_step, "under_settings", lambda: "A=1")
  train_step.main(parts=("256", "768", "dtype", "mfu"), rounds=2, newest="other")
  found = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert found["tokens_per_s_ratio_256"] == found["tokens_per_s_ratio_768"] == 1.5
  assert found["best_dtype_ratio_768"] == 2.5
  assert found["mfu_768"] == pytest.approx(SHAPES["768"].flops() / 2.0 / 2e12)
  assert found["ratio_at_peak_256"] == pytest.approx(3.0 / (SHAPES["256"].flops() / 2e12))
  assert found["sides"]["ours 768 best dtype"]["versions"] == {"python": "other"}
  assert found["sides"]["peer 768 best dtype"]["side"] == "gpt compile bfloat16"
  assert found["tried"]["emu3 eager float32 256"] is None and found["allocator"] == "A=1"
  train_step.main(parts=("mfu", "dtype"), rounds=1)
  said = capsys.readouterr().out
  assert "best_dtype_ratio_768: left out" in said and "mfu_768" in json.loads(said.splitlines()[-1])
  del took["gpt compile float32"], took["gpt eager float32"]
  with pytest.raises(SystemExit, match="no side runs there"):
    train_step.main(parts=("256",))


def test_parameters_alike():
  side = lambda count: type("Side", (), {"name": "one", "first": {"parameters": count}})()
  train_step.check_alike([side(1_000), side(1_029)])
  with pytest.raises(SystemExit, match="within 3%"):
    train_step.check_alike([side(1_000), side(1_031)])


@pytest.mark.slow
def test_a_side_that_ends():
  with pytest.raises(train_step.Failed, match="layers"):
    train_step.Side(sys.executable, "ours", dataclasses.replace(TINY, layers=0))
  with pytest.raises(train_step.Failed, match="nowhere"):
    train_step.Side("/nowhere/python", "ours", TINY)


# ---- drawing

SMALL = sampling_side.Shape(layers=2, width=32, heads=4, kv_heads=2, hidden=48)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["ours", "ours int8"])
def test_our_side_draws(side):
  """The protocol: the weights, then draws as asked, of which the first is apart; the loop is a part of each."""
  answers = []
  lines = io.StringIO('{"tokens": 4, "batch": 2, "draws": 2}\n{"tokens": 4, "batch": 2, "draws": 1, "prompt": 40}\n')
  given = {"side": side, "shape": dataclasses.asdict(SMALL), "dtype": "float32", "options": {}}
  sampling_side.serve(json.dumps(given), lines, lambda answer: answers.append(json.loads(json.dumps(answer))))
  first, two, behind = answers
  assert first["versions"]["jax"] == jax.__version__ and first["parameters"] > 10_000
  assert [len(one["seconds"]) for one in (two, behind)] == [2, 1] and two["first_s"] > max(two["seconds"])
  assert all(0 < loop < whole for one in (two, behind) for loop, whole in zip(one["loops"], one["seconds"], strict=True))


def test_a_prompt_is_as_long_as_it_says():
  """The first code stands behind so many tokens; a full cache has 1,024 columns."""
  ours, drawn = sampling_side.Ours(SMALL), []
  ours.sampler.draw = lambda documents, *_: drawn.append(documents) or [range(64)] * len(documents)
  for work in (sampling.ONE, sampling.FULL):
    ours.draw(work)
    first = int((drawn[-1][0].fills >= 0).argmax())
    assert first + 1 == work.prompt and drawn[-1][0].fills[first] == work.prompt
  assert -(-first // 16) * 16 + 64 == 1_024


@pytest.mark.slow
def test_peers_draw():
  """Pictures of their own ids; the loop is the same through its cache as without, eager or by a mask of all slots."""
  torch = pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from tests.benchmarks import sampling_torch as peers
  work = sampling_side.Work(9, 2)
  ours = sampling_side.Ours(SMALL)
  for name in ("emu3", "emu3 unbatched 1", "janus", "loop eager 1"):
    peer = peers.Peer(SMALL, name)
    assert abs(peer.parameters / ours.parameters - 1) < train_step.ALIKE
    with torch.inference_mode():
      ids = peer.network.draw(work)
    assert ids.shape == (2, 9) and (ids < SMALL.vocabulary).all()
    assert (ids >= peers.FIRST).all() or name.startswith("emu3 unbatched")
  found = {}
  for mode in ("eager", "mask"):
    torch.manual_seed(0)
    loop = peers.Loop(SMALL, "eager")
    loop.mode = mode
    with torch.inference_mode():
      found[mode] = loop.draw(work)
      ids, empty = torch.cat([peers.prompts(work), found[mode].repeat(2, 1)], 1), lambda: torch.zeros(4, 2, 25, 8)
      whole = loop.logits(ids, torch.arange(25), torch.ones(25, 25, dtype=torch.bool).tril(),
                          [(empty(), empty()) for _ in range(2)])
      last = loop.logits(found[mode][:, -1:].repeat(2, 1), torch.tensor([24]), None, loop.caches[work])
    torch.testing.assert_close(last, whole, atol=1e-4, rtol=1e-4)
  assert torch.equal(found["eager"], found["mask"])


def test_main_of_sampling(monkeypatch, capsys):
  """All comparisons, with sides whose times are told: the fastest candidate counts, one that does not run does not."""
  took = {"ours": 2.0, "ours int8": 1.0, "emu3 1": 12.0, "janus": 20.0, "loop eager 1": 7.0, "loop frozen": 6.0}

  class Told(sampling.Side):
    def __init__(self, python, side, shape):
      self.name, self.kept = side, {}
      if side not in took:
        raise train_step.Failed("no compiler")
      self.first = {"parameters": shape.width, "versions": {"python": python}}

    def ask(self, what):
      seconds = [took[self.name] * what["batch"] ** 0.5] * what["draws"]
      return {"seconds": seconds, "loops": [what["prompt"] / 2 for _ in seconds], "first_s": 9.0}

    def close(self):
      pass

  monkeypatch.setattr(sampling, "Side", Told)
  monkeypatch.setattr(sampling, "under_settings", lambda: "A=1")
  sampling.main(parts=sampling.PARTS, rounds=2, peer="other")
  found = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert found["generate_ratio_256"] == found["generate_ratio_768"] == 6
  assert found["loop_ratio_256"] == found["loop_ratio_768"] == found["loop_ratio_256_batch32"] == 3
  assert found["loop_over_generate"] == 2 and found["loop_ratio_768_int8"] == 6
  assert found["cache_growth"] == found["cache_growth_256"] == 60
  assert found["tried"]["janus 1 256 x1"] is None and found["allocator"] == "A=1"
  ours, generate, loop = found["sides"]["256 x1"]
  assert (ours["side"], generate["side"], loop["side"]) == ("ours", "emu3 1", "loop frozen")
  assert ours["tokens_per_s"] == 32 and loop["versions"] == {"python": "other"}
  assert len(found["table"]) == 12 and found["table"]["768 256 x1"] == [128, 256, 256 / 12, 256 / 6]
  assert found["void"] == []
  took |= {"emu3 1": 8.0, "janus": 8.0}
  sampling.main(parts=("256", "batch32", "768"), rounds=1)
  told = capsys.readouterr().out
  assert "void loop_ratio_256, loop_ratio_256_batch32" in told
  assert json.loads(told.splitlines()[-1])["void"] == ["loop_ratio_256", "loop_ratio_256_batch32"]
  took.clear()
  with pytest.raises(SystemExit, match="no side runs there"):
    sampling.main(parts=("256",))
