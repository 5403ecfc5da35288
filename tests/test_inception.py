"""Inception-v3 of the Fréchet distance: against one in torch, weights random; its pooling by hand; its reading."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from unitok.evaluation import networks
from unitok.interop.measures import read_inception
from unitok.models import inception


def published() -> dict[str, np.ndarray]:
  """Random weights under pytorch-fid's names."""
  rng, out = np.random.default_rng(0), {"fc.bias": np.zeros(1008)}
  for name, shape in inception.shapes().items():
    layer, _, part = name.partition("/")
    if part == "kernel":
      rows, columns, into, width = shape
      kernel = rng.standard_normal((width, into, rows, columns), np.float32)
      out[f"{layer}.conv.weight"] = kernel * (2 / rows / columns / into) ** 0.5
      for one, around in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        out[f"{layer}.bn.{one}"] = around + rng.uniform(-0.3, 0.3, width)
  return {name: value.astype(np.float32) for name, value in out.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
  save_file(published(), path)
  return str(path)


def pixels(height: int, width: int, count: int = 1) -> np.ndarray:
  return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8)


def test_pooling():
  """A mean over the neighbours there are, a maximum beside them, by hand."""
  x = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
  about = lambda of: [[of(x[0, max(i - 1, 0):i + 2, max(j - 1, 0):j + 2]) for j in range(4)] for i in range(3)]
  np.testing.assert_allclose(inception.mean(x)[0, ..., 0], about(np.mean), rtol=1e-6)
  np.testing.assert_array_equal(inception.largest(x, 1, "SAME")[0, ..., 0], about(np.max))
  np.testing.assert_array_equal(inception.largest(x, 2, "VALID")[0, ..., 0], [[10]])


def test_what_is_pooled():
  """The pool's branch of a block is given the mean of what the block is given, in the last the maximum."""
  asked = {}

  def layer(name, x, width, kernel, stride, padding):      # a mean of the window stands for the convolution
    asked[name] = x
    window = jax.lax.reduce_window(x.mean(-1, keepdims=True), 0.0, jax.lax.add, (1, *kernel, 1),
                                   (1, stride, stride, 1), padding)
    return window / np.prod(kernel) * jnp.linspace(-1, 2, width)

  def given(x):
    inception.network(x, layer)
    return dict(asked)

  asked = jax.jit(given)(np.random.default_rng(2).normal(size=(1, 299, 299, 3)).astype(np.float32))
  blocks = [name.removesuffix("_pool") for name in asked if name.endswith("branch_pool")]
  assert [block[6:8] for block in blocks] == ["5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b", "7c"]
  for block in blocks:
    x = asked[f"{block}1x1"]
    want = inception.mean(x) if "7c" not in block else inception.largest(x, 1, "SAME")
    assert x.std() > 0
    np.testing.assert_array_equal(asked[f"{block}_pool"], want)


def test_size():
  """The parameters of the published network without its classifier; its grid."""
  assert sum(np.prod(shape) for shape in inception.shapes().values()) == 21_751_136 + 17_216
  layer = lambda name, x, width, kernel, stride, padding: jax.lax.conv_general_dilated(
      x, jnp.zeros((*kernel, x.shape[-1], width)), (stride, stride), padding,
      dimension_numbers=("NHWC", "HWIO", "NHWC"))
  assert jax.eval_shape(lambda x: inception.network(x, layer), jnp.zeros((2, 299, 299, 3))).shape == (2, 8, 8, 2048)


def in_torch(torch, tensors, images):
  """Features f32[b 2048]."""
  functional = torch.nn.functional

  def conv(name, x, stride=1, padding=0):
    x = functional.conv2d(x, tensors[f"{name}.conv.weight"], stride=stride, padding=padding)
    norm = [tensors[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return functional.relu(functional.batch_norm(x, *norm, eps=1e-3))

  average = lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
  halve = lambda x: functional.max_pool2d(x, 3, 2)
  across, down = (0, 3), (3, 0)
  x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
  x = 2 * functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1
  x = conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", x, 2))
  x = halve(conv("Conv2d_2b_3x3", x, padding=1))
  x = halve(conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x)))
  for n in "bcd":
    b = f"Mixed_5{n}.branch"
    x = torch.cat([conv(b + "1x1", x), conv(b + "5x5_2", conv(b + "5x5_1", x), padding=2),
                   conv(b + "3x3dbl_3", conv(b + "3x3dbl_2", conv(b + "3x3dbl_1", x), padding=1), padding=1),
                   conv(b + "_pool", average(x))], 1)
  b = "Mixed_6a.branch"
  long = conv(b + "3x3dbl_2", conv(b + "3x3dbl_1", x), padding=1)
  x = torch.cat([conv(b + "3x3", x, 2), conv(b + "3x3dbl_3", long, 2), halve(x)], 1)
  for n in "bcde":
    b = f"Mixed_6{n}.branch"
    short = conv(b + "7x7_3", conv(b + "7x7_2", conv(b + "7x7_1", x), padding=across), padding=down)
    long = conv(b + "7x7dbl_3", conv(b + "7x7dbl_2", conv(b + "7x7dbl_1", x), padding=down), padding=across)
    long = conv(b + "7x7dbl_5", conv(b + "7x7dbl_4", long, padding=down), padding=across)
    x = torch.cat([conv(b + "1x1", x), short, long, conv(b + "_pool", average(x))], 1)
  b = "Mixed_7a.branch"
  long = conv(b + "7x7x3_3", conv(b + "7x7x3_2", conv(b + "7x7x3_1", x), padding=across), padding=down)
  x = torch.cat([conv(b + "3x3_2", conv(b + "3x3_1", x), 2), conv(b + "7x7x3_4", long, 2), halve(x)], 1)
  for n in "bc":
    b = f"Mixed_7{n}.branch"
    short, long = conv(b + "3x3_1", x), conv(b + "3x3dbl_2", conv(b + "3x3dbl_1", x), padding=1)
    pooled = average(x) if n == "b" else functional.max_pool2d(x, 3, 1, 1)
    x = torch.cat([conv(b + "1x1", x),
                   conv(b + "3x3_2a", short, padding=(0, 1)), conv(b + "3x3_2b", short, padding=(1, 0)),
                   conv(b + "3x3dbl_3a", long, padding=(0, 1)), conv(b + "3x3dbl_3b", long, padding=(1, 0)),
                   conv(b + "_pool", pooled)], 1)
  return x.mean((2, 3)).numpy()


@pytest.mark.parametrize("size", [(40, 52), (320, 299)])      # smaller and larger than what it looks at
def test_in_torch(file, size):
  torch = pytest.importorskip("torch", reason="the extra bench (torch, transformers) is not installed")
  tensors, images = {name: torch.from_numpy(value) for name, value in published().items()}, pixels(*size)
  want = in_torch(torch, tensors, images)
  found = networks.features(read_inception(file))(images)
  assert found.shape == (1, 2048) and want.std() > 0.1 * want.mean()
  np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-4 * want.mean())


def test_the_same_again(file):
  """Whatever the batch, to rounding; in one batch to the last bit."""
  of, images = networks.features(read_inception(file)), pixels(8, 8, 3)
  found = of(images)
  assert found.shape == (3, 2048) and np.isfinite(found).all()
  assert found.tobytes() == of(images).tobytes()
  np.testing.assert_allclose(found[1:2], of(images[1:2]), rtol=1e-4, atol=1e-5)


def test_reading(tmp_path):
  tensors, path = published(), str(tmp_path / "w.safetensors")
  wrong = {**tensors, "Mixed_7c.branch_pool.bn.running_var": np.zeros(3, np.float32)}
  lacking = {name: value for name, value in tensors.items() if name != "Mixed_6e.branch7x7_2.conv.weight"}
  for one, says in ((wrong, r"Mixed_7c.branch_pool.bn.running_var is \[3\], must be \[192\]; make one of pytorch"),
                    (lacking, "lacks Mixed_6e.branch7x7_2.conv.weight; make one of pytorch-fid's")):
    save_file(one, path)
    with pytest.raises(ValueError, match=says):
      read_inception(path)
