"""A run's folder opened for use: its image tokenizer as two functions of arrays, its decoder's weights."""
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from unitok import config as c
from unitok.checkpoint import load_meta, load_part, read_config
from unitok.modalities import pixels
from unitok.modalities.image import SIDES, ImageModality
from unitok.modalities.location import LocationModality
from unitok.models import autoencoder
from unitok.models.precision import choose
from unitok.steps import Language, Tokenizer
from unitok.vocab import Vocabulary, image_blocks

STEPS = "steps.json"
"""Of a run's folder: stage -> the steps that the config's `minutes` had room for."""
LARGEST_BATCH = 256
"""Pictures encoded or decoded at once; fewer are padded to a power of two, so there is one compilation for each."""
LARGEST_PIXELS = 1 << 20
"""And their pixels: a network may have some hundred numbers for each."""


def block_sizes(text: int, image: int, books: int, boxes: bool, size_tokens: bool) -> dict[str, int]:
  """Of a run's vocabulary; those of boxes and of sizes stand behind, and only where used: ids cost memory and time."""
  return {"text": text, **dict.fromkeys(image_blocks(books), image),
          **({"location": LocationModality.size} if boxes else {}), **({"size": SIDES} if size_tokens else {})}


def read_steps(workdir) -> dict[str, int]:
  """What workdir/steps.json holds; {} where it is not there. ValueError where it is damaged."""
  path = epath.Path(workdir) / STEPS
  if not path.exists():
    return {}
  try:
    kept = {stage: int(steps) for stage, steps in json.loads(path.read_text()).items()}
    if not kept.keys() <= {"image_tokenizer", "decoder"}:
      raise ValueError("a stage without steps")
    return kept
  except (ValueError, TypeError, AttributeError):
    raise ValueError(f"{path}: damaged; remove it, and the speed is measured anew") from None


def with_steps(config: c.Config, workdir) -> c.Config:
  """`config` with the steps of workdir/steps.json in place of its own."""
  for stage, steps in read_steps(workdir).items():
    options = getattr(config, stage)
    train = dataclasses.replace(options.train, steps=steps)
    config = dataclasses.replace(config, **{stage: dataclasses.replace(options, train=train)})
  return config


class Kind(NamedTuple):
  """What a kind of image tokenizer is to a run, whose `folder` for it is WORKDIR/image_tokenizer."""
  check: Callable      # (options, image size, sizes): ValueError where it cannot make a grid of codes of such pictures
  load: Callable       # (config, folder) -> ImageModality, ValueError where there is none
  vectors: Callable    # (config, folder) -> f32[k d] or f32[G k d], what each code is painted from
  describe: Callable   # (config, folder) -> dict for `unitok info`, None where there is nothing yet
  make: Callable | None = None
  """(config, folder, training pictures u8[H W 3] in a random order) -> what was done. None: trained step by step."""


def load_image_tokenizer(workdir) -> ImageModality:
  """The newest tokenizer of workdir/image_tokenizer. ValueError where there is none."""
  config = read_config(workdir)
  return kind_of(config).load(config, epath.Path(workdir) / "image_tokenizer")


def code_vectors(workdir) -> np.ndarray:
  """f32[k d]: what the newest image tokenizer of workdir paints each of its codes from; f32[G k d] of G > 1 books, each
  beside the first codes of the others."""
  config = read_config(workdir)
  return kind_of(config).vectors(config, epath.Path(workdir) / "image_tokenizer")


def kind_of(config: c.Config) -> Kind:
  return IMAGE_TOKENIZERS[c.kind_name(config.image_tokenizer)]


def _load(config: c.Config, folder) -> ImageModality:
  tokenizer = Tokenizer(config.image_tokenizer, choose(config.compute_dtype, mixed=False))
  return image_modality(tokenizer, *load_tokenizer_weights(folder, tokenizer), config.data.image_size)


def _vectors(config: c.Config, folder) -> np.ndarray:
  tokenizer = Tokenizer(config.image_tokenizer, choose(config.compute_dtype, mixed=False))
  params, state = load_tokenizer_weights(folder, tokenizer)
  look_up = lambda codes: np.asarray(
      tokenizer.quantizer.lookup(params["quantizer"], state, codes, config.image_tokenizer.quantizer))
  codes = np.arange(tokenizer.codebook_size, dtype=np.int32)
  if tokenizer.books == 1:
    return look_up(codes)
  return np.stack([look_up(codes[:, None] * one) for one in np.eye(tokenizer.books, dtype=np.int32)])


def _describe(config: c.Config, folder) -> dict | None:
  tokenizer = Tokenizer(config.image_tokenizer)
  trained = progress(folder, config.image_tokenizer.train)
  return trained and {**trained, "parameters": count(lambda key: tokenizer.init(key)[0]),
                      "codebook_size": tokenizer.codebook_size,
                      **({"books": tokenizer.books} if tokenizer.books > 1 else {})}


IMAGE_TOKENIZERS: dict[str, Kind] = {
    "vq": Kind(autoencoder.check, _load, _vectors, _describe),
    "pixels": Kind(pixels.check, pixels.open_modality, pixels.vectors, pixels.describe, pixels.make),
}
"""By their names in `config.IMAGE_TOKENIZERS`. A new one is a file, a line here, and its options there."""


def progress(folder, train: c.Train) -> dict | None:
  """{"step", "of"} of a stage that is trained step by step; None where it has no checkpoint yet."""
  try:
    return {"step": load_meta(folder)[1], "of": train.steps}
  except ValueError:
    return None


def count(init: Callable) -> int:
  """The numbers in what init(key) gives, which is not made."""
  return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))


def load_tokenizer_weights(folder, tokenizer: Tokenizer) -> tuple[Any, Any]:
  """(averaged params, quantizer state) of the newest checkpoint of a folder in this tokenizer's shapes."""
  params, state = jax.eval_shape(tokenizer.init, jax.random.key(0))
  extra, _, _ = load_part(folder, "extra", {"average": params, "quantizer": state})
  return extra["average"], extra["quantizer"]


def image_modality(tokenizer: Tokenizer, params, state, image_size: int) -> ImageModality:
  """Weights as an ImageModality."""
  encode, decode = (functools.partial(f, params, state) for f in _compiled(tokenizer))
  side = image_size // tokenizer.options.downsampling
  down = tokenizer.options.downsampling
  return ImageModality(lambda x: in_batches(encode, x, at_once(x.shape[1] * x.shape[2])),
                       lambda x: in_batches(decode, x, at_once(x.shape[1] * x.shape[2] * down**2)), (side, side), down,
                       tokenizer.codebook_size, fingerprint_of(tokenizer.options, params, state), tokenizer.books)


@functools.lru_cache(maxsize=4)
def _compiled(tokenizer: Tokenizer):
  """Weights are arguments, so that one compilation serves all states of a training."""
  return jax.jit(tokenizer.encode), jax.jit(tokenizer.decode)


def at_once(pixels: int) -> int:
  """How many pictures of so many pixels; a power of two."""
  return min(LARGEST_BATCH, 1 << max(LARGEST_PIXELS // max(pixels, 1), 1).bit_length() - 1)


def in_batches(function, x, largest: int = LARGEST_BATCH) -> np.ndarray:
  """function(x) over the first side in batches of at most `largest`, the last padded to a power of two.

  300 pictures are 256 and 44 in a batch of 64.
  """
  x, out = np.asarray(x), []
  if not len(x):
    return np.asarray(function(np.zeros((1, *x.shape[1:]), x.dtype)))[:0]
  for start in range(0, len(x), largest):
    part = x[start:start + largest]
    size = min(largest, 1 << (len(part) - 1).bit_length())
    padded = np.concatenate([part, np.zeros((size - len(part), *x.shape[1:]), x.dtype)]) if size > len(part) else part
    out.append(np.asarray(function(padded))[:len(part)])
  return np.concatenate(out)


LATER = ("network", "latent", "quantizer.books", "quantizer.entropy_weight", "quantizer.gradient", "quantizer.revive")
"""Options that came later: where they are as before, a tokenizer keeps the fingerprint its decoders were trained on."""


def fingerprint_of(options: c.ImageTokenizer, params, state) -> str:
  """16 hex digits that change with any weight that encoding or decoding uses, or with an option of the network."""
  before = dict(c.flat(c.ImageTokenizer()))
  network = {name: value for name, value in c.flat(options) if not name.startswith(("train.", "losses."))
             and not (name in LATER and value == before[name])}
  digest = hashlib.sha256(json.dumps(network, sort_keys=True).encode())
  used = {"params": params, "state": {k: v for k, v in state.items() if k == "codebook"}}   # counts change no code
  for path, leaf in jax.tree_util.tree_leaves_with_path(used):
    array = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()[:16]


class LoadedDecoder(NamedTuple):
  model: Language
  params: Any
  vocabulary: Vocabulary
  config: c.Config
  step: int


def read_vocabulary(workdir) -> Vocabulary:
  """workdir/vocab.json. ValueError where it is absent or no vocabulary."""
  file = epath.Path(workdir) / "vocab.json"
  try:
    return Vocabulary.from_json(json.loads(file.read_text()))
  except FileNotFoundError:
    raise ValueError(f"{file}: no such file; run the stages before the decoder first (python -m "
                     "train.encode)") from None
  except (json.JSONDecodeError, KeyError) as error:
    raise ValueError(f"{file}: is not a vocabulary ({error}); run python -m train.encode again") from None


def load_decoder(workdir) -> LoadedDecoder:
  """The newest decoder of workdir/decoder with its averaged weights, and the vocabulary it was trained on.

  ValueError where there is none, or vocab.json is not the vocabulary of the checkpoint.
  """
  config, vocabulary = read_config(workdir), read_vocabulary(workdir)
  model = Language(config.decoder, vocabulary.size, (), choose(config.compute_dtype), vocabulary.further,
                   vocabulary.image)
  params, step = load_decoder_weights(workdir, model, vocabulary)
  return LoadedDecoder(model, params, vocabulary, config, step)


def load_decoder_weights(workdir, model: Language, vocabulary: Vocabulary) -> tuple[Any, int]:
  """(averaged params, step) of workdir/decoder, for this model. ValueError where it had another vocabulary."""
  folder = epath.Path(workdir) / "decoder"
  check_vocabulary(load_meta(folder)[0], vocabulary, folder)
  abstract = {"average": jax.eval_shape(model.init, jax.random.key(0))}
  extra, step, _ = load_part(folder, "extra", abstract)
  return extra["average"], step


def check_vocabulary(meta: dict, vocabulary: Vocabulary, folder):
  """ValueError where the checkpoint with this meta was trained on another vocabulary."""
  if meta.get("vocabulary") != vocabulary.fingerprint:
    raise ValueError(f"{folder}: its decoder was trained on vocabulary {meta.get('vocabulary')}, this run's is "
                     f"{vocabulary.fingerprint}; keep that run's text and image tokenizer unchanged (a new run: "
                     "--init.from with --init.frozen image_tokenizer), or train the decoder anew")
