"""LPIPS against the same network written out in numpy and in torch, with random weights; how its weights are read."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run
from safetensors.numpy import save_file

import train.image_tokenizer
from train.stage import open_workdir
from unitok import config as c
from unitok.evaluation.report import read_metrics
from unitok.interop.measures import read_lpips
from unitok.losses import picture_losses
from unitok.models.lpips import apart, lpips, shapes

LAYERS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}
"""Of torchvision's vgg16().features: convolutions and their channels."""
POOLS, TAKEN = (4, 9, 16, 23), (3, 8, 15, 22, 29)


def published() -> dict[str, np.ndarray]:
  rng, into, out = np.random.default_rng(0), 3, {}
  for n, width in LAYERS.items():
    out[f"features.{n}.weight"] = rng.normal(size=(width, into, 3, 3), scale=(2 / 9 / into) ** 0.5)
    out[f"features.{n}.bias"] = rng.normal(size=width, scale=0.1)
    into = width
  for n, width in enumerate((64, 128, 256, 512, 512)):
    out[f"lin{n}.model.1.weight"] = rng.uniform(size=(1, width, 1, 1))
  return {name: value.astype(np.float32) for name, value in out.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "lpips_vgg.safetensors"
  save_file(published(), path)
  return str(path)


@pytest.fixture(scope="module")
def weights(file):
  return read_lpips(file)


def pairs(height: int, width: int, count: int = 2) -> np.ndarray:
  """f32[2 count height width 3] in [-1, 1]."""
  return np.random.default_rng(1).uniform(-1, 1, (2, count, height, width, 3)).astype(np.float32)


def test_one_layer():
  """Three places of two channels by hand: (3, 4) against (4, 3), equal ones, one without any feature."""
  one, other = np.array([[[[3.0, 4], [6, 8], [0, 0]]]]), np.array([[[[4.0, 3], [3, 4], [0, 2]]]])
  want = (2.0 * 0.2**2 + 5.0 * 0.2**2 + 0 + 5.0 * 1) / 3
  assert apart(jnp.array(one), jnp.array(other), jnp.array([2.0, 5.0])) == pytest.approx(want)


def in_numpy(tensors, pixels) -> list[np.ndarray]:
  """Features f64[b h w c]; a convolution is nine shifted products."""
  x, found = (pixels.astype(np.float64) - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450], []
  for n in range(30):
    if n in POOLS:
      b, h, w, d = x.shape
      x = x[:, :h // 2 * 2, :w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, d).max((2, 4))
    elif n in LAYERS:
      padded, (_, h, w, _) = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), x.shape
      kernel = tensors[f"features.{n}.weight"].astype(np.float64)
      x = sum(padded[:, i:i + h, j:j + w] @ kernel[:, :, i, j].T for i in range(3) for j in range(3))
      x = x + tensors[f"features.{n}.bias"]
    else:
      x = np.maximum(x, 0)
    if n in TAKEN:
      found.append(x)
  return found


def test_in_numpy(weights):
  tensors, (one, other) = published(), pairs(16, 18)
  want = 0.0
  for n, (a, b) in enumerate(zip(in_numpy(tensors, one), in_numpy(tensors, other))):
    a, b = (x / np.sqrt((x**2).sum(-1, keepdims=True)) for x in (a, b))
    want += ((a - b) ** 2 * tensors[f"lin{n}.model.1.weight"].ravel()).sum(-1).mean((1, 2))
  np.testing.assert_allclose(jax.jit(lpips)(weights, one, other), want, rtol=1e-4)


def test_in_torch(weights):
  torch = pytest.importorskip("torch", reason="the extra bench (torch, transformers) is not installed")
  tensors, (one, other) = {k: torch.from_numpy(v) for k, v in published().items()}, pairs(40, 33)
  functional = torch.nn.functional

  def found(pixels):
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    x = (x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    for n in range(30):
      if n in LAYERS:
        x = functional.conv2d(x, tensors[f"features.{n}.weight"], tensors[f"features.{n}.bias"], padding=1)
      else:
        x = functional.max_pool2d(x, 2, 2) if n in POOLS else functional.relu(x)
      if n in TAKEN:
        yield functional.normalize(x, eps=1e-10)

  want = sum(functional.conv2d((a - b) ** 2, tensors[f"lin{n}.model.1.weight"]).mean((1, 2, 3))
             for n, (a, b) in enumerate(zip(found(one), found(other))))
  np.testing.assert_allclose(jax.jit(lpips)(weights, one, other), want.numpy(), rtol=1e-4)


def test_as_a_loss(weights):
  """0 of equal pictures, symmetric; finite gradients, where no feature is left, too; weighted among the others."""
  one, other = pairs(16, 16)
  distance = jax.jit(lpips)
  assert (np.asarray(distance(weights, one, one)) < 1e-12).all()
  np.testing.assert_allclose(distance(weights, one, other), distance(weights, other, one), rtol=1e-6)
  dead = {name: value - 1e6 * name.endswith("bias") for name, value in weights.items()}
  gradient = jax.jit(jax.grad(lambda w, a, b: lpips(w, a, b).sum(), 1))
  assert np.isfinite(gradient(weights, one, other)).all() and np.abs(gradient(weights, one, other)).max() > 0
  assert np.isfinite(gradient(weights, one, one)).all() and not np.any(gradient(dead, one, other))
  losses = c.PictureLosses(l1=1.0, perceptual=0.5)
  parts = jax.jit(lambda w, a, b: picture_losses(a, b, losses, w))(weights, one, other)
  assert parts.keys() == {"l1", "l2", "perceptual"}
  np.testing.assert_allclose(parts["perceptual"], 0.5 * np.mean(distance(weights, one, other)), rtol=1e-6)


def test_reading(tmp_path, weights):
  """Under lpips' own names the same; what is missing or misshapen is told."""
  tensors, path = published(), str(tmp_path / "w.safetensors")
  assert {name: value.shape for name, value in weights.items()} == shapes()
  slices = {n: 1 + sum(n > pool for pool in POOLS) for n in LAYERS}
  theirs = {name if name.startswith("lin") else f"net.slice{slices[int(name.split('.')[1])]}.{name[9:]}": value
            for name, value in tensors.items()}
  save_file({**theirs, "scaling_layer.shift": np.zeros(3, np.float32)}, path)
  for name, value in read_lpips(path).items():
    np.testing.assert_array_equal(value, weights[name])
  lacking = {name: value for name, value in tensors.items() if name != "lin3.model.1.weight"}
  for wrong, says in ((lacking, "lacks lin3.model.1.weight; make one of the lpips package"),
                      (tensors | {"features.28.bias": np.zeros(3, np.float32)}, r"28.bias is \[3\], must be \[512\]")):
    save_file(wrong, path)
    with pytest.raises(ValueError, match=says):
      read_lpips(path)
  (tmp_path / "w.safetensors").write_bytes(b"PK\x03\x04 a pickle in a zip")
  with pytest.raises(ValueError, match="is no safetensors file"):
    read_lpips(path)
  with pytest.raises(ValueError, match="no such file; make one of the lpips package"):
    read_lpips(path + "x")


def with_losses(**losses) -> c.Config:
  options = dataclasses.replace(small_run.CONFIG.image_tokenizer, losses=c.PictureLosses(**losses))
  return dataclasses.replace(small_run.CONFIG, image_tokenizer=options)


def test_a_tokenizer_learns_by_it(tmp_path, file):
  """Its loss is logged; its weights are no part of a checkpoint."""
  config = with_losses(perceptual=1.0, perceptual_weights=file)
  train.image_tokenizer.run(config, open_workdir(tmp_path / "run", config))
  lines = read_metrics(tmp_path / "run")["image_tokenizer"]
  assert all(np.isfinite(line["perceptual"]) and line["perceptual"] > 0 for line in lines if "loss" in line)
  size = sum(path.stat().st_size for path in (tmp_path / "run" / "image_tokenizer").rglob("*") if path.is_file())
  assert size < 2e6


@pytest.mark.parametrize("losses, side, says", [
    (dict(perceptual=1.0), 16, "needs LPIPS' weights; name a safetensors file"),
    (dict(perceptual=1.0, perceptual_weights="x"), 8, "pictures of 16 pixels a side or more, data.image_size is 8")])
def test_bad_options(tmp_path, losses, side, says):
  config = dataclasses.replace(with_losses(**losses), data=c.Scenes(image_size=side))
  with pytest.raises(ValueError, match=says):
    open_workdir(tmp_path / "run", config)
