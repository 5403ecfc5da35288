"""How good a run is, on data it never trained on: figures for metrics.json and pictures for the report.

Everything about what a source means is in its own evaluation; the others are measured by their captions.
"""
from collections.abc import Callable
from typing import Any

from unitok.config import source_name
from unitok.evaluation.captioned import asked, evaluate_captioned
from unitok.evaluation.examples import Context, Result, load_examples, nothing_said
from unitok.evaluation.likelihood import evaluate_nats, evaluate_objectives
from unitok.evaluation.networks import Networks
from unitok.evaluation.reconstruction import evaluate_reconstruction
from unitok.evaluation.scene_tasks import evaluate_scenes
from unitok.evaluation.scenes import read_caption
from unitok.evaluation.statistics import merge
from unitok.evaluation.understanding import evaluate_understanding

EVALUATIONS: dict[str, Callable[[Context], Result]] = {
    "scenes": evaluate_scenes,
}
"""By the source's name, where one has more truth than captions; `evaluate_captioned` for all others."""
READERS: dict[str, Callable[[str], Any]] = {"scenes": read_caption}
"""By the source's name, where its captions can be read."""


def evaluate(model: Any, say: Callable[[str], None] = nothing_said, networks: Networks = Networks()) -> Result:
  """Everything that can be measured of a unitok.model.Model on the validation and held-out records of its source.

  say(line): what is done now. Without any validation picture the result is empty and a line says so.
  ValueError where the weights give figures that are not finite.
  """
  config = model.config
  limit = config.evaluation.examples
  val, heldout = (load_examples(config, split, limit) for split in ("val", "heldout"))
  long = 0
  for captions in (val.captions, heldout.captions):
    for n, texts in enumerate(captions):
      captions[n] = tuple(text for text in texts if model.fits(text))
      long += len(texts) - len(captions[n])
  if long:
    say(f"evaluate: {long} captions are passed over, too long for a row of {config.decoder.row_length} tokens")
  context = Context(model, val, heldout, say, READERS.get(source_name(config.data)), networks)
  if not len(val):
    say("evaluate: the source has no validation pictures, so nothing is measured; give it a split (data.val_share)")
    return Result({})
  say(f"evaluate: reconstructions and likelihoods of {len(val)} validation pictures")
  results = [evaluate_reconstruction(context), evaluate_nats(context), asked(context)]
  results += [evaluate_objectives(context), evaluate_understanding(context)]
  results.append(EVALUATIONS.get(source_name(config.data), evaluate_captioned)(context))
  metrics = merge(*(r.metrics for r in results), {"sampling": context.sampling_record()})
  figures = [f for r in reversed(results) for f in r.figures]      # what the model does before what it is made of
  return Result(metrics, figures, [s for r in results for s in r.sections])
