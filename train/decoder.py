"""Trains the decoder of a run: python -m train.decoder --config configs/NAME.py --workdir DIR."""
import functools
from collections.abc import Callable

import jax
from etils import epath

from train.image_tokenizer import frozen_part
from train.loop import fit, within
from train.processes import first, gathered
from train.samples import drawer, last_is_missing
from unitok.checkpoint import Checkpoints, load_meta
from unitok.config import Config
from unitok.data.pipeline import batches, task_names
from unitok.data.shards import CodeShards
from unitok.metrics import open_writers
from unitok.modalities import location
from unitok.models.precision import choose
from unitok.optim import optimizer
from unitok.plan.program import check_state
from unitok.run import (check_vocabulary, code_vectors, load_decoder, load_decoder_weights, read_vocabulary,
                        with_steps)
from unitok.sharding import check_batch, check_decoder, create, make_mesh, place, rows_here
from unitok.steps import Language, TrainState, decoder_state, decoder_step, know_codes
from unitok.vocab import Vocabulary, image_blocks

STAGE = "decoder"


def run(config: Config, workdir, on_sample: Callable | None = None, seconds: float = 0.0):
  """Trains, or goes on, until workdir/decoder holds step `train.steps`.

  on_sample(model, vocabulary, step, params) draws with the averaged weights every `sample_every` steps; left out, it
  is train.samples' into the run's report, which also draws what a run stopped behind its last checkpoint lacks. A strip
  u8[h w 3] that it returns goes to TensorBoard and Weights & Biases, too.
  `seconds`, where not 0, cut the steps to what fits.
  """
  workdir, mesh = epath.Path(workdir), make_mesh(config.mesh)
  vocabulary = read_vocabulary(workdir)
  if seconds:
    within(seconds, config, workdir, STAGE, lambda: trial(config, workdir, vocabulary, mesh))
  config = with_steps(config, workdir)
  options = config.decoder
  with Checkpoints(workdir / STAGE, options.train.keep_last, options.train.keep_every) as checkpoints:
    if checkpoints.latest() is not None:
      check_vocabulary(load_meta(checkpoints.folder)[0], vocabulary, checkpoints.folder)
    if checkpoints.latest() == options.train.steps:
      print(f"{STAGE}: already trained to step {options.train.steps} in {checkpoints.folder}")
      if not on_sample and first() and last_is_missing(config, workdir):
        last = load_decoder(workdir)
        drawer(config, workdir)(last.model, last.vocabulary, last.step, last.params)
      return
    seed, documents, model, tx, state = new(config, workdir, vocabulary, mesh)
    if checkpoints.latest() is None:
      start = start_from(state, config.init.source, model, vocabulary) if config.init.source else \
          know(state, workdir, vocabulary, seed)
      state = place(start, mesh)
    tell_readers(options.readers)
    draw = on_sample or drawer(config, workdir)
    writer = open_writers(config, workdir, STAGE)

    def sample(step: int, state: TrainState):
      average = gathered(state.extra["average"])
      if first() and (strip := draw(model, vocabulary, step, average)) is not None:
        writer.show(step, "drawn", strip)

    try:
      fit(state=state, step_fn=functools.partial(decoder_step, model, tx), batches=documents, train=options.train,
          checkpoints=checkpoints, writer=writer, key=jax.random.fold_in(seed, 1),
          on_sample=sample if draw else None, examples_per_step=options.train.batch_size, title=STAGE, mesh=mesh,
          meta={"vocabulary": vocabulary.fingerprint}, device_gb=config.mesh.device_gb)
    finally:
      documents.close()
      writer.close()


def new(config: Config, workdir, vocabulary: Vocabulary, mesh):
  """(seed, documents, model, optimizer, state) at step 0."""
  options, seed = config.decoder, jax.random.fold_in(jax.random.key(config.seed), 2)
  check_decoder(options, vocabulary.size, mesh)
  folders = [epath.Path(folder) / "codes" / "train" for folder in (workdir, *options.also)]
  check_batch(options.train.batch_size, mesh, f"{STAGE}.train.batch_size", options.train.accumulate)
  tasks, precision = tuple(task_names(options, vocabulary)), choose(config.compute_dtype)
  model = Language(options, vocabulary.size, tasks, precision, vocabulary.further, vocabulary.image)
  frozen, _ = frozen_part(config.init.frozen, jax.eval_shape(model.init, seed), STAGE)
  tx = optimizer(options.train, frozen, precision.products)
  build = functools.partial(decoder_state, model, tx)
  check_state(jax.eval_shape(build, seed), mesh, config.mesh, STAGE)
  documents = batches([CodeShards(folder) for folder in folders], vocabulary, options, config.seed,
                      rows=rows_here(mesh, options.train.batch_size))
  return seed, documents, model, tx, create(
      build, mesh, seed, zero1=config.mesh.zero1, offload=config.mesh.offload)


def tell_readers(readers: int):
  """A line where several processes pack the same documents."""
  if first() and (count := jax.process_count()) > readers:
    print(f"{STAGE}: decoder.readers is {readers}, for {count} processes, so each packs rows of others beside its own; a "
          f"new workdir with {count}, or a multiple that divides the batch, spares that", flush=True)


def trial(config: Config, workdir, vocabulary: Vocabulary, mesh):
  """What `within` times."""
  _, documents, model, tx, state = new(config, workdir, vocabulary, mesh)
  return state, functools.partial(decoder_step, model, tx), documents, mesh


def start_from(state: TrainState, source, model: Language, vocabulary: Vocabulary) -> TrainState:
  """`state` with the averaged weights of another run's decoder. ValueError where shapes or vocabulary differ."""
  try:
    params, _ = load_decoder_weights(source, model, vocabulary)
  except ValueError as error:
    raise ValueError(f"init.from: {error}") from None
  return state._replace(params=params, extra={"average": jax.tree.map(jax.numpy.copy, params)})


def know(state: TrainState, workdir, vocabulary: Vocabulary, key) -> TrainState:
  """`state` whose image ids start out as near to each other as the tokenizer's codes are, where there is one, and whose
  location ids as near as their bins."""
  if (workdir / "image_tokenizer").exists():
    vectors, start = code_vectors(workdir), jax.random.fold_in(key, 3)
    books = vectors if vectors.ndim == 3 else vectors[None]
    for n, (block, some) in enumerate(zip(image_blocks(len(books)), books)):
      state = know_codes(state, vocabulary.block(block).table, some, jax.random.fold_in(start, n) if n else start)
  if any(block.name == "location" for block in vocabulary.blocks):
    state = know_codes(state, vocabulary.block("location").table, location.vectors(), jax.random.fold_in(key, 4))
  return state


if __name__ == "__main__":
  from train.stage import main
  main(run, several=True)
