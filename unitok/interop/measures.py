"""Published networks that measure pictures, from safetensors files that the user names."""
import hashlib
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from unitok.models import inception, lpips

LPIPS_SOURCE = (
    "make one of the lpips package: pip install lpips safetensors; python -c \"import lpips; from safetensors.torch "
    "import save_file; save_file({k: v for k, v in lpips.LPIPS(net='vgg').state_dict().items() if not "
    "k.startswith('lins.')}, 'lpips_vgg.safetensors')\"")
INCEPTION_SOURCE = (
    "make one of pytorch-fid's weights: pip install pytorch-fid safetensors; python -c \"from pytorch_fid.inception "
    "import fid_inception_v3; from safetensors.torch import save_file; save_file(fid_inception_v3().state_dict(), "
    "'inception_fid.safetensors')\"")


def read_lpips(path: str) -> dict[str, np.ndarray]:
  """The weights `unitok.models.lpips` takes. ValueError where a tensor is missing or of another shape.

  Read are torchvision's VGG16, `features.N.weight` f[out in 3 3] and `features.N.bias` f[out] for N = 0 2 5 7 10 12 14
  17 19 21 24 26 28, of 64 64 128 128 256 256 256 and then 512 channels, or the same as lpips saves it
  (`net.sliceS.N.weight`), and the linear heads of lpips v0.1 for VGG, `lin0.model.1.weight` … `lin4.model.1.weight`
  f[1 c 1 1]. What else is there is left alone.
  """
  tensors, out = _load(path, LPIPS_SOURCE), {}
  tensors = {re.sub(r"^net\.slice\d\.", "features.", name): value for name, value in tensors.items()}
  for name, shape in lpips.shapes().items():
    number, _, part = name.partition("/")
    if part == "kernel":
      value = _tensor(tensors, f"features.{number}.weight", (shape[3], shape[2], 3, 3), path, LPIPS_SOURCE)
      out[name] = value.transpose(2, 3, 1, 0)
    elif part:
      out[name] = _tensor(tensors, f"features.{number}.bias", shape, path, LPIPS_SOURCE)
    else:
      out[name] = _tensor(tensors, f"{name}.model.1.weight", (1, *shape, 1, 1), path, LPIPS_SOURCE).reshape(shape)
  return out


def read_inception(path: str) -> dict[str, np.ndarray]:
  """The weights `unitok.models.inception` takes. ValueError where a tensor is missing or of another shape.

  Read are pytorch-fid's names: for each convolution NAME of `inception.shapes` (Conv2d_1a_3x3 … Mixed_7c.branch_pool)
  NAME.conv.weight f[out in rows columns] and NAME.bn.weight, .bias, .running_mean, .running_var f[out]. The
  classifier `fc` and counters are left alone.
  """
  tensors, out = _load(path, INCEPTION_SOURCE), {}
  for name, shape in inception.shapes().items():
    layer, _, part = name.partition("/")
    if part == "bias":
      continue
    theirs = tuple(shape[axis] for axis in (3, 2, 0, 1))
    kernel = _tensor(tensors, f"{layer}.conv.weight", theirs, path, INCEPTION_SOURCE)
    scale, shift, mean, variance = (
        _tensor(tensors, f"{layer}.bn.{one}", shape[3:], path, INCEPTION_SOURCE).astype(np.float64)
        for one in ("weight", "bias", "running_mean", "running_var"))
    scale = scale / np.sqrt(variance + inception.EPSILON)
    out[name] = (kernel.transpose(2, 3, 1, 0) * scale).astype(np.float32)
    out[f"{layer}/bias"] = (shift - mean * scale).astype(np.float32)
  return out


def sha256(path: str) -> str:
  """Of a file's content, which says which weights measured."""
  return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _load(path: str, remedy: str) -> dict[str, np.ndarray]:
  if not Path(path).is_file():
    raise ValueError(f"{path}: no such file; {remedy}")
  try:
    return load_file(path)
  except SafetensorError as error:
    raise ValueError(f"{path}: is no safetensors file ({error}); {remedy}") from None


def _tensor(tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...], path: str, remedy: str) -> np.ndarray:
  if name not in tensors:
    raise ValueError(f"{path}: lacks {name}; {remedy}")
  if tensors[name].shape != shape:
    raise ValueError(f"{path}: {name} is {list(tensors[name].shape)}, must be {list(shape)}; {remedy}")
  return np.asarray(tensors[name], np.float32)
