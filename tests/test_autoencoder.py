"""The tokenizer's network: shapes, its own depthwise convolution, what a code sees, and that it learns."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok.config import ImageTokenizer, Quantizer, Train
from unitok.models.autoencoder import NETWORKS, check, to_pm1, to_u8
from unitok.models.convnext import depth_to_space, depthwise, space_to_depth
from unitok.models.quantizers import QUANTIZERS
from unitok.optim import optimizer
from unitok.sharding import path_name
from unitok.steps import Tokenizer, tokenizer_state, tokenizer_step


def small(kind: str = "l2", **options) -> ImageTokenizer:
  quantizer = Quantizer(kind=kind, codebook_size=16, code_dim=4, levels=(4, 4))
  return ImageTokenizer(**{"widths": (8, 12), "blocks": (1, 1), "quantizer": quantizer, **options})


def pictures(n: int = 4, side: int = 16) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_shapes(kind):
  tokenizer = Tokenizer(small(kind))
  params, state = jax.eval_shape(tokenizer.init, jax.random.key(0))
  for height, width in ((16, 16), (8, 24)):
    pixels = np.zeros((3, height, width, 3), np.uint8)
    codes = jax.eval_shape(tokenizer.encode, params, state, pixels)
    assert codes.shape == (3, height // 4, width // 4) and codes.dtype == jnp.int32
    out = jax.eval_shape(tokenizer.decode, params, state, codes)
    assert out.shape == pixels.shape and out.dtype == jnp.uint8


@pytest.mark.parametrize("network", NETWORKS)
def test_networks(network):
  """Any size that divides; every parameter takes part; last layers are linear, as the judge's balance asks."""
  level = dict(widths=(8,), blocks=(2,), patch=4) if network == "vit" else dict(widths=(8, 16), blocks=(1, 2), patch=2)
  options = small(network=network, latent=6, **level)
  tokenizer = Tokenizer(options)
  params, state = jax.jit(tokenizer.init)(jax.random.key(0))
  for height, width in ((16, 16), (8, 24)):
    codes = jax.eval_shape(tokenizer.encode, params, state, np.zeros((3, height, width, 3), np.uint8))
    assert codes.shape == (3, height // 4, width // 4)
    assert jax.eval_shape(tokenizer.decode, params, state, codes).shape == (3, height, width, 3)

  def loss(params):
    last, quantized, _ = tokenizer.through(params, state, to_pm1(pictures(2)))
    return (tokenizer.finish(params, last) ** 2).mean() + sum(quantized.losses.values())

  gradient = jax.jit(jax.grad(loss))(params)
  still = [path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(gradient) if not jnp.abs(leaf).max() > 0]
  assert all(path.endswith("/k/bias") for path in still), "a key's bias alone moves no softmax"
  a, b = jax.random.normal(jax.random.key(1), (2, 2, 8, 8, 8))
  finish = lambda x: tokenizer.finish(params, x) - tokenizer.finish(params, 0 * x)
  np.testing.assert_allclose(finish(a + b), finish(a) + finish(b), atol=1e-4)


def test_vit_knows_where():
  """Every place sees every other; the same patches at other places have other features, rows and columns told
  apart; a long grid by blocks gives what the whole mask does."""
  options = small(network="vit", widths=(128,), blocks=(2,), patch=4)
  tokenizer = Tokenizer(options)
  params, _ = jax.jit(tokenizer.init)(jax.random.key(0))
  features = jax.jit(tokenizer.features)
  x = to_pm1(pictures(1))
  gradient = jax.jit(jax.grad(lambda x: (tokenizer.features(params, x)[0, 1, 2] ** 2).sum()))(x)
  assert (space_to_depth(jnp.abs(gradient), 4).sum(-1) > 0).all()
  patches = space_to_depth(x, 4)
  moved = lambda some: features(params, depth_to_space(some, 4))
  was = moved(patches)
  assert jnp.abs(moved(patches.swapaxes(1, 2)).swapaxes(1, 2) - was).max() > 1e-3
  assert jnp.abs(moved(patches[:, ::-1])[:, ::-1] - was).max() > 1e-3
  encoder = tokenizer._model(params).encoder
  long = jax.random.normal(jax.random.key(1), (1, 18, 30, 128))
  whole = jax.jit(encoder.transformer)(long)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("unitok.models.vit.LONG", 10**6)
    np.testing.assert_allclose(whole, jax.jit(lambda x: encoder.transformer(x))(long), atol=2e-4)


@pytest.mark.parametrize("widths, blocks, patch, down", [((8,), (1,), 4, 4), ((8, 8, 8), (0, 1, 1), 1, 4), ((8, 8), (1, 1), 4, 8)])
def test_downsampling(widths, blocks, patch, down):
  options = small(widths=widths, blocks=blocks, patch=patch)
  assert options.downsampling == down
  tokenizer = Tokenizer(options)
  codes = jax.eval_shape(lambda x: tokenizer.encode(*tokenizer.init(jax.random.key(0)), x), np.zeros((2, 16, 16, 3), np.uint8))
  assert codes.shape == (2, 16 // down, 16 // down)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_depthwise(side):
  x = jax.random.normal(jax.random.key(0), (2, 6, 5, 7))
  taps = jax.random.normal(jax.random.key(1), (side, side, 7))
  want = jax.lax.conv_general_dilated(x, taps[:, :, None], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                      feature_group_count=7)
  np.testing.assert_allclose(depthwise(x, taps), want, atol=1e-4)


def test_space_and_depth():
  x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
  deep = space_to_depth(x, 4)
  assert deep.shape == (2, 2, 3, 48)
  np.testing.assert_array_equal(deep[1, 0, 2, :3], x[1, 0, 8])
  np.testing.assert_array_equal(depth_to_space(deep, 4), x)


def test_pixels():
  every = np.arange(256, dtype=np.uint8)
  assert to_pm1(every).min() == -1 and to_pm1(every).max() == 1
  np.testing.assert_array_equal(to_u8(to_pm1(every)), every)
  np.testing.assert_array_equal(to_u8(jnp.array([-3.0, 3.0])), [0, 255])


@pytest.mark.parametrize("kernel", [1, 3])
def test_what_a_code_sees(kernel):
  """With encoder_kernel=1 the vector at a place depends on its own pixels, by gradient; with 3 on others too."""
  tokenizer = Tokenizer(small(encoder_kernel=kernel))
  params, _ = jax.jit(tokenizer.init)(jax.random.key(0))
  gradient = jax.jit(jax.grad(lambda x: (tokenizer.features(params, x)[0, 1, 2] ** 2).sum()))(to_pm1(pictures(1)))
  seen = np.abs(gradient[0]).sum(-1) > 0
  own = np.zeros((16, 16), bool)
  own[4:8, 8:12] = True
  assert seen[own].all()
  assert seen[~own].any() == (kernel > 1)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_overfits_one_batch(kind):
  train = Train(steps=150, learning_rate=5e-3, warmup_steps=5, weight_decay=0.0, ema_decay=0.9)
  tokenizer = Tokenizer(small(kind, widths=(16,), blocks=(1,), patch=4, train=train))
  tx, key = optimizer(train), jax.random.key(0)
  state = jax.jit(lambda k: tokenizer_state(tokenizer, tx, k))(key)
  step = jax.jit(lambda s: tokenizer_step(tokenizer, tx, s, flat, key))
  flat = np.repeat(np.random.default_rng(0).integers(0, 256, (4, 16, 1, 1, 3), np.uint8), 16, 2).reshape(4, 4, 4, 4, 4, 3)
  flat = np.ascontiguousarray(flat.transpose(0, 1, 3, 2, 4, 5).reshape(4, 16, 16, 3))   # places of one colour
  psnr = []
  for _ in range(train.steps):
    state, metrics = step(state)
    psnr.append(float(metrics["psnr_db"]))
  assert psnr[-1] > max(psnr[0] + 6, 13), psnr[::30]
  weights = state.extra["average"], state.extra["quantizer"]
  out = jax.jit(lambda p, q, x: tokenizer.decode(p, q, tokenizer.encode(p, q, x)))(*weights, flat)
  averaged = -10 * np.log10(np.mean((np.float32(out) - flat) ** 2) / 255**2)
  assert abs(averaged - psnr[-1]) < 3


@pytest.mark.parametrize("options, size, message", [
    (dict(quantizer=Quantizer(kind="pq")), 16, "quantizer.kind: 'pq' is unknown; one of l2"),
    (dict(quantizer=Quantizer(kind="lfq", codebook_size=500)), 16, "quantizer.codebook_size: 500 is no power of two"),
    (dict(quantizer=Quantizer(kind="fsq", levels=(8, 1))), 16, r"quantizer.levels: \(8, 1\)"),
    (dict(quantizer=Quantizer(kind="fsq", codebook_size=100, levels=(8, 8))), 16, r"codebook_size: 100, but levels \(8, 8\) make 64"),
    (dict(network="unet"), 16, "image_tokenizer.network: 'unet' is unknown; one of convnext, vqgan, vit"),
    (dict(network="vit"), 16, r"widths: \(8, 12\) must be one width for vit"),
    (dict(network="vit", widths=(96,), blocks=(1,)), 16, r"widths: \(96,\) must be a multiple of 64 for vit's heads"),
    (dict(network="vit", widths=(10,), blocks=(1,)), 16, r"widths: \(10,\) .* or of 4"),
    (dict(network="vit", widths=(8,), blocks=(0,)), 16, r"blocks: \(0,\) must be 1 or more"),
    (dict(network="vit", widths=(8,), blocks=(1,), patch=8), 20, "data.image_size: 20 .* take 16"),
    (dict(network="vqgan", widths=(48, 64)), 16, r"widths: \(48, 64\) must be multiples of 32"),
    (dict(blocks=(1,)), 16, r"blocks: \(1,\) must have one number a level"),
    ({}, 18, "data.image_size: 18 .* take 16")])
def test_check(options, size, message):
  with pytest.raises(ValueError, match=message):
    check(small(**options), size)
