"""Published VQGANs: names written out as each system's code makes them, and its own network where transformers is there."""
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from unitok import config as c
from unitok.checkpoint import read_config
from unitok.cli import main
from unitok.interop import vqgan
from unitok.models.autoencoder import to_pm1
from unitok.run import load_image_tokenizer
from unitok.steps import Tokenizer

WIDTHS, BLOCKS, LATENT, SIZE, DIM = (32, 64), (1, 2), 24, 20, 6


def network(family: str) -> dict[str, np.ndarray]:
  """Random weights under the family's names, in the order of its constructor, shapes as torch has them."""
  rng, out = np.random.default_rng(0), {}

  def layer(name, *shape):
    out[f"{name}.weight"] = rng.normal(size=shape, scale=np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1)
    out[f"{name}.weight"] += len(shape) == 1        # a norm's scale
    out[f"{name}.bias"] = rng.normal(size=shape[:1], scale=0.1)

  def residual(name, into, width):
    layer(f"{name}.norm1", into), layer(f"{name}.conv1", width, into, 3, 3)
    layer(f"{name}.norm2", width), layer(f"{name}.conv2", width, width, 3, 3)
    if into != width:
      layer(f"{name}.nin_shortcut", width, into, 1, 1)

  def attention(name, width):
    layer(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
      layer(f"{name}.{part}", width, width, 1, 1)

  llamagen = family == "llamagen"
  middle = ("0", "1", "2") if llamagen else ("block_1", "attn_1", "block_2")
  block, attn = ("res", "attn") if llamagen else ("block", "attn")
  last = len(WIDTHS) - 1
  layer("encoder.conv_in", WIDTHS[0], 3, 3, 3)
  for n, width in enumerate(WIDTHS):
    level = f"encoder.{'conv_blocks' if llamagen else 'down'}.{n}"
    for k in range(BLOCKS[n]):
      residual(f"{level}.{block}.{k}", WIDTHS[max(n - 1, 0)] if k == 0 else width, width)
      if n == last:
        attention(f"{level}.{attn}.{k}", width)
    if n != last:
      layer(f"{level}.downsample.conv", width, width, 3, 3)
  for side, width in (("encoder", WIDTHS[-1]), ("decoder", WIDTHS[-1])):
    residual(f"{side}.mid.{middle[0]}", width, width), attention(f"{side}.mid.{middle[1]}", width)
    residual(f"{side}.mid.{middle[2]}", width, width)
  layer("encoder.norm_out", WIDTHS[-1]), layer("encoder.conv_out", LATENT, WIDTHS[-1], 3, 3)
  layer("decoder.conv_in", WIDTHS[-1], LATENT, 3, 3)
  for place, n in enumerate(reversed(range(len(WIDTHS)))):                       # coarse to fine
    level = {"llamagen": f"decoder.conv_blocks.{place}", "taming": f"decoder.up.{n}", "janus": f"decoder.up.{place}"}[family]
    width = WIDTHS[n]
    for k in range(BLOCKS[n] + 1):
      residual(f"{level}.{block}.{k}", WIDTHS[min(n + 1, last)] if k == 0 else width, width)
      if n == last:
        attention(f"{level}.{attn}.{k}", width)
    if n != 0:
      layer(f"{level}.upsample.conv", width, width, 3, 3)
  layer("decoder.norm_out", WIDTHS[0]), layer("decoder.conv_out", 3, WIDTHS[0], 3, 3)
  layer("quant_conv", DIM, LATENT, 1, 1), layer("post_quant_conv", LATENT, DIM, 1, 1)
  out["quantize.embedding.weight"] = rng.normal(size=(SIZE, DIM))
  if llamagen:
    out["quantize.codebook_used"] = np.zeros(100)
  out["loss.logvar"] = np.zeros(1)
  return {name: np.ascontiguousarray(value, np.float32) for name, value in out.items()}


@pytest.mark.parametrize("family", vqgan.FAMILIES)
def test_every_tensor_finds_its_place(tmp_path, family):
  """Each of the file's values is in exactly one parameter, and each parameter is from the file."""
  file, tensors = tmp_path / "vq.safetensors", network(family)
  save_file({f"vq.{name}": value for name, value in tensors.items()}, file)     # some lie under a name of the whole model
  options, params = vqgan.read(str(file), family)
  assert (options.widths, options.blocks, options.latent, options.downsampling) == (WIDTHS, BLOCKS, LATENT, 2)
  assert options.quantizer == c.Quantizer(kind="vq" if family == "taming" else "l2", codebook_size=SIZE, code_dim=DIM)
  mine = [np.sort(leaf.ravel()) for leaf in jax.tree.leaves(params)]
  theirs = [np.sort(v.ravel()) for n, v in tensors.items() if n not in ("quantize.codebook_used", "loss.logvar")]
  assert sorted(x.tobytes() for x in mine) == sorted(x.tobytes() for x in theirs)
  kernel = params["encoder"]["levels"][1]["blocks"][1]["conv2"]["kernel"]
  name = {"llamagen": "encoder.conv_blocks.1.res.1", "taming": "encoder.down.1.block.1", "janus": "encoder.down.1.block.1"}[family]
  np.testing.assert_array_equal(kernel[2, 0, 5, 7], tensors[f"{name}.conv2.weight"][7, 5, 2, 0])
  coarse = params["painter"]["up"][0]["kernel"]
  name = {"llamagen": "decoder.conv_blocks.0", "taming": "decoder.up.1", "janus": "decoder.up.0"}[family]
  np.testing.assert_array_equal(coarse[0, 1, 2, 3], tensors[f"{name}.upsample.conv.weight"][3, 2, 0, 1])


def test_an_imported_tokenizer_is_one(tmp_path, capsys):
  """`unitok import`, then reconstruct from it and train on from it."""
  file, out = tmp_path / "vq.safetensors", tmp_path / "run"
  save_file(network("llamagen"), file)
  assert main(["import", "llamagen", str(file), "--out", str(out), "--json"]) in (None, 0)
  assert json.loads(capsys.readouterr().out)["codebook_size"] == SIZE
  image, pixels = load_image_tokenizer(out), np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
  codes = image.encode(pixels)
  assert codes.shape == (2, 4, 6) and image.decode(codes).shape == pixels.shape
  options, params = vqgan.read(str(file), "llamagen")
  tokenizer = Tokenizer(options)
  state = jax.jit(lambda key: tokenizer.init(key)[1])(jax.random.key(0))
  np.testing.assert_array_equal(codes, jax.jit(tokenizer.encode)(params, state, pixels))
  assert read_config(out).image_tokenizer.network == "vqgan"
  with pytest.raises(ValueError, match="exists already; name a new folder with --out"):
    vqgan.write(str(file), "llamagen", out)


def test_what_cannot_be_imported(tmp_path):
  tensors, file = network("taming"), tmp_path / "vq.safetensors"

  def told(message: str, family: str = "taming", **changes):
    save_file({name: value for name, value in (tensors | changes).items() if value is not None}, file)
    with pytest.raises(ValueError, match=message):
      vqgan.write(str(file), family, tmp_path / "out")
    assert not (tmp_path / "out").exists()

  told("family 'vqvae' is unknown; one of taming, llamagen, janus", "vqvae")
  told("as llamagen, it lacks encoder.conv_blocks.0.res.0.conv1.weight; is it of another family", "llamagen")
  told("as taming it lacks decoder.up.1.block.2.norm2.bias", **{"decoder.up.1.block.2.norm2.bias": None})
  told(r"decoder.conv_out.weight is \[3, 32, 1, 3\], must be \[3, 32, 3, 3\]",
       **{"decoder.conv_out.weight": np.zeros((3, 32, 1, 3), np.float32)})
  told("1 tensors have no place in this network, the first encoder.down.0.attn.0.q.weight",
       **{"encoder.down.0.attn.0.q.weight": np.zeros((32, 32, 1, 1), np.float32)})
  told("0 tensors named …encoder.conv_in.weight", **{"encoder.conv_in.weight": None})
  with pytest.raises(ValueError, match="no such file; name a safetensors file"):
    vqgan.read(str(tmp_path / "none"), "taming")
  file.write_bytes(b"PK\x03\x04 a pickle in a zip")
  with pytest.raises(ValueError, match="is no safetensors file .*convert others with"):
    vqgan.read(str(file), "taming")


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (32, 8)])
def test_janus_is_transformers_own(tmp_path, shape):
  """Its JanusVQVAE with random weights: codes identical, pixels to 1e-4 in float32. The codes are of length one, as Janus'
  own code makes them before it searches; transformers searches among them as they are stored."""
  torch = pytest.importorskip("torch", reason="the extra bench (torch, transformers) is not installed")
  janus = pytest.importorskip("transformers.models.janus.modeling_janus", reason="the extra bench is not installed")
  from transformers import JanusVQVAEConfig
  torch.manual_seed(0)
  theirs = janus.JanusVQVAE(JanusVQVAEConfig(embed_dim=8, num_embeddings=64, latent_channels=16, base_channels=32,
                                             channel_multiplier=[1, 2], num_res_blocks=1, num_patches=8)).eval()
  with torch.no_grad():
    theirs.quantize.embedding.weight /= theirs.quantize.embedding.weight.norm(dim=-1, keepdim=True)
  file = tmp_path / "janus.safetensors"
  save_file({name: value.detach().numpy().copy() for name, value in theirs.state_dict().items()}, file)
  options, params = vqgan.read(str(file), "janus")
  tokenizer, pixels = Tokenizer(options), np.random.default_rng(0).integers(0, 256, (2, *shape, 3), np.uint8)
  state = tokenizer.init(jax.random.key(0))[1]
  with torch.no_grad():
    x = torch.from_numpy(np.array(to_pm1(pixels))).permute(0, 3, 1, 2)
    codes = theirs.encode(x).image_tokens.reshape(2, shape[0] // 2, shape[1] // 2)
    theirs.quantize.quant_state_dims = [*codes.shape[1:]]      # theirs decodes a square otherwise
    painted = theirs.decode(codes.reshape(2, -1))
  np.testing.assert_array_equal(tokenizer.encode(params, state, pixels), codes.numpy())
  last = tokenizer._model(params).painter.paint(
      tokenizer.quantizer.lookup(params["quantizer"], state, codes.numpy().ravel(), options.quantizer).reshape(*codes.shape, 8))
  np.testing.assert_allclose(tokenizer.finish(params, last), painted.permute(0, 2, 3, 1).numpy(), atol=1e-4)
