"""All quantizers in one network: what they keep, how many codes they use, how fast they are.

    python -m tests.benchmarks.quantizers --data ../shared/data/emoji --steps 3000 --out runs/quantizers.json

The same autoencoder (32x32 pictures, 64 codes each), data, batches, seed and steps for each kind and codebook size; fsq has
levels with about that product. Each is trained at every one of `--rates`, and the best PSNR counts. Figures are over the
validation split; usage also over the training pictures. The speed is of the training step alone, the median over hundreds
of steps. Kinds that `--out` has are not trained again. The last line is JSON: {"KIND-SIZE": {psnr_db, psnr_db_low,
psnr_db_high, ssim, usage, usage_train, perplexity, images_per_second, rate}}.
"""
import functools
import json
import statistics
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

LEVELS = {512: (8, 8, 8), 4096: (8, 8, 8, 8), 16384: (8, 8, 8, 6, 5)}
DIMS = {"simvq": 64, "ema": 64, "vq": 64, "ibq": 64}
"""Numbers a code, 8 for the others, as their papers have them."""


def options(kind: str, size: int, steps: int, rate: float, batch_size: int, **changes) -> c.ImageTokenizer:
  quantizer = c.Quantizer(kind=kind, codebook_size=size, code_dim=DIMS.get(kind, 8), levels=LEVELS.get(size, ()), **changes)
  return c.ImageTokenizer(
      widths=(64, 128), blocks=(1, 2), patch=2, quantizer=quantizer,
      train=c.Train(steps=steps, batch_size=batch_size, learning_rate=rate, warmup_steps=100, weight_decay=0.0, ema_decay=0.99))


class Run:
  """One tokenizer in training."""

  def __init__(self, name: str, one: c.ImageTokenizer, source, side: int):
    self.name, self.options, self.tokenizer = name, one, Tokenizer(one)
    tx = optimizer(one.train)
    self.state = jax.jit(functools.partial(tokenizer_state, self.tokenizer, tx))(jax.random.key(0))
    self.advance = jax.jit(lambda s, x: tokenizer_step(self.tokenizer, tx, s, x, jax.random.key(1)), donate_argnums=0)
    self.pictures, self.side = Pictures(source, side, one.train.batch_size, 0), side

  def train(self, steps: int) -> float:
    """Seconds of so many steps, the input apart."""
    spent = 0.0
    for _ in range(steps):
      batch = next(self.pictures)
      start = time.perf_counter()
      self.state, metrics = self.advance(self.state, batch)
      jax.block_until_ready(metrics)
      spent += time.perf_counter() - start
    return spent

  def figures(self, train: np.ndarray, val: np.ndarray) -> dict:
    image = image_modality(self.tokenizer, self.state.extra["average"], self.state.extra["quantizer"], self.side)
    count = lambda codes: np.bincount(codes.ravel(), minlength=image.codebook_size).astype(np.float32)
    codes = image.encode(val)
    back, used = image.decode(codes), usage(count(codes))
    return {**figure("psnr_db", psnr_db(val, back)), **figure("ssim", ssim(val, back)), "usage": float(used["usage"]),
            "usage_train": float((count(image.encode(train)) > 0).mean()), "perplexity": float(used["perplexity"]),
            "codes": image.codebook_size}


def main(data: str, out: Path, kinds: tuple[str, ...] = tuple(QUANTIZERS), sizes: tuple[int, ...] = (512, 4096, 16384),
         rates: tuple[float, ...] = (2e-3,), steps: int = 3000, batch_size: int = 16, side: int = 32):
  """data: an imagefolder with a validation split."""
  source = c.ImageFolder(path=data, image_size=side, resize="fit", val_share=0.05)
  train, val = (open_source(source, split) for split in ("train", "val"))
  every = lambda some: np.stack(list(usable(some, range(len(some)), "stop")))
  pixels, held_out, found = every(train), every(val), json.loads(out.read_text()) if out.exists() else {}
  for size in sizes:
    for kind in kinds:
      name = f"{kind}-{size}"
      if name in found:
        continue
      for rate in rates:
        run = Run(name, options(kind, size, steps, rate, batch_size), train, side)
        run.train(2)
        speeds, rest = [], steps - 2
        while rest:
          some = min(rest, 100)
          speeds.append(some * batch_size / run.train(some))
          rest -= some
        run.pictures.close()
        one = run.figures(pixels, held_out) | {"images_per_second": statistics.median(speeds), "rate": rate}
        if name not in found or one["psnr_db"] > found[name]["psnr_db"]:
          found[name] = plain(one)
      one = found[name]
      print(f"{name:14s} {one['psnr_db']:.2f} dB ({one['psnr_db_low']:.2f}-{one['psnr_db_high']:.2f}), SSIM {one['ssim']:.3f}, "
            f"usage {one['usage']:.3f}, in training {one['usage_train']:.3f}, perplexity {one['perplexity']:.0f}, "
            f"{one['images_per_second']:.0f} images/s, rate {one['rate']:g}", flush=True)
      write_json(out, found)
  print(json.dumps(found))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
