"""Eight devices train as one does: pure data parallelism, and fsdp 2 x tensor 2 x data 2, by the table of rules."""
import json
import sys
from pathlib import Path

import pytest

from tests import eight_devices

TEST = Path(__file__).resolve()
MESHES = {"one": None, "data": dict(data=8), "all": dict(data=2, fsdp=2, tensor=2)}


def measure(folder: Path) -> dict:
  """Trains both models on each mesh -> their losses, and their weights' distance from those of one device."""
  import dataclasses
  import functools

  import jax
  import jax.numpy as jnp
  import numpy as np

  from tests.batches import Same
  from train.loop import fit
  from unitok import config as c
  from unitok.checkpoint import Checkpoints
  from unitok.metrics import Writers
  from unitok.optim import optimizer
  from unitok.sequence import Batch
  from unitok.sharding import create, make_mesh, path_name
  from unitok.steps import Language, Tokenizer, decoder_state, decoder_step, tokenizer_state, tokenizer_step

  class Losses:
    def __init__(self):
      self.found = []

    def resume(self, step):
      pass

    def write(self, step, values):
      self.found.append(values["loss"])

  def train(steps: int) -> c.Train:
    return c.Train(steps=steps, batch_size=8, learning_rate=1e-3, warmup_steps=1, log_every=1, save_every=99)

  rng = np.random.default_rng(0)
  ids = rng.integers(0, 64, (8, 17)).astype(np.int32)
  order = np.tile(np.arange(16, dtype=np.int32), (8, 1))
  # every row has another number of targets: a mean over rows' means would not be the mean over targets
  weights = (order < np.arange(2, 18, 2)[:, None]).astype(np.float32)
  documents = Batch(inputs=ids[:, :-1], targets=ids[:, 1:], order=order, visible_from=order,
                    visible_until=np.full_like(order, 2**30), tasks=order % 2, loss_weights=weights,
                    segment_ids=np.ones_like(order), positions=np.repeat(order[..., None], 3, -1))
  decoder = c.Decoder(layers=2, width=32, heads=4, kv_heads=2, hidden=64, row_length=16, grid_embedding=8, train=train(4))
  language = Language(decoder, 64, ("a", "b"))
  tx = optimizer(decoder.train)
  losses = c.PictureLosses(adversarial=0.5, judge_start=0, judge_width=8, judge_layers=1)
  options = c.ImageTokenizer(widths=(8, 16), blocks=(1, 1), patch=2, train=train(1), losses=losses,
                             quantizer=c.Quantizer(codebook_size=32, code_dim=4))
  tokenizer = Tokenizer(options)
  tokenizer_tx = optimizer(options.train)
  blocked = dataclasses.replace(decoder, attention="blocks", train=dataclasses.replace(decoder.train, optimizer="muon"))
  by_blocks, muon = Language(blocked, 64, ("a", "b")), optimizer(blocked.train)
  models = {
      "blocks": (functools.partial(decoder_state, by_blocks, muon), functools.partial(decoder_step, by_blocks, muon),
                 documents, blocked.train),
      "decoder": (functools.partial(decoder_state, language, tx), functools.partial(decoder_step, language, tx),
                  documents, decoder.train),
      "tokenizer": (functools.partial(tokenizer_state, tokenizer, tokenizer_tx),
                    functools.partial(tokenizer_step, tokenizer, tokenizer_tx),
                    rng.integers(0, 256, (8, 16, 16, 3), np.uint8), options.train)}
  single = make_mesh(c.Mesh(), jax.devices()[:1])
  report = {"devices": jax.device_count()}
  for model, (build, step, batch, options) in models.items():
    report[model] = {}
    start = jax.device_get(create(build, single, jax.random.key(0)).params)
    for name, sizes in MESHES.items():
      mesh = make_mesh(c.Mesh(**sizes)) if sizes else single
      losses = Losses()
      with Checkpoints(folder / model / name) as checkpoints:
        state = fit(state=create(build, mesh, jax.random.key(0)), step_fn=step, batches=Same(batch), train=options,
                    checkpoints=checkpoints, writer=Writers([losses]), key=jax.random.key(1), examples_per_step=8,
                    title=model, mesh=mesh)
        on_one = create(build, single, jax.random.key(5))      # what eight devices saved, read by one
        read = checkpoints.restore_latest(on_one).state
      params = jax.device_get(state.params)
      if name == "one":
        reference = params
      leaves = jax.tree.leaves
      distance = lambda a, b: max(float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y)) for x, y in zip(leaves(a), leaves(b)))
      report[model][name] = {
          "losses": losses.found, "distance": distance(params, reference),
          "moved": min(float(np.linalg.norm(x - y)) for x, y in zip(leaves(params), leaves(start))),
          "read": all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(leaves(read.params), leaves(params))),
          "places": {path_name(path): {"spec": [*map(str, leaf.sharding.spec)], "shape": leaf.shape,
                                       "shard": leaf.addressable_shards[0].data.shape, "devices": len(leaf.sharding.device_set)}
                     for part in ({"params": state.params}, {"opt_state": state.opt_state}, {"extra": state.extra})
                     for path, leaf in jax.tree_util.tree_leaves_with_path(part)}}
  return report


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  folder = tmp_path_factory.mktemp("mesh")
  return eight_devices.report(TEST, folder)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data", "all"])
@pytest.mark.parametrize("model, steps", [("decoder", 4), ("blocks", 4), ("tokenizer", 1)])
def test_eight_devices_are_one(report, model, steps, mesh):
  one, eight = report[model]["one"], report[model][mesh]
  assert len(eight["losses"]) == steps
  assert eight["losses"] == pytest.approx(one["losses"], rel=1e-5)
  assert eight["distance"] < 1e-4
  assert eight["read"], "a checkpoint that eight devices wrote is read by one"


@pytest.mark.slow
def test_it_trains(report):
  losses = report["decoder"]["all"]["losses"]
  assert losses[-1] < losses[1], "the first step's learning rate is 0"
  assert report["decoder"]["all"]["moved"] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name, spec, shard", [
    ("embed/embedding", ["tensor", "fsdp"], [32, 16]),
    ("layers/qkv/kernel", ["None", "fsdp", "tensor", "None", "None"], [2, 16, 1, 4, 8]),
    ("layers/gate_up/kernel", ["None", "fsdp", "None", "tensor"], [2, 16, 2, 32]),
    ("layers/out/kernel", ["None", "tensor", "fsdp"], [2, 16, 16]),
    ("layers/down/kernel", ["None", "tensor", "fsdp"], [2, 32, 16]), ("head/kernel", ["fsdp", "tensor"], [16, 32])])
def test_weights_lie_where_the_rules_say(report, name, spec, shard):
  """After the training, with their moments and running means."""
  places = report["decoder"]["all"]["places"]
  found = {path: place for path, place in places.items() if path.endswith("/" + name)}
  assert {path.split("/")[0] for path in found} == {"params", "opt_state", "extra"} and len(found) == 4
  for path, place in found.items():
    assert (place["spec"], place["shard"], place["devices"]) == (spec, shard, 8), path


if __name__ == "__main__":
  print(json.dumps(measure(Path(sys.argv[1]))))
