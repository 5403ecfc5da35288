"""Every mesh of eight devices gives one device's loss and gradients; weights, moments and logits lie where they should."""
import itertools
import json
import math
import re

import pytest

from tests import eight_devices

AXES = ("data", "fsdp", "sequence", "tensor")
MESHES = [dict(zip(AXES, sizes)) for sizes in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(sizes) == 8]
name_of = lambda sizes: " ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1)
is_ulysses = lambda sizes: sizes["sequence"] == 8 or (sizes["sequence"], sizes["tensor"]) == (2, 4)
has_books = lambda sizes: sizes["fsdp"] == sizes["sequence"] == sizes["tensor"] == 2
IDS = 64
IN_PARTS = dict(data=2, fsdp=2, tensor=2)
COLUMNS = 8 * 997
"""A vocabulary whose size is found nowhere else."""


def measure() -> dict:
  import dataclasses
  import functools

  import jax
  import jax.numpy as jnp
  import numpy as np

  from tests.batches import documents, with_books
  from unitok import config as c
  from unitok.losses import cross_entropy_in_chunks
  from unitok.metrics import Mean
  from unitok.models.autoencoder import to_pm1
  from unitok.optim import optimizer
  from unitok.sharding import create, make_mesh, place, place_batch, under
  from unitok.steps import Language, Tokenizer, decoder_state, decoder_step, tokenizer_state

  single = make_mesh(c.Mesh(), jax.devices()[:1])
  train = c.Train(steps=4, batch_size=16, learning_rate=1e-3, warmup_steps=1)
  few = c.Decoder(layers=2, width=32, heads=4, kv_heads=2, hidden=64, row_length=16, grid_embedding=8, train=train)
  many = dataclasses.replace(few, heads=8, kv_heads=8)
  options = c.ImageTokenizer(widths=(8, 16), blocks=(1, 1), patch=2, quantizer=c.Quantizer(codebook_size=32, code_dim=4),
                             losses=c.PictureLosses(adversarial=0.5, judge_start=0, judge_width=8, judge_layers=1))
  tokenizer = Tokenizer(options)
  residual = Tokenizer(dataclasses.replace(options, losses=c.PictureLosses(), quantizer=c.Quantizer(
      kind="residual", codebook_size=16, code_dim=4, books=2)))
  pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)

  def decoder(options, on, batch, further=()):
    model = Language(options, IDS, ("a", "b"), further=further)
    loss = lambda params, batch: model.loss(params, batch)[0]
    return model.init, loss, batch, [sizes for sizes in MESHES if on(sizes)]

  def through(tokenizer, params, target):
    """(the painted pictures, what they lack)."""
    last, quantized, _ = tokenizer.through(params, tokenizer.init(jax.random.key(0))[1], target)
    painted = tokenizer.finish(params, last)
    return painted, ((painted - target) ** 2).mean() + sum(quantized.losses.values())

  def of_pictures(key):
    params, state = tokenizer.init(key)
    return {"tokenizer": params, "judge": tokenizer.adversary.init(key)["params"]}

  def sees(params, pixels):
    target = to_pm1(pixels)
    painted, loss = through(tokenizer, params["tokenizer"], target)
    judged, _ = tokenizer.adversary.loss(params["judge"], jnp.zeros(2), target, jax.lax.stop_gradient(painted))
    return loss + judged

  texts, in_chunks = documents(16, 16, IDS), dataclasses.replace(few, loss_chunk=5, remat="dots")
  ulysses = dataclasses.replace(many, sequence_attention="ulysses", attention="blocks")
  watching = dataclasses.replace(many, watch_every=1)
  parted = dataclasses.replace(watching, train=dataclasses.replace(train, accumulate=2))
  of_books = dataclasses.replace(many, loss_chunk=5, depth_hidden=16)
  models = {"decoder": decoder(many, lambda sizes: True, texts),
            "in chunks": decoder(in_chunks, lambda sizes: sizes["tensor"] == 2, texts),
            "ulysses": decoder(ulysses, is_ulysses, texts),
            "books": decoder(of_books, has_books, *with_books(documents(16, 16, IDS - 16), IDS - 16, 3, 8)),
            "pictures": (of_pictures, sees, pixels, [sizes for sizes in MESHES if sizes["sequence"] == 1]),
            "pictures in books": (lambda key: residual.init(key)[0],
                                  lambda params, pixels: through(residual, params, to_pm1(pixels))[1], pixels,
                                  [sizes for sizes in MESHES if sizes["fsdp"] == 8])}

  def run(build, loss, batch, mesh):
    params = create(build, mesh, jax.random.key(0))
    return jax.device_get(jax.jit(under(mesh, jax.value_and_grad(loss)))(params, place_batch(batch, mesh)))

  def distance(a, b):
    return max(float(np.linalg.norm(x - y) / (np.linalg.norm(y) + 1e-12)) for x, y in zip(*map(jax.tree.leaves, (a, b))))

  found = {"devices": jax.device_count(), "same": {}}
  for model, (build, loss, batch, meshes) in models.items():
    value, grads = run(build, loss, batch, single)
    for sizes in meshes:
      other, others = run(build, loss, batch, make_mesh(c.Mesh(**sizes)))
      found["same"][f"{model}: {name_of(sizes)}"] = [abs(other / value - 1).item(), distance(others, grads)]

  def share(tree):
    """Of a tree's bytes, those of the device that has most."""
    leaves = jax.tree.leaves(tree)
    of = lambda n: sum(leaf.addressable_shards[n].data.nbytes for leaf in leaves)
    return max(map(of, range(len(leaves[0].addressable_shards)))) / sum(leaf.nbytes for leaf in leaves)

  tx, model = optimizer(train), Language(many, IDS, ("a", "b"))
  build, step = functools.partial(decoder_state, model, tx), functools.partial(decoder_step, model, tx)
  builds = {"decoder": build, "tokenizer": functools.partial(tokenizer_state, tokenizer, tx)}
  for name, sizes in (("fsdp", dict(fsdp=8)), ("zero1", dict(data=8, zero1=True)),
                      ("both", dict(data=4, fsdp=2, zero1=True))):
    mesh, found[name] = make_mesh(c.Mesh(**{"data": 1, **sizes})), {}
    for one, build in builds.items():
      state = create(build, mesh, jax.random.key(0), zero1=sizes.get("zero1", False))
      judge = state.extra.get("judge", {"params": {}, "opt_state": {}})
      found[name][one] = {"params": share((state.params, judge["params"])),
                          "opt_state": share((state.opt_state, judge["opt_state"])),
                          "placed": share(place(state, mesh).opt_state)}

  def trained(mesh, zero1=False, step=step):
    state = create(builds["decoder"], mesh, jax.random.key(0), zero1=zero1)
    advance = jax.jit(under(mesh, step), out_shardings=(jax.tree.map(lambda x: x.sharding, state), None))
    for _ in range(3):
      given = state, place_batch(documents(16, 16, IDS), mesh), jax.random.key(1)
      state, metrics = jax.block_until_ready(advance(*given))     # several under way may wait for each other's threads
    told = {name: value.value() if isinstance(value, Mean) else value for name, value in jax.device_get(metrics).items()}
    return (jax.device_get(state.params), told), share(state.opt_state)

  mesh = make_mesh(c.Mesh(data=4, fsdp=2, zero1=True))
  ((one, first), _), ((other, second), part) = trained(single), trained(mesh, zero1=True)
  found["trained"] = {"loss": abs(second["loss"] / first["loss"] - 1).item(), "share": part,
                      "distance": distance(other, one)}
  stepping = lambda options: functools.partial(decoder_step, Language(options, IDS, ("a", "b")), tx)
  (one, first), _ = trained(single, step=stepping(watching))
  (other, second), _ = trained(make_mesh(c.Mesh(**IN_PARTS)), step=stepping(parted))
  found["in parts"] = {"distance": distance(other, one), "metrics": {
      name: abs(float(second[name] / value) - 1) for name, value in first.items() if value}}
  (one, met), (other, also) = bad_batches(single), bad_batches(make_mesh(c.Mesh(**IN_PARTS)))
  found["bad batches"] = {"met": [met, also], "distance": distance(other, one)}

  def of_loss(mesh):
    loss = lambda x, kernel, targets: sum(part.sum() for part in cross_entropy_in_chunks(
        x, kernel, targets, jnp.matmul, 16))
    arrays = (jax.ShapeDtypeStruct((8, 64, 16), jnp.float32), jax.ShapeDtypeStruct((16, COLUMNS), jnp.float32),
              jax.ShapeDtypeStruct((8, 64), jnp.int32))
    place = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    spread = jax.jit(under(mesh, jax.value_and_grad(loss, (0, 1))), out_shardings=(place(), (place(), place(None, "tensor"))),
                     in_shardings=(place(("data", "fsdp")), place("fsdp", "tensor"), place(("data", "fsdp"))))
    return spread.lower(*arrays).compile()

  found["attention"] = attention()
  whole, split, rows = of_loss(single), of_loss(make_mesh(c.Mesh(data=1, tensor=8))), of_loss(make_mesh(c.Mesh(data=2, fsdp=4)))
  has = lambda program: bool(re.search(rf"[\[,]{COLUMNS}[\],]", program.as_text()))
  temporary = lambda program: program.memory_analysis().temp_size_in_bytes
  # the computations that loops call, where a sum over devices would be one for every chunk
  loops = "".join(part for part in rows.as_text().split("\n\n") if not part.lstrip().startswith("ENTRY"))
  found["logits"] = {"whole": temporary(whole), "split": temporary(split), "named": has(split), "seen": has(whole),
                     "sums in loops": f"f32[16,{COLUMNS}]" in "".join(
                         line for line in loops.splitlines() if "all-reduce(" in line)}
  return found


def bad_batches(mesh) -> tuple:
  """(weights, what is told) of a run of `train.loop.fit` that meets one batch that is not a number and one that makes the
  loss jump."""
  import functools
  import tempfile
  from pathlib import Path

  import jax
  import numpy as np
  from test_guard import Documents
  from test_loop import lines

  from train.loop import fit
  from unitok import config as c
  from unitok.checkpoint import Checkpoints
  from unitok.metrics import JsonlWriter, Writers
  from unitok.optim import optimizer
  from unitok.sharding import create
  from unitok.steps import Language, decoder_state, decoder_step

  class Rows(Documents):
    def __next__(self):
      return jax.tree.map(lambda x: np.repeat(x, 4, 0), super().__next__())

  train = c.Train(steps=16, batch_size=8, learning_rate=3e-2, warmup_steps=0, log_every=1, save_every=6,
                  spike_deviations=8.0, spike_window=8)
  options = c.Decoder(layers=1, width=16, heads=2, kv_heads=2, hidden=16, grid_embedding=0, train=train)
  language, tx = Language(options, 10, ("text/text",)), optimizer(train)
  with tempfile.TemporaryDirectory() as name, Checkpoints((folder := Path(name)) / "model", 2) as checkpoints:
    state = create(functools.partial(decoder_state, language, tx), mesh, jax.random.key(0))
    state = fit(state=state, batches=Rows(broken=5, strange=14), train=train, checkpoints=checkpoints, mesh=mesh,
                step_fn=functools.partial(decoder_step, language, tx), key=jax.random.key(1), examples_per_step=8,
                title="model", writer=Writers([JsonlWriter(folder / "metrics.jsonl", "model")]))
    told = [[line["step"], name, line[name]] for line in lines(folder) for name in ("skipped", "passed_over")
            if line.get(name)]
  return jax.device_get(state.params), told


def attention() -> dict:
  """Of rows over four devices in two ways: (which collectives, by rule the distance from one device's dense attention)."""
  import jax
  import jax.numpy as jnp

  from tests.test_attention import RULES, arrays
  from unitok import config as c
  from unitok.models.attention import attend, look
  from unitok.models.block_attention import pad
  from unitok.models.rule import Rule
  from unitok.sharding import ACTIVATIONS, make_mesh, under

  def both_ways(q, k, v, grad, rule, kind, across):
    out, back = jax.vjp(lambda *x: attend(*x, look(rule, kind, across)), q, k, v)
    return out, *back(grad)

  def two_rows(rule):
    rule = pad(rule, 512 - rule.order.shape[1])
    return Rule(*(jnp.concatenate([x, x])[:2] for x in rule))

  mesh, rules, found = make_mesh(c.Mesh(data=1, sequence=4, tensor=2)), {name: two_rows(r) for name, r in RULES.items()}, {}
  some = arrays(rules["causal"], heads=16, groups=8)
  dense = jax.jit(lambda *x: both_ways(*x, "dense", "ring"))
  lies = lambda name: jax.sharding.NamedSharding(mesh, ACTIVATIONS[name])
  places = (*map(lies, ("ring queries", "ring keys", "ring keys", "ring queries")), lies("batch"))
  for across in ("ring", "ulysses"):
    run = jax.jit(under(mesh, lambda *x: both_ways(*x, "blocks", across))).lower(
        *jax.device_put((*some, rules["causal"]), places)).compile()
    names = [name for name in ("collective-permute", "all-to-all", "all-gather") if f" {name}(" in run.as_text()]
    distances = {}
    for name, rule in rules.items():
      pairs = zip(run(*jax.device_put((*some, rule), places)), dense(*some, rule))
      distances[name] = max(float(jnp.abs(jax.device_get(a) - b).max()) for a, b in pairs)
    found[across] = names, distances
  return found


@pytest.fixture(scope="module")
def report():
  return eight_devices.report(__file__)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES, ids=name_of)
def test_every_mesh_gives_one_devices_loss_and_gradients(report, sizes):
  found = {model: both for model, both in report["same"].items() if model.endswith(f": {name_of(sizes)}")}
  others = (sizes["tensor"] == 2, is_ulysses(sizes), has_books(sizes), sizes["sequence"] == 1, sizes["fsdp"] == 8)
  assert len(found) == 1 + sum(others)
  for model, (loss, grads) in found.items():
    assert loss <= 1e-5 and grads <= 1e-4, model


@pytest.mark.slow
@pytest.mark.parametrize("model", ["decoder", "tokenizer"])
def test_a_device_of_eight_holds_an_eighth(report, model):
  """Of weights and moments with fsdp; of the moments alone with zero1, whose weights are whole on each device."""
  fsdp, zero1, both = (report[name][model] for name in ("fsdp", "zero1", "both"))
  assert max(fsdp["params"], fsdp["opt_state"], zero1["opt_state"], both["opt_state"]) <= 1.05 / 8
  assert zero1["params"] == 1 and 0.5 <= both["params"] <= 1.05 / 2
  for one in (fsdp, zero1, both):
    assert one["placed"] <= 1.05 / 8, "place leaves the moments where they are"


@pytest.mark.slow
def test_spread_moments_train_as_one_device_does(report):
  found = report["trained"]
  assert found["loss"] <= 1e-5 and found["distance"] <= 1e-4 and found["share"] <= 1.05 / 8


@pytest.mark.slow
def test_parts_of_a_batch_train_as_one_device_does(report):
  """Three steps of two parts each, on a mesh, against whole batches: weights and all that is told, the watch among it."""
  found = report["in parts"]
  assert found["distance"] <= 1e-4 and max(found["metrics"].values()) <= 1e-4, found
  assert {"gradient_norm", "update_ratio", "attention_logit/a", "log_z/b", "loss/a"} <= found["metrics"].keys()


@pytest.mark.slow
def test_bad_batches_on_the_mesh(report):
  """One that is not a number is skipped and a spike gone back from at the same steps as on one device."""
  found = report["bad batches"]
  assert found["met"][0] == found["met"][1] == [[5, "skipped", 1.0], [13, "passed_over", 2.0]]
  assert found["distance"] <= 1e-4


@pytest.mark.slow
def test_logits_are_never_gathered(report):
  """The vocabulary's size is nowhere in the program of a device that has an eighth of it; the gradient of the head's
  columns goes over the devices once, not for every chunk."""
  found = report["logits"]
  assert found["seen"] and not found["named"]
  assert found["split"] < found["whole"] / 3
  assert not found["sums in loops"]


@pytest.mark.slow
@pytest.mark.parametrize("across, collective", [("ring", "collective-permute"), ("ulysses", "all-to-all")])
def test_attention_across_devices_equals_the_dense_one(report, across, collective):
  """Outputs and gradients under every rule."""
  collectives, distances = report["attention"][across]
  assert collectives == [collective]
  assert len(distances) > 5 and max(distances.values()) < 3e-5, distances


if __name__ == "__main__":
  print(json.dumps(measure()))
