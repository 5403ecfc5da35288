"""vector-quantize-pytorch's quantizers in the very network of `tests.benchmarks.quantizers`, written for torch.

The network starts from the same weights as ours and gives the same features (checked); pictures, batches, loss,
optimizer, schedule and averaging are the same. Their quantizers are as their README has them: k-means at the start and
dead codes replaced where they are used less than twice a batch.
"""
import functools
import statistics
import time

import jax
import numpy as np
import torch
from torch.nn import functional as F
from vector_quantize_pytorch import FSQ, LFQ, SimVQ, VectorQuantize

from unitok.models.convnext import depth_to_space, space_to_depth
from unitok.optim import schedule

_STARTED = dict(kmeans_init=True, threshold_ema_dead_code=2)
KINDS = {"ema": lambda size, dim, levels: VectorQuantize(dim=dim, codebook_size=size, **_STARTED),
         "l2": lambda size, dim, levels: VectorQuantize(dim=dim, codebook_size=size, use_cosine_sim=True, **_STARTED),
         "simvq": lambda size, dim, levels: SimVQ(dim=dim, codebook_size=size),
         "fsq": lambda size, dim, levels: FSQ(list(levels)),
         "lfq": lambda size, dim, levels: LFQ(codebook_size=size, dim=dim)}
"""By the names of ours."""


def block(x, p):
  taps, width = p["taps"], x.shape[-1]
  h = F.rms_norm(x, (width,), p["norm"]["scale"], 1e-6).permute(0, 3, 1, 2)
  h = F.conv2d(h, taps.permute(2, 0, 1)[:, None], padding=taps.shape[0] // 2, groups=width).permute(0, 2, 3, 1)
  gate, up = (h @ p["gate_up"]["kernel"]).chunk(2, -1)
  return x + (F.silu(gate) * up) @ p["down"]["kernel"]


def linear(x, p):
  return x @ p["kernel"] + p["bias"]


def features(p, x, patch: int):
  for n, enter in p["enter"].items():
    x = linear(space_to_depth(x, patch if n == 0 else 2), enter)
    for one in p["levels"][n].values():
      x = block(x, one)
  return linear(x, p["leave"])


def painted(p, z, patch: int):
  x = linear(z, p["enter"])
  for n, leave in p["leave"].items():
    for one in p["levels"][n].values():
      x = block(x, one)
    x = depth_to_space(linear(x, leave), 2 if n < len(p["leave"]) - 1 else patch)
  return x


class Run:
  """One tokenizer in training, beside `quantizers.Run` ours of the same options and start."""

  def __init__(self, kind: str, ours):
    torch.manual_seed(0)
    self.options, self.pictures, self.tokenizer = ours.options, ours.pictures, ours.tokenizer
    asked, train = self.options.quantizer, self.options.train
    dim = ours.tokenizer.quantizer.dim(asked)
    self.size, self.book = ours.size, KINDS[kind](ours.size, dim, asked.levels)
    params = {name: ours.state.params[name] for name in ("encoder", "painter")}
    self.params = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), params)
    self.weights = [*jax.tree.leaves(self.params), *(p for p in self.book.parameters() if p.requires_grad)]
    self.average = jax.tree.map(lambda x: x.detach().clone(), self.params)
    self.optimizer = torch.optim.AdamW(self.weights, betas=(train.beta1, train.beta2), weight_decay=0.0, fused=True)
    self.rates, self.taken = schedule(train), 0
    x = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
      mine = features(self.params["encoder"], torch.tensor(x), self.options.patch).numpy()
    apart = np.abs(mine - np.asarray(ours.tokenizer.features(ours.state.params, x))).max()
    if apart > 1e-3:
      raise ValueError(f"quantizers_torch: features differ from ours by {apart:.2g}, must be the same network; keep "
                       "its blocks as unitok/models/convnext.py has them")

  def step(self, pixels: np.ndarray):
    for group in self.optimizer.param_groups:
      group["lr"] = float(self.rates(self.taken))
    x, patch, train = torch.from_numpy(pixels).float() / 127.5 - 1, self.options.patch, self.options.train
    z = features(self.params["encoder"], x, patch)
    values, _, *losses = self.book(z.flatten(1, 2))
    loss = ((painted(self.params["painter"], values.reshape(z.shape), patch) - x) ** 2).mean() + sum(losses)
    self.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self.weights, train.clip)
    self.optimizer.step()
    keep = min(train.ema_decay, (1 + self.taken) / (10 + self.taken))
    with torch.no_grad():
      torch._foreach_lerp_(jax.tree.leaves(self.average), [x.detach() for x in jax.tree.leaves(self.params)], 1 - keep)
    self.taken += 1

  def train(self, steps: int) -> float:
    """Images a second, the median over steps, the input apart."""
    self.book.train()
    times = []
    for _ in range(steps):
      batch = next(self.pictures)
      start = time.perf_counter()
      self.step(batch)
      times.append(time.perf_counter() - start)
    return self.options.train.batch_size / statistics.median(times)

  def finished(self):
    """(encode, decode) with the averaged weights."""
    self.book.eval()
    in_parts = lambda f, x: np.concatenate([f(torch.from_numpy(x[n:n + 256])).numpy() for n in range(0, len(x), 256)])

    @torch.no_grad()
    def encode(pixels):
      z = features(self.average["encoder"], pixels.float() / 127.5 - 1, self.options.patch)
      return self.book(z.flatten(1, 2))[1].reshape(z.shape[:3])

    @torch.no_grad()
    def decode(codes):
      named = (getattr(self.book, name, None) for name in ("indices_to_codes", "get_output_from_indices"))
      values = next(filter(None, named))(codes.flatten(1)).reshape(*codes.shape, -1)
      pixels_pm1 = painted(self.average["painter"], values, self.options.patch)
      return ((pixels_pm1 + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    return functools.partial(in_parts, encode), functools.partial(in_parts, decode)
