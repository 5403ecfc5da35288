"""Makes the image tokenizer of a run: python -m train.image_tokenizer --config configs/NAME.py --workdir DIR."""
import collections
import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from etils import epath

from train.loop import fit
from train.processes import first, gathered
from unitok.checkpoint import Checkpoints
from unitok.config import Config, PictureLosses
from unitok.data.drawings import save
from unitok.data.record import BadRecord, Source
from unitok.data.sources import open_source
from unitok.evaluation.report import read_metrics
from unitok.interop.measures import read_lpips
from unitok.metrics import Writers, open_writers, usage, uses
from unitok.models.precision import choose
from unitok.models.quantizers.codebook import update as count_uses
from unitok.optim import frozen_mask, optimizer
from unitok.plan.program import check_state
from unitok.run import image_modality, kind_of, load_image_tokenizer, load_tokenizer_weights
from unitok.sharding import check_batch, create, make_mesh, place, rows_here
from unitok.steps import Tokenizer, TrainState, tokenizer_state, tokenizer_step

STAGE = "image_tokenizer"
CACHE_BYTES = 4 << 30
"""Decoded pictures kept in memory."""
WATCHED = 64
"""Held-out pictures that are looked at every `sample_every` steps."""
VALIDATION = 1_000
"""Pictures of the last line's PSNR and usage."""
WATCHED_PSNR = "watched/psnr_db"
NOTHING_TO_FREEZE = ("init.frozen: freezes the whole image tokenizer, but there is nothing to start from; set "
                     "--init.from")


def run(config: Config, workdir):
  """The tokenizer in workdir/image_tokenizer; what is there of it already is kept."""
  kind, workdir = kind_of(config), epath.Path(workdir)
  kind.check(config.image_tokenizer, config.data.image_size, config.data.sizes)
  if kind.make is None:
    learn(config, workdir)
    return
  if not config.init.source and any(re.match(rf"\^?{STAGE}\b", pattern) for pattern in config.init.frozen):
    raise ValueError(NOTHING_TO_FREEZE)
  source = open_source(config.data, "train")
  order = np.random.default_rng(config.seed).permutation(len(source)).tolist()
  print(f"{STAGE}: {kind.make(config, workdir / STAGE, usable(source, order, config.data.on_bad))}", flush=True)
  make_up(config, workdir, 0)


def learn(config: Config, workdir: epath.Path):
  """Trains, or goes on, until workdir/image_tokenizer holds step `train.steps`."""
  options = config.image_tokenizer
  with Checkpoints(workdir / STAGE, options.train.keep_last, options.train.keep_every) as checkpoints:
    if checkpoints.latest() == options.train.steps:
      print(f"{STAGE}: already trained to step {options.train.steps} in {checkpoints.folder}")
      if first():
        make_up(config, workdir, options.train.steps)
      return
    mesh = make_mesh(config.mesh)
    check_batch(options.train.batch_size, mesh, f"{STAGE}.train.batch_size")
    seed = jax.random.key(config.seed)
    tokenizer = Tokenizer(options, choose(config.compute_dtype, mixed=False))
    frozen, whole = frozen_part(config.init.frozen, jax.eval_shape(tokenizer.init, seed)[0], STAGE)
    if frozen and frozen.get("quantizer") and all(jax.tree.leaves(frozen["quantizer"])):
      tokenizer.quantizer = tokenizer.quantizer._replace(update=count_uses)
    tx = optimizer(options.train, frozen)
    build = functools.partial(tokenizer_state, tokenizer, tx)
    check_state(jax.eval_shape(build, seed), mesh, config.mesh, STAGE)
    state = create(build, mesh, seed, zero1=config.mesh.zero1, offload=config.mesh.offload)
    if whole and not config.init.source:
      raise ValueError(NOTHING_TO_FREEZE)
    if config.init.source and checkpoints.latest() is None:
      state = place(start_from(state, config.init.source, tokenizer), mesh)
    losses = options.losses
    given = (read_lpips(losses.perceptual_weights),) if losses.perceptual else ()
    pictures = Pictures(open_source(config.data, "train"), config.data.image_size, options.train.batch_size,
                        config.seed, config.data.on_bad, rows_here(mesh, options.train.batch_size))
    shown = first_pictures(config, WATCHED)
    writer = open_writers(config, workdir, STAGE)

    def sample(step: int, state: TrainState):
      extra = gathered(state.extra)
      if not first():
        return
      image = modality(tokenizer, extra, config)
      writer.show(step, "reconstructions", save_strip(workdir, step, image, shown[:8]))
      if options.losses.adversarial:
        watch(image, shown, options.losses, workdir, writer, step)

    try:
      if whole:   # nothing to learn: the other run's tokenizer to the last bit, so its decoders go on fitting
        state = state._replace(step=state.step + options.train.steps)
        checkpoints.save(options.train.steps, state, pictures)
        checkpoints.wait()
        sample(options.train.steps, state)
      else:
        state = fit(state=state, step_fn=functools.partial(tokenizer_step, tokenizer, tx), batches=pictures,
                    train=options.train, checkpoints=checkpoints, writer=writer, key=jax.random.fold_in(seed, 1),
                    on_sample=sample, examples_per_step=options.train.batch_size, title=STAGE, mesh=mesh, given=given,
                    device_gb=config.mesh.device_gb)
      extra = gathered(state.extra)
      if first():
        last_line(modality(tokenizer, extra, config), config, writer, options.train.steps, len(pictures.bad))
    finally:
      pictures.close()
      writer.close()


def watch(image, pixels: np.ndarray, losses: PictureLosses, workdir, writer: Writers, step: int) -> None:
  """Writes the held-out PSNR, and tells in a line where it is below the best before the judge by more than the margin.
  """
  now = psnr_db(image, pixels, image.encode(pixels))
  writer.write(step, {WATCHED_PSNR: now})
  lines = [line for line in read_metrics(workdir).get(STAGE, ()) if WATCHED_PSNR in line]
  before = max((line[WATCHED_PSNR] for line in lines if line["step"] <= losses.judge_start), default=now)
  if before - now > losses.psnr_margin:
    print(f"{STAGE}: step {step}: the judge has cost {before - now:.1f} dB of held-out PSNR ({before:.1f} to {now:.1f}), "
          f"more than losses.psnr_margin {losses.psnr_margin:g}; a smaller losses.adversarial (now "
          f"{losses.adversarial:g}), or losses.lecam where pictures are few, holds it back", flush=True)


def psnr_db(image, pixels: np.ndarray, codes: np.ndarray) -> float:
  """Of the mean squared error over all pictures, as in training."""
  error = np.mean((image.decode(codes).astype(np.float32) - pixels) ** 2)
  return float(-10 * np.log10(max(error, 1e-6) / 255**2))


def make_up(config: Config, workdir: epath.Path, step: int) -> None:
  """The last strip and the last line of a finished tokenizer, where they are not there."""
  drawn = strip_path(workdir, step).exists()
  told = any("val/psnr_db" in line for line in read_metrics(workdir).get(STAGE, ()))
  if drawn and told:
    return
  image = load_image_tokenizer(workdir)
  if not drawn:
    save_strip(workdir, step, image, first_pictures(config, 8))
  if not told:
    writer = open_writers(config, workdir, STAGE)
    try:
      writer.resume(step)
      last_line(image, config, writer, step)
    finally:
      writer.close()


def last_line(image, config: Config, writer: Writers, step: int, bad: int = 0) -> None:
  """Validates, to the writers and to the screen, which also hears of `bad` pictures left out."""
  figures, left_out = validate(image, config), f"; {bad} bad pictures left out" if bad else ""
  writer.write(step, figures)
  print(f"{STAGE}: validation PSNR {figures['val/psnr_db']:.2f} dB, {figures['val/codebook_usage']:.1%} of "
        f"{of_books(image)} codes in use, perplexity {figures['val/codebook_perplexity']:.0f}, over "
        f"{figures['val/pictures']} pictures{left_out}", flush=True)


def start_from(state: TrainState, source, tokenizer: Tokenizer) -> TrainState:
  """`state` with the averaged weights and the codebook of another run's tokenizer. ValueError where shapes differ."""
  try:
    params, quantizer = load_tokenizer_weights(epath.Path(source) / STAGE, tokenizer)
  except ValueError as error:
    raise ValueError(f"init.from: {error}") from None
  return state._replace(params=params, extra={"average": jax.tree.map(jax.numpy.copy, params), "quantizer": quantizer})


def frozen_part(patterns: tuple[str, ...], params, stage: str):
  """(mask of the frozen parameters of this stage or None, whether that is all of them).

  Paths begin with the stage, "image_tokenizer/encoder/…", "decoder/layers/…". A pattern that begins with the other
  stage's name is that stage's business; ValueError for another that matches nothing here.
  """
  other = ({"image_tokenizer", "decoder"} - {stage}).pop()
  mine = tuple(p for p in patterns if not re.match(rf"\^?{other}\b", p))
  if not mine:
    return None, False
  mask = frozen_mask({stage: params}, mine)[stage]
  return mask, all(jax.tree.leaves(mask))


def modality(tokenizer: Tokenizer, extra: dict, config: Config):
  """The tokenizer with the weights averaged so far, of a TrainState's `extra`."""
  return image_modality(tokenizer, extra["average"], extra["quantizer"], config.data.image_size)


class Pictures:
  """Endless batches u8[b s s 3] of a source's pictures, shuffled anew each epoch by (seed, epoch).

  Batch n depends on the source, the seed and n alone, so the position is one number. Pictures are decoded once, in
  the background, as far as CACHE_BYTES reach. A record without a picture, or a bad one where on_bad is "skip",
  gives its place to the next; BadRecord where it is "stop". rows: those of each batch that are wanted.
  """

  def __init__(self, source: Source, side: int, batch_size: int, seed: int, on_bad: str = "stop", rows=slice(None)):
    if not len(source):
      raise ValueError("image_tokenizer: the training split has no records; check data.path")
    self.source, self.batch_size, self.seed, self.on_bad, self.rows = source, batch_size, seed, on_bad, rows
    kept = min(len(source), CACHE_BYTES // (side * side * 3))
    self.cache, self.cached = np.empty((kept, side, side, 3), np.uint8), np.zeros(kept, bool)
    self.bad: dict[int, BadRecord] = {}
    self.without = np.zeros(len(source), bool)   # no picture there, or a bad one
    self.step, self.orders = 0, {}
    workers = min(8, max(1, (os.cpu_count() or 2) // 2))
    self.pool, self.ahead = ThreadPoolExecutor(workers), workers + 1
    self.waiting: collections.deque[Future] = collections.deque()

  def __iter__(self):
    return self

  def __next__(self) -> np.ndarray:
    while len(self.waiting) < self.ahead:
      self.waiting.append(self.pool.submit(self.batch, self.step + len(self.waiting)))
    batch = self.waiting.popleft().result()
    self.step += 1
    self.waiting.append(self.pool.submit(self.batch, self.step + len(self.waiting)))
    return batch

  def get_state(self) -> dict:
    return {"step": self.step}

  def set_state(self, state: dict):
    for future in self.waiting:
      future.cancel()
    self.waiting.clear()
    self.step = int(state["step"])

  def close(self):
    self.pool.shutdown(wait=True, cancel_futures=True)

  def indices(self, step: int) -> np.ndarray:
    """The records of batch `step`, before bad ones give way."""
    at = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
    epochs, places = np.divmod(at, len(self.source))
    return np.concatenate([self._order(e)[places[epochs == e]] for e in range(epochs[0], epochs[-1] + 1)])

  def _order(self, epoch: int) -> np.ndarray:
    order = self.orders.get(epoch)
    if order is None:
      order = np.random.default_rng((self.seed, epoch)).permutation(len(self.source))
      self.orders = {**{e: o for e, o in list(self.orders.items()) if abs(e - epoch) < 2}, epoch: order}
    return order

  def batch(self, step: int) -> np.ndarray:
    at = self.indices(step)[self.rows]
    if at.max() < len(self.cached) and self.cached[at].all():
      return self.cache[at]
    return np.stack([self._picture(int(i)) for i in at])

  def _picture(self, index: int) -> np.ndarray:
    for _ in range(len(self.source)):
      if not self.without[index] and (picture := self._read(index)) is not None:
        return picture
      index = (index + 1) % len(self.source)
    first = f", the first because {next(iter(self.bad.values()))}" if self.bad else ""
    raise ValueError(f"image_tokenizer: the training split has no usable picture{first}")

  def _read(self, index: int) -> np.ndarray | None:
    if index < len(self.cached) and self.cached[index]:
      return self.cache[index]
    try:
      picture = self.source[index].image
    except BadRecord as error:
      if self.on_bad == "stop":
        raise
      self.bad[index], picture = error, None
    if picture is None:
      self.without[index] = True
    elif index < len(self.cached):
      self.cache[index] = picture
      self.cached[index] = True
    return picture


def usable(source: Source, indices: Iterable[int], on_bad: str) -> Iterator[np.ndarray]:
  """The pictures of these records, bad ones left out or raised as on_bad says."""
  for index in indices:
    try:
      picture = source[index].image
    except BadRecord:
      if on_bad == "stop":
        raise
      continue
    if picture is not None:
      yield picture


def first_pictures(config: Config, count: int) -> np.ndarray:
  """u8[n s s 3]: the first validation pictures; training pictures where there is no validation split."""
  for split in ("val", "train"):
    source = open_source(config.data, split)
    if found := list(itertools.islice(usable(source, range(len(source)), config.data.on_bad), count)):
      return np.stack(found)
  raise ValueError("data: neither the validation nor the training split has a usable picture")


def validate(image, config: Config) -> dict:
  """PSNR (of the mean squared error over all pictures) and codebook use on the first VALIDATION pictures."""
  pixels = first_pictures(config, VALIDATION)
  codes = image.encode(pixels)
  used = usage(uses(codes, image.codebook_size, image.books).astype(np.float32))
  return {"val/psnr_db": psnr_db(image, pixels, codes), "val/pictures": len(pixels),
          "val/codebook_usage": float(used["usage"]), "val/codebook_perplexity": float(used["perplexity"])}


def of_books(image) -> str:
  """"512", or "4 x 512" of four books."""
  return f"{image.books} x {image.codebook_size}" if image.books > 1 else str(image.codebook_size)


def strip_path(workdir, step: int) -> epath.Path:
  return epath.Path(workdir) / "report" / "samples" / f"{STAGE}_{step:06d}.png"


def save_strip(workdir, step: int, image, pixels: np.ndarray) -> np.ndarray:
  """Originals over reconstructions, in `strip_path` -> the strip u8[h w 3]."""
  rows = [pixels, image.decode(image.encode(pixels))]
  strip = np.concatenate([np.concatenate(list(row), 1) for row in rows])
  save(strip_path(workdir, step), strip)
  return strip


if __name__ == "__main__":
  from train.stage import main
  main(run, several=True)
