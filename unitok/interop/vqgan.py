"""Published VQGANs, from safetensors files, as image tokenizers of this project.

Three families of names for one network: taming-transformers' VQGAN (2012.09841), LlamaGen's VQ-8 and VQ-16 (2406.06525)
and Janus' (2410.13848, as transformers saves it), the last two with l2-normalised codes (transformers' encoder searches
among Janus' codes without normalising them, its decoder does; here both do, as in Janus' own code). Widths, blocks and
codebook are read off the weights. A `.pt` or `.ckpt` file must be made safetensors first, for unpickling runs what is in
it.
"""
import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load_file

from unitok import config as c
from unitok.checkpoint import Checkpoints
from unitok.files import write_json
from unitok.sharding import path_name
from unitok.steps import Tokenizer, TrainState

Rules = tuple[tuple[str, str], ...]


class Family(NamedTuple):
  quantizer: str     # a kind of QUANTIZERS
  rules: Rules       # (what our path has, what theirs has), each where it matches; {n} in theirs counts from the end


_PARTS: Rules = (
    ("shortcut", "nin_shortcut"), ("attention/out", "attention/proj_out"), (r"(attentions/\d+)/out", r"\1/proj_out"),
    ("encoder/enter", "encoder/conv_in"), ("painter/enter", "decoder/conv_in"), ("painter", "decoder"),
    (r"coder/norm/", "coder/norm_out/"), (r"coder/leave/", "coder/conv_out/"),
    ("encoder/to_codes", "quant_conv"), ("decoder/from_codes", "post_quant_conv"),
    ("quantizer/codebook", "quantize/embedding/weight"))
_TAMING: Rules = (
    (r"middle/block(\d)", r"mid/block_\1"), ("middle/attention", "mid/attn_1"),
    (r"encoder/down/(\d+)", r"encoder/down/\1/downsample/conv"),
    (r"encoder/levels/(\d+)/blocks", r"encoder/down/\1/block"),
    (r"encoder/levels/(\d+)/attentions", r"encoder/down/\1/attn"))
_BACKWARDS: Rules = (
    (r"decoder/up/(\d+)", r"decoder/up/{\1}/upsample/conv"), (r"decoder/levels/(\d+)/blocks", r"decoder/up/{\1}/block"),
    (r"decoder/levels/(\d+)/attentions", r"decoder/up/{\1}/attn"))
_FORWARDS: Rules = tuple((ours, theirs.replace(r"{\1}", r"\1")) for ours, theirs in _BACKWARDS)
_LLAMAGEN: Rules = (
    ("middle/block1", "mid/0"), ("middle/attention", "mid/1"), ("middle/block2", "mid/2"),
    (r"encoder/down/(\d+)", r"encoder/conv_blocks/\1/downsample/conv"),
    (r"decoder/up/(\d+)", r"decoder/conv_blocks/\1/upsample/conv"),
    (r"coder/levels/(\d+)/blocks", r"coder/conv_blocks/\1/res"),
    (r"coder/levels/(\d+)/attentions", r"coder/conv_blocks/\1/attn"))

_OURS = re.compile(r"(encoder|decoder|quantize\.embedding|quant_conv|post_quant_conv)\.")
"""How the names of tensors begin that a tokenizer is made of; the rest (a discriminator, counters) is left out."""

FAMILIES: dict[str, Family] = {
    "taming": Family("vq", _PARTS + _TAMING + _BACKWARDS),
    "llamagen": Family("l2", _PARTS + _LLAMAGEN),
    "janus": Family("l2", _PARTS + _TAMING + _FORWARDS),
}


def name_of(path: str, family: Family, levels: int) -> str:
  """Theirs for our parameter's path: "encoder/levels/0/blocks/1/norm1/scale" -> "encoder.down.0.block.1.norm1.weight"."""
  for ours, theirs in family.rules:
    path = re.sub(ours, theirs, path)
  path = re.sub(r"\{(\d+)\}", lambda n: str(levels - 1 - int(n[1])), path)
  return re.sub("/(kernel|scale)$", "/weight", path).replace("/", ".")


def read(path: str, family: str) -> tuple[c.ImageTokenizer, dict]:
  """(options, params) of a safetensors file. ValueError for a file or a family that is none, a part that is missing,
  has another shape, or is left over."""
  if family not in FAMILIES:
    raise ValueError(f"family {family!r} is unknown; one of {', '.join(FAMILIES)}")
  if not Path(path).is_file():
    raise ValueError(f"{path}: no such file; name a safetensors file")
  try:
    tensors = load_file(path)
  except (SafetensorError, OSError) as error:
    raise ValueError(f"{path}: is no safetensors file ({error}); convert others with "
                     "safetensors.torch.save_file") from None
  first = [name for name in tensors if name.endswith("encoder.conv_in.weight")]
  if len(first) != 1:
    raise ValueError(f"{path}: has {len(first)} tensors named …encoder.conv_in.weight, a VQGAN has one; its names begin "
                     f"with {', '.join(sorted(tensors)[:3])}")
  front = first[0].removesuffix("encoder.conv_in.weight")
  tensors = {name.removeprefix(front): value for name, value in tensors.items() if name.startswith(front)}
  tensors = {name: np.asarray(value, np.float32) for name, value in tensors.items() if _OURS.match(name)}
  options = options_of(tensors, FAMILIES[family], f"{path}: as {family}")
  shapes = jax.eval_shape(lambda: Tokenizer(options).init(jax.random.key(0))[0])
  unused = set(tensors)

  def one(where, leaf):
    name = name_of(path_name(where), FAMILIES[family], len(options.widths))
    if name not in tensors:
      raise ValueError(f"{path}: as {family} it lacks {name}; is it of another family ({', '.join(FAMILIES)})?")
    unused.discard(name)
    value, kernel = tensors[name], leaf.ndim == 4      # a kernel is [rows columns in out], theirs [out in rows columns]
    if kernel and value.ndim == 2:                     # attention as linear layers
      value = value[:, :, None, None]
    want = tuple(leaf.shape[axis] for axis in (3, 2, 0, 1)) if kernel else leaf.shape
    if value.shape != want:
      raise ValueError(f"{path}: {name} is {list(value.shape)}, must be {list(want)}; the file is damaged or of another "
                       "network")
    return value.transpose(2, 3, 1, 0) if kernel else value

  params = jax.tree_util.tree_map_with_path(one, shapes)
  if unused:
    raise ValueError(f"{path}: {len(unused)} tensors have no place in this network, the first {min(unused)}; is it of another "
                     f"family ({', '.join(FAMILIES)})?")
  return options, params


def options_of(tensors: dict[str, np.ndarray], family: Family, said: str) -> c.ImageTokenizer:
  """What the shapes say. Each level of the encoder has its own number of blocks."""
  theirs = lambda path: name_of(path, family, 1)      # of the encoder, where no level is counted from the end
  widths, blocks = [], []
  while theirs(f"encoder/levels/{len(widths)}/blocks/0/conv1/kernel") in tensors:
    level = f"encoder/levels/{len(widths)}/blocks"
    widths.append(len(tensors[theirs(f"{level}/0/conv1/kernel")]))
    blocks.append(sum(theirs(f"{level}/{n}/conv1/kernel") in tensors for n in range(64)))
  need = [theirs(name) for name in ("quantizer/codebook", "encoder/leave/kernel")]
  missing = [name for name in need if name not in tensors]
  if missing or not widths:
    lacks = missing[0] if missing else theirs("encoder/levels/0/blocks/0/conv1/kernel")
    raise ValueError(f"{said}, it lacks {lacks}; is it of another family ({', '.join(FAMILIES)})?")
  size, dim = tensors[need[0]].shape
  quantizer = c.Quantizer(kind=family.quantizer, codebook_size=size, code_dim=dim)
  return c.ImageTokenizer(network="vqgan", widths=tuple(widths), blocks=tuple(blocks), patch=1,
                          latent=len(tensors[need[1]]), quantizer=quantizer)


def write(path: str, family: str, out) -> c.ImageTokenizer:
  """A run's folder `out` with the tokenizer alone, as `--init.from` and `unitok reconstruct` take it. ValueError as
  `read`'s, or where `out` is there already; nothing is left there then."""
  out = epath.Path(out)
  if out.exists():
    raise ValueError(f"{out}: exists already; name a new folder with --out")
  options, params = read(path, family)
  options = dataclasses.replace(options, train=dataclasses.replace(options.train, steps=1))   # the checkpoint's number
  _, codes = Tokenizer(options).init(jax.random.key(0))
  params = jax.tree.map(jnp.asarray, params)
  state = TrainState(jnp.int32(1), params, {}, {"average": params, "quantizer": codes})      # nobody goes on training it
  part = out.parent / f"{out.name}.part"
  if part.exists():
    part.rmtree()
  part.mkdir(parents=True)
  with Checkpoints(part / "image_tokenizer") as checkpoints:
    checkpoints.save(1, state)
    checkpoints.wait()
  config = c.Config(name=f"{family} of {Path(path).name}", data=c.ImageFolder(image_size=256), image_tokenizer=options)
  write_json(part / "config.json", c.to_json(config))
  part.rename(out)
  return options
