"""What a run costs: FLOPs, parameters and bytes counted by hand, and the command."""
import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from unitok import cli
from unitok import config as c
from unitok.plan import decoder_plan, flops, kept, tokenizer_plan


def test_flops():
  """Products, convolutions (grouped, strided), loops of a known length, the longer of two branches, gradients."""
  a, b = jnp.zeros((5, 3, 4)), jnp.zeros((5, 4, 7))
  assert flops(lambda a, b: jax.nn.relu(jnp.einsum("nik,nkj->nij", a, b)), a, b) == 2 * 5 * 3 * 4 * 7
  x, taps = jnp.zeros((2, 8, 6, 12)), jnp.zeros((3, 3, 4, 9))
  conv = lambda x, taps: jax.lax.conv_general_dilated(x, taps, (2, 1), "SAME", feature_group_count=3,
                                                      dimension_numbers=("NHWC", "HWIO", "NHWC"))
  assert flops(conv, x, taps) == 2 * (2 * 4 * 6 * 9) * (3 * 3 * 4)
  w = jnp.zeros((6, 6))
  loop = lambda w: jax.lax.scan(lambda v, _: (jax.jit(lambda v: v @ w)(v), None), jnp.zeros((1, 6)), None, 11)[0]
  assert flops(loop, w) == 11 * 2 * 6 * 6
  either = lambda w, yes: jax.lax.cond(yes, lambda: w @ w @ w, lambda: w @ w)
  assert flops(either, w, True) == 2 * 2 * 6**3
  assert flops(jax.grad(lambda w: (w @ w).sum()), w) == 3 * 2 * 6**3
  with pytest.raises(ValueError, match="a loop's length is known to the data alone"):
    flops(lambda w, n: jax.lax.fori_loop(0, n, lambda _, v: v @ w, w), w, 3)


def test_kept():
  """A product's sine keeps the cosine and the other factor; the weights themselves are not counted."""
  x, w = jnp.ones((5, 3)), jnp.zeros((3, 7))
  assert kept(lambda w: jnp.sin((x + w[0, 0]) @ w), w) == 4 * (5 * 7 + 5 * 3)
  assert kept(lambda w: w**3, w) == 4 * w.size


def test_tokenizer():
  """A vit of one layer of width 8 by hand: 4 x 4 places of 4 x 4 pixels, codes of 4, 16 of them."""
  quantizer = c.Quantizer(codebook_size=16, code_dim=4)
  options = c.ImageTokenizer(network="vit", widths=(8,), blocks=(1,), patch=4, quantizer=quantizer,
                             train=c.Train(steps=10, batch_size=3))
  config = c.Config(data=c.Scenes(image_size=16), image_tokenizer=options)
  found, hidden = tokenizer_plan(config), 16
  matrices = 8 * 24 + 8 * 8 + 8 * 2 * hidden + hidden * 8
  layer, attention = matrices + 4 * 8, 2 * 2 * 16 * 16 * 8      # four norms; queries times keys, weights times values
  assert found["parameters"] == (48 * 8 + 8 + layer + 8 + 8 * 4 + 4) + (4 * 8 + 8 + layer + 8 + 8 * 48 + 48) + 16 * 4
  encode = 2 * 16 * (48 * 8 + matrices + 8 * 4 + 4 * 16) + attention          # the codes are compared with a product
  decode = 2 * 16 * (4 * 8 + matrices + 8 * 48) + attention
  assert (found["flops_encode"], found["flops_decode"]) == (encode, decode)
  assert found["codes_a_picture"] == 16 and found["examples"] == 30
  assert found["flops_training"] == 10 * found["flops_step"]
  # backwards twice the products, but for the pixels' own gradient and the search; revival searches again
  search, enter = 2 * 16 * 4 * 16, 2 * 16 * 48 * 8
  assert found["flops_step"] == 3 * (3 * (encode + decode - search) - enter + 2 * search)
  scalars = 3 * 4                                                             # steps of run, optimizer and schedule
  assert found["bytes_state"] == 4 * (4 * found["parameters"] + 16) + scalars
  assert 4 * 3 * 16 * 8 < found["bytes_activations"]
  judged = dataclasses.replace(options, losses=c.PictureLosses(adversarial=0.5, judge_layers=1, judge_width=8))
  judged = tokenizer_plan(dataclasses.replace(config, image_tokenizer=judged))
  assert judged["parameters_judge"] == (16 * 3 * 8 + 8) + (16 * 8 * 16 + 2 * 16) + (16 * 16 + 1)
  assert judged["parameters"] == found["parameters"] and judged["flops_step"] > found["flops_step"]


def test_decoder():
  """Of attention the pairs that a causal row sees; what is computed again counts in the step alone."""
  base = c.Config(decoder=c.Decoder(layers=1, width=8, heads=1, kv_heads=1, hidden=8, row_length=16, grid_embedding=0,
                                    tasks={"text_to_image": 1.0}), text=c.Text(vocab_size=300))
  found = decoder_plan(base)
  matrices = 8 * 24 + 8 * 8 + 8 * 16 + 8 * 8
  assert found["vocabulary"] == 300 + 512 + 64
  pairs = 16 * 17 // 2                                                        # that a causal row sees
  assert found["flops_row"] == 2 * 16 * (matrices + 8 * found["vocabulary"]) + 2 * 2 * pairs * 8
  assert found["flops_token"] == 3 * found["flops_row"] // 16
  assert found["flops_step"] == 32 * 3 * found["flops_row"]
  train = dataclasses.replace(base.decoder.train, accumulate=4)
  again = dataclasses.replace(base, decoder=dataclasses.replace(base.decoder, remat="layer", loss_chunk=24, train=train))
  layer = 2 * 16 * (matrices - 8 * 8) + 2 * 2 * pairs * 8                     # nobody needs what the last product gave
  head = 2 * 16 * 8 * found["vocabulary"]
  assert decoder_plan(again)["flops_step"] == found["flops_step"] + 32 * (layer + head)
  assert found["parameters"] == matrices + 4 * 8 + 8 + 2 * 8 * found["vocabulary"]


def test_command(tmp_path, capsys):
  path = tmp_path / "mine.py"
  path.write_text("from unitok.config import *\n"
                  "def get_config():\n  return Config(name='mine', image_tokenizer=Pixels())\n")
  assert cli.main(["plan", "--config", str(path), "--json"]) == 0
  said = json.loads(capsys.readouterr().out)
  assert said["name"] == "mine" and said["image_tokenizer"] is None and said["decoder"]["parameters"] > 10**6
  assert cli.main(["plan", "--config", str(path)]) == 0
  lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
  assert lines["image_tokenizer"] == "nothing to train" and lines["decoder.flops_training"].endswith(" TFLOP")
  assert lines["decoder.parameters"] == f"{said['decoder']['parameters']:,}"
  assert cli.main(["plan", "--config", str(tmp_path / "none.py")]) == 2
  assert capsys.readouterr().err.count("\n") == 1


def test_several_codes_a_place():
  """Books add their codes and their rows of the vocabulary; the row is no longer."""
  quantizer = c.Quantizer(kind="residual", codebook_size=16, code_dim=4, books=3)
  one = c.Config(data=c.Scenes(image_size=16), image_tokenizer=c.ImageTokenizer(quantizer=c.Quantizer(codebook_size=16)))
  three = dataclasses.replace(one, image_tokenizer=c.ImageTokenizer(quantizer=quantizer))
  assert tokenizer_plan(three)["codes_a_picture"] == 3 * tokenizer_plan(one)["codes_a_picture"]
  one, three = decoder_plan(one), decoder_plan(three)
  assert three["vocabulary"] == one["vocabulary"] + 2 * 16
  assert three["flops_row"] > one["flops_row"] and three["row_length"] == one["row_length"]
