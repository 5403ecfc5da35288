"""All quantizers in one network: what they keep, how many codes they use, how fast they are.

    python -m tests.benchmarks.quantizers --data ../shared/data/emoji ../shared/data/photos --out runs/quantizers.json

The same autoencoder (32x32 pictures, 64 codes each), data, batches, seed and steps for each kind and codebook size;
fsq has levels with that product. `plain` is vq as it was first: its codes start as vectors of the data, and none
is revived; at 4,096 it is trained at each of `--plain-rates`, and the best PSNR counts. All others have `--rate`.
Figures are over the validation split, usage also over the training pictures. The speed is of the training step alone,
the median over steps.

A second table has vector-quantize-pytorch's quantizers in the same network with the same codes and data
(tests/benchmarks/quantizers_torch.py), where that package is there: pip install torch vector-quantize-pytorch.

What `--out` has is not trained again. The last line is JSON: {"FOLDER": {"KIND-SIZE": {psnr_db, psnr_db_low,
psnr_db_high, ssim, usage, usage_train, perplexity, images_per_second, rate}, "torch KIND-SIZE": …}, "default":
{"FOLDER": {usage_512, usage_4096: of l2 over the training pictures, gain_over_plain_db_4096, gain_over_torch_db_4096:
over its best}}}.

Of l2 with 4,096 codes on emoji, 1,000 steps, one seed: revive_below 0.2 instead of 0.05 keeps 23.91 dB instead of 23.70
and 0.993 of the codes in use instead of 0.975 (0.5: 23.89 dB); reviving every 5 steps, or until 0.95 of the steps, is
worth 0.02 to 0.04 dB. But configs/scenes_demo.py's 512 codes lose 1.4 dB by 0.2 (31.7 against 33.1).

Four books of 64 codes on scenes, 1,500 steps, one seed, another script: product 22.95 dB, residual 21.96; with
commitment_weight 0.05 instead of 0.25 22.99 and 22.59.
"""
import functools
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tyro

from train.image_tokenizer import Pictures, usable
from unitok import config as c
from unitok.data.sources import open_source
from unitok.evaluation.reconstruction import psnr_db, ssim
from unitok.evaluation.statistics import figure, plain
from unitok.files import write_json
from unitok.metrics import usage
from unitok.models.quantizers import QUANTIZERS
from unitok.optim import optimizer
from unitok.run import image_modality
from unitok.steps import Tokenizer, tokenizer_state, tokenizer_step

LEVELS = {512: (8, 8, 8), 4096: (8, 8, 8, 8), 16384: (8, 8, 8, 8, 4)}
DIMS = {"simvq": 64, "ema": 64, "vq": 64, "ibq": 64, "residual": 64, "product": 48}
"""Numbers a code, 8 for the others, as their papers have them."""
BOOKS = {512: (3, 8), 4096: (2, 64), 16384: (2, 128)}
"""Of residual and product: books, and codes of each, that have as many bits a place; the codes together are counted."""
DEFAULT = c.Quantizer().kind
PACKAGE = "vector_quantize_pytorch"


def options(kind: str, size: int, steps: int, rate: float, batch_size: int) -> c.ImageTokenizer:
  name, more = ("vq", {"revive_every": 0}) if kind == "plain" else (kind, {})
  if kind in ("residual", "product"):
    more["books"], size = BOOKS[size]
  quantizer = c.Quantizer(kind=name, codebook_size=size, code_dim=DIMS.get(name, 8), levels=LEVELS.get(size, ()),
                          **more)
  return c.ImageTokenizer(
      widths=(96,), blocks=(2,), patch=4, quantizer=quantizer,
      train=c.Train(steps=steps, batch_size=batch_size, learning_rate=rate, warmup_steps=min(100, steps // 10),
                    weight_decay=0.0, ema_decay=0.99))


class Run:
  """One tokenizer in training."""

  def __init__(self, one: c.ImageTokenizer, source, side: int):
    self.options, self.tokenizer, self.side = one, Tokenizer(one), side
    tx, self.size = optimizer(one.train), self.tokenizer.codebook_size**self.tokenizer.books
    self.state = jax.jit(functools.partial(tokenizer_state, self.tokenizer, tx))(jax.random.key(0))
    self.advance = jax.jit(lambda s, x: tokenizer_step(self.tokenizer, tx, s, x, jax.random.key(1)), donate_argnums=0)
    self.pictures = Pictures(source, side, one.train.batch_size, 0)

  def train(self, steps: int) -> float:
    """Images a second, the median over steps, the input apart."""
    times = []
    for _ in range(steps):
      batch = next(self.pictures)
      start = time.perf_counter()
      self.state, metrics = self.advance(self.state, batch)
      jax.block_until_ready(metrics)
      times.append(time.perf_counter() - start)
    return self.options.train.batch_size / statistics.median(times)

  def finished(self):
    """(encode, decode) with the averaged weights."""
    image = image_modality(self.tokenizer, self.state.extra["average"], self.state.extra["quantizer"], self.side)
    return image.encode, image.decode


def figures(run, train: np.ndarray, val: np.ndarray) -> dict:
  places = run.tokenizer.codebook_size ** np.arange(run.tokenizer.books)
  together = lambda codes: codes.reshape(-1, len(places)) @ places
  count = lambda codes: np.bincount(together(codes), minlength=run.size).astype(np.float32)
  encode, decode = run.finished()
  codes = encode(val)
  back, used = decode(codes), usage(count(codes))
  return {**figure("psnr_db", psnr_db(val, back)), **figure("ssim", ssim(val, back)), "usage": float(used["usage"]),
          "usage_train": float((count(encode(train)) > 0).mean()), "perplexity": float(used["perplexity"]),
          "codes": run.size}


def told(name: str, one: dict):
  print(f"{name:22s} {one['psnr_db']:.2f} dB ({one['psnr_db_low']:.2f}-{one['psnr_db_high']:.2f}), "
        f"SSIM {one['ssim']:.3f}, usage {one['usage']:.3f}, in training {one['usage_train']:.3f}, "
        f"perplexity {one['perplexity']:.0f}, {one['images_per_second']:.0f} images/s, rate {one['rate']:g}",
        flush=True)


def table(folder: str, found: dict) -> str:
  """Markdown, a line a quantizer."""
  heads = (folder, "codes", "PSNR, dB", "SSIM", "usage in training, of val", "perplexity", "images/s")
  rows = [(name.rpartition("-")[0], one["codes"],
           f"{one['psnr_db']:.2f} ({one['psnr_db_low']:.2f} – {one['psnr_db_high']:.2f})", f"{one['ssim']:.3f}",
           f"{one['usage_train']:.3f}, {one['usage']:.3f}", f"{one['perplexity']:.0f}",
           f"{one['images_per_second']:.0f}") for name, one in found.items()]
  return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heads, ("---",) * len(heads), *rows))


def summary(found: dict) -> dict:
  """What is asked of the default, of each folder where the table has it."""
  ours, simple = found.get(f"{DEFAULT}-4096"), found.get("plain-4096")
  theirs = [one["psnr_db"] for name, one in found.items() if name.startswith("torch ") and name.endswith("-4096")]
  names = {f"usage_{size}": f"{DEFAULT}-{size}" for size in (512, 4096)}
  out = {key: found[name]["usage_train"] for key, name in names.items() if name in found}
  if ours and simple:
    out["gain_over_plain_db_4096"] = ours["psnr_db"] - simple["psnr_db"]
  if ours and theirs:
    out["gain_over_torch_db_4096"] = ours["psnr_db"] - max(theirs)
  return out


def main(data: tuple[Path, ...], out: Path, kinds: tuple[str, ...] = (*QUANTIZERS, "plain"),
         sizes: tuple[int, ...] = (512, 4096, 16384), rate: float = 2e-3,
         plain_rates: tuple[float, float, float] = (5e-4, 1e-3, 2e-3), steps: int = 3000, batch_size: int = 16,
         side: int = 32):
  """data: imagefolders, whose validation splits are measured on."""
  everything = json.loads(out.read_text()) if out.exists() else {}
  there = importlib.util.find_spec(PACKAGE) and importlib.util.find_spec("torch")
  if there:
    from tests.benchmarks import quantizers_torch as peer
  else:
    print("the second table is left out: pip install torch vector-quantize-pytorch", flush=True)
  if missing := [str(folder) for folder in data if not folder.is_dir()]:
    sys.exit(f"tests.benchmarks.quantizers: {missing[0]}: no such folder; give folders of pictures with --data")
  for folder in data:
    source = c.ImageFolder(path=str(folder), image_size=side, resize="fit", val_share=0.05)
    found = everything.setdefault(folder.name, {})
    train, val = (open_source(source, split) for split in ("train", "val"))
    pixels, held_out = (np.stack(list(usable(some, range(len(some)), "stop"))) for some in (train, val))

    def measure(name: str, new, rates: tuple[float, ...]):
      """The best of new(rate), a Run each, into the table."""
      for one in rates if name not in found or found[name]["steps"] != steps else ():
        run = new(one)
        speed = run.train(steps)
        run.pictures.close()
        got = figures(run, pixels, held_out) | {"images_per_second": speed, "rate": one, "steps": steps}
        if found.get(name, {}).get("steps") != steps or got["psnr_db"] > found[name]["psnr_db"]:
          found[name] = plain(got)
      told(f"{folder.name} {name}", found[name])
      write_json(out, everything)

    for size in sizes:
      for kind in kinds:
        new = lambda one: Run(options(kind, size, steps, one, batch_size), train, side)
        measure(f"{kind}-{size}", new, plain_rates if (kind, size) == ("plain", 4096) else (rate,))
        if there and kind in peer.KINDS:
          measure(f"torch {kind}-{size}", lambda one: peer.Run(kind, new(one)), (rate,))
  for folder in data:
    print(f"\n{table(folder.name, everything[folder.name])}")
  print(json.dumps(everything | {"default": {folder.name: summary(everything[folder.name]) for folder in data}}))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
