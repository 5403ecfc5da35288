"""Our image tokenizer beside transformers' JanusVQVAE (LlamaGen's and Janus' network): quality for time, and speed.

    python -m tests.benchmarks.tokenizer --data ../shared/data/emoji

Both make 64 codes out of 1,024 of a 32 x 32 picture, in float32 on the same cores: with the same pictures in memory,
the same batches, the same loss (squared error, codebook, 0.25 commitment, no judge), AdamW without decay, clip, warm-up
and cosine (over the minutes, not the steps), averaged weights at the end. They take turns of `--turn` seconds, and each
has its own clock, on which its compilation counts; no compilation is kept from earlier. Before that, in short trials
that do not count, the peer finds its best: eager or torch.compile and the memory format by speed (compilation taken off
the minutes), learning rate and the form of its codes by held-out PSNR. transformers' quantizer searches among codes as
they are stored and decodes from normalised ones, which no training can mend; so "plain" does neither here, and "l2", as
in Janus' own code, both. Ours takes OURS and `--rate`, found beforehand.

On two quiet cores ours had 23.99 dB after 3 minutes and 24.91 after 15, the peer (l2, rate 3e-4, eager, the best of its
trials by 0.03 dB) 16.91 and 19.97 with 0.02 of its codes in use; ours trained 3.0 and coded 4.6 times as fast (130 and
738 images/s). A peer that has not collapsed: in an earlier run, where the machine gave the peer 62 instead of 45 images/s
and its trials found the plain form and rate 1e-3, it had 23.80 dB after 15 minutes and 0.64 of its codes in use.

Trials of ours, 3 minutes on one core, of the same day: (160,), (4,), patch 4 23.59 dB; (192,), (3,) 23.47, with
revive_below 0.05 instead of 0.2 23.38, with encoder_kernel 5 23.19, with weight decay 0.1 23.46; (128,), (6,) 23.39; (144,),
(6,) 23.29; vit (128,), (3,) 21.05. On the training pictures each has 1.2 dB more.

PSNR is the mean over the held-out pictures, usage is over the training pictures, speeds are medians over turns
(training) and rounds (encoding and decoding a batch of 64). Needs the extra bench. The last line is JSON.
"""
import copy
import functools
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import optax
import tyro

from train.image_tokenizer import usable
from unitok import config as c
from unitok.data.sources import open_source
from unitok.evaluation.reconstruction import psnr_db
from unitok.optim import optimizer
from unitok.run import count
from unitok.steps import Tokenizer, tokenizer_state, tokenizer_step

try:
  import torch
  from torch.nn import functional as F
  from transformers import JanusVQVAEConfig
  from transformers.models.janus.modeling_janus import JanusVQVAE
except ImportError as error:
  sys.exit(f"tests.benchmarks.tokenizer: {error}; install the extra bench (make setup EXTRAS=bench)")

SIDE, CODES, DIM, CODEC = 32, 1_024, 8, 64
"""Pixels, codes, numbers a code, pictures encoded and decoded at a time."""
COMMITMENT, DECAY, BETAS, CLIP = 0.25, 0.99, (0.9, 0.95), 1.0
OURS = dict(network="convnext", widths=(160,), blocks=(4,), patch=4)


def share_of_rate(done: float) -> float:
  """Of the peak, where `done` 0 .. 1 of the time has gone: 2 % warm-up, then a cosine down to 5 %."""
  return min(done / 0.02, 1.0) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


class Ours:
  def __init__(self, seconds: float, rate: float, batch_size: int, speed: float):
    """speed: expected images a second, which says when dead codes are no longer revived."""
    steps = max(int(seconds * speed / batch_size), 1)
    options = c.ImageTokenizer(
        **OURS, quantizer=c.Quantizer(kind="l2", codebook_size=CODES, code_dim=DIM, commitment_weight=COMMITMENT),
        train=c.Train(steps=steps, learning_rate=1.0, warmup_steps=0, final_share=1.0, weight_decay=0.0, beta1=BETAS[0],
                      beta2=BETAS[1], clip=CLIP, ema_decay=DECAY))
    self.tokenizer, self.seconds, self.rate = Tokenizer(options), seconds, rate
    self.parameters = count(lambda key: self.tokenizer.init(key)[0])
    tx = optimizer(options.train)

    def step(state, pixels, rate):
      def update(grads, kept, params):
        updates, kept = tx.update(grads, kept, params)
        return jax.tree.map(lambda u: rate * u, updates), kept
      timed = optax.GradientTransformation(tx.init, update)
      return tokenizer_step(self.tokenizer, timed, state, pixels, jax.random.key(1))[0]

    self.advance = jax.jit(step, donate_argnums=0)
    self.state = jax.jit(functools.partial(tokenizer_state, self.tokenizer, tx))(jax.random.key(0))
    self.encoder, self.decoder = jax.jit(self.tokenizer.encode), jax.jit(self.tokenizer.decode)

  def step(self, pixels: np.ndarray, rate: float):
    self.state = self.advance(self.state, pixels, np.float32(rate))
    jax.block_until_ready(self.state)

  def encode(self, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(self.encoder(self.state.extra["average"], self.state.extra["quantizer"], pixels))

  def decode(self, codes: np.ndarray) -> np.ndarray:
    return np.asarray(self.decoder(self.state.extra["average"], self.state.extra["quantizer"], codes))


class Peer:
  """JanusVQVAE's encoder, decoder and codebook with the losses of ours."""

  def __init__(self, seconds: float, rate: float, form: str, mode: str, layout: str):
    torch.manual_seed(0)
    torch._dynamo.reset()
    self.seconds, self.rate, self.form, self.taken = seconds, rate, form, 0
    self.layout = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    self.model = JanusVQVAE(JanusVQVAEConfig(
        embed_dim=DIM, num_embeddings=CODES, latent_channels=256, base_channels=32, channel_multiplier=[1, 2, 4],
        num_res_blocks=1, num_patches=SIDE // 4)).train().to(memory_format=self.layout)
    self.average = copy.deepcopy(self.model)
    self.weights = list(self.model.parameters())
    self.parameters = sum(one.numel() for one in self.weights)
    self.optimizer = torch.optim.AdamW(self.weights, lr=rate, betas=BETAS, weight_decay=0.0, fused=True)
    compiled = torch.compile if mode == "compile" else lambda function: function
    self.loss, self.encoder, self.decoder = map(compiled, (self.loss_of, self.codes_of, self.pixels_of))

  def pixels_pm1(self, pixels: np.ndarray):
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=self.layout)

  def searched(self, model, x):
    """(z, codes' values, codes) at each place."""
    z = model.quant_conv(model.encoder(x)).permute(0, 2, 3, 1)
    book = model.quantize.embedding.weight
    if self.form == "l2":
      z, book = F.normalize(z, dim=-1), F.normalize(book, dim=-1)
    codes = (z.detach() @ book.detach().T - 0.5 * (book.detach() ** 2).sum(-1)).argmax(-1)
    return z, F.embedding(codes, book), codes

  def painted(self, model, values):
    return model.decoder(model.post_quant_conv(values.permute(0, 3, 1, 2)))

  def loss_of(self, x):
    z, values, _ = self.searched(self.model, x)
    apart = lambda a, b: ((a - b) ** 2).sum(-1).mean()
    pixels = ((self.painted(self.model, z + (values - z).detach()) - x) ** 2).mean()
    return pixels + apart(z.detach(), values) + COMMITMENT * apart(z, values.detach())

  def codes_of(self, x):
    return self.searched(self.average, x)[2]

  def pixels_of(self, codes):
    book = self.average.quantize.embedding.weight
    values = F.embedding(codes, F.normalize(book, dim=-1) if self.form == "l2" else book)
    return ((self.painted(self.average, values) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

  def step(self, pixels: np.ndarray, rate: float):
    for group in self.optimizer.param_groups:
      group["lr"] = rate
    self.optimizer.zero_grad()
    self.loss(self.pixels_pm1(pixels)).backward()
    torch.nn.utils.clip_grad_norm_(self.weights, CLIP)
    self.optimizer.step()
    with torch.no_grad():
      keep = min(DECAY, (1 + self.taken) / (10 + self.taken))
      torch._foreach_lerp_(list(self.average.parameters()), self.weights, 1 - keep)
    self.taken += 1

  def encode(self, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
      return self.encoder(self.pixels_pm1(pixels)).numpy()

  def decode(self, codes: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
      return self.decoder(torch.from_numpy(codes)).permute(0, 2, 3, 1).numpy()


def train(sides: list, pixels: np.ndarray, batch_size: int, turn: float) -> list[float]:
  """Each side for its seconds, in turns -> its images a second, the median over turns; the first step, which compiles,
  is on the clock alone."""
  clocks, speeds = [0.0] * len(sides), [[] for _ in sides]
  orders = [np.random.default_rng(1) for _ in sides]
  while any(clock < side.seconds for clock, side in zip(clocks, sides)):
    for n, (side, order) in enumerate(zip(sides, orders)):
      steps = []
      while sum(steps) < turn and clocks[n] < side.seconds:
        batch = pixels[order.integers(0, len(pixels), batch_size)]
        start = time.perf_counter()
        side.step(batch, side.rate * share_of_rate(clocks[n] / side.seconds))
        steps.append(time.perf_counter() - start)
        clocks[n] += steps[-1]
      steps = steps if speeds[n] else steps[1:]
      if steps:
        speeds[n].append(batch_size * len(steps) / sum(steps))
  return [statistics.median(some or [math.nan]) for some in speeds]


def in_parts(function, some: np.ndarray) -> np.ndarray:
  """function(some) in whole batches of CODEC, so that one compilation serves."""
  out = []
  for start in range(0, len(some), CODEC):
    part = some[start:start + CODEC]
    out.append(function(np.concatenate([part, part[:1].repeat(CODEC - len(part), 0)]))[:len(part)])
  return np.concatenate(out)


def quality(side, held_out: np.ndarray) -> float:
  return float(psnr_db(held_out, in_parts(side.decode, in_parts(side.encode, held_out))).mean())


def used(side, pixels: np.ndarray) -> float:
  return len(np.unique(in_parts(side.encode, pixels))) / CODES


def speed_of(side, pixels: np.ndarray, batch_size: int, steps: int) -> tuple[float, float]:
  """(seconds of the first step, images a second of the others)."""
  times = []
  for _ in range(steps + 1):
    start = time.perf_counter()
    side.step(pixels[:batch_size], 0.0)
    times.append(time.perf_counter() - start)
  return times[0], batch_size / statistics.median(times[1:])


def codec(sides: list, pixels: np.ndarray, rounds: int) -> list[float]:
  """Images a second of encoding and decoding, called in turn."""
  times = [[] for _ in sides]
  for number in range(rounds + 1):
    for n, side in enumerate(sides):
      start = time.perf_counter()
      side.decode(side.encode(pixels[:CODEC]))
      if number:
        times[n].append(time.perf_counter() - start)
  return [CODEC / statistics.median(some) for some in times]


def tuned(pixels, held_out, minutes, batch_size, modes, rates, trial_minutes, steps) -> tuple[dict, list[dict]]:
  """(minutes -> the peer's best settings, what was tried)."""
  tried, speeds = [], {}
  for mode in modes:
    for layout in ("contiguous", "channels_last"):
      try:
        speeds[mode, layout] = first, speed = speed_of(Peer(1.0, 0.0, "l2", mode, layout), pixels, batch_size, steps)
      except Exception as error:      # no compiler for torch.compile, say
        print(f"peer {mode} {layout}: does not run ({str(error).splitlines()[0]})", flush=True)
        continue
      tried.append({"mode": mode, "layout": layout, "first_step_s": first, "images_per_s": speed})
      print(f"peer {mode} {layout}: {speed:.1f} images/s, first step {first:.1f} s", flush=True)
  best = lambda seconds: max(speeds, key=lambda key: (seconds - speeds[key][0]) * speeds[key][1])
  layout = best(60 * trial_minutes)[1]
  found = {}
  for form in ("l2", "plain"):
    for rate in rates:
      one = Peer(60 * trial_minutes, rate, form, "eager", layout)      # the same mathematics, nothing to compile
      train([one], pixels, batch_size, 1e9)
      found[form, rate] = quality(one, held_out)
      tried.append({"form": form, "rate": rate, "psnr_db": found[form, rate]})
      print(f"peer {form} at rate {rate:g}: {found[form, rate]:.2f} dB after {trial_minutes:g} minutes", flush=True)
  form, rate = max(found, key=found.get)
  return {m: dict(zip(("form", "rate", "mode", "layout"), (form, rate, *best(60 * m)))) for m in minutes}, tried


def main(data: str, minutes: tuple[float, ...] = (3.0, 15.0), batch_size: int = 16, rate: float = 3e-3,
         peer_rates: tuple[float, float, float] = (3e-4, 1e-3, 3e-3),
         modes: tuple[Literal["eager", "compile"], ...] = ("eager", "compile"), trial_minutes: float = 1.5,
         trial_steps: int = 8, turn: float = 5.0, rounds: int = 15):
  """data: an imagefolder with a validation split; rate: ours; modes: the peer's, of which the faster counts."""
  if not Path(data).is_dir():
    sys.exit(f"tests.benchmarks.tokenizer: {data}: no such folder; give a folder of pictures with --data")
  jax.config.update("jax_enable_compilation_cache", False)
  torch._inductor.config.force_disable_caches = True
  source = c.ImageFolder(path=data, image_size=SIDE, resize="fit", val_share=0.05)
  splits = (open_source(source, split) for split in ("train", "val"))
  pixels, held_out = (np.stack(list(usable(some, range(len(some)), "skip"))) for some in splits)
  expected = speed_of(Ours(1.0, 0.0, batch_size, 1.0), pixels, batch_size, trial_steps)[1]
  settings, tried = tuned(pixels, held_out, minutes, batch_size, modes, peer_rates, trial_minutes, trial_steps)
  result, sides = {}, []
  for some in minutes:
    sides = [Ours(60 * some, rate, batch_size, expected), Peer(60 * some, **settings[some])]
    if sides[0].parameters > sides[1].parameters:
      sys.exit(f"tests.benchmarks.tokenizer: OURS has {sides[0].parameters} parameters, must have at most the peer's "
               f"{sides[1].parameters}")
    speeds = train(sides, pixels, batch_size, turn)
    ours, peer = (quality(side, held_out) for side in sides)
    print(f"{some:g} minutes each: {ours:.2f} dB against {peer:.2f}, {speeds[0]:.1f} images/s against {speeds[1]:.1f}",
          flush=True)
    result |= {f"psnr_gain_db_{some:g}min": ours - peer, f"psnr_db_{some:g}min": ours,
               f"peer_psnr_db_{some:g}min": peer}
  codecs = codec(sides, held_out, rounds)
  print(json.dumps({
      "train_images_per_s_ratio": speeds[0] / speeds[1], "codec_images_per_s_ratio": codecs[0] / codecs[1], **result,
      "usage": used(sides[0], pixels), "peer_usage": used(sides[1], pixels), "train_images_per_s": speeds[0],
      "codec_images_per_s": codecs[0], "parameters": sides[0].parameters, "peer_parameters": sides[1].parameters,
      "ours": {**OURS, "rate": rate}, "peer": {f"{m:g}min": one for m, one in settings.items()}, "peer_tried": tried,
      "batch_size": batch_size, "pictures": len(pixels), "held_out": len(held_out)}))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
