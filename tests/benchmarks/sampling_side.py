"""One side of `tests.benchmarks.sampling`: ours, and any side as a process that draws on demand.

    python -m tests.benchmarks.sampling_side '{"side": "ours", "shape": {…}}'

The first answer, a line of JSON, comes when the weights are there; then every line of input {"tokens": n, "batch": n,
"draws": n, "prompt": n} has one: the seconds of so many draws of a batch of pictures, and of ours those of the loop
behind the prefix alone. The first draw of a kind, which compiles, is apart: `first_s`. Imports jax for ours alone, and
torch for the others alone, so that each side is in an environment of its own.
"""
import dataclasses
import json
import os
import platform
import sys
import time

import numpy as np

GUIDANCE, PROMPT = 3.0, 16
"""Of all sides; tokens before the first code, control tokens included."""
TEXT, IMAGE, CONTROLS = 512, 1_024, 64
"""Ids of each block; a picture's are the last."""


@dataclasses.dataclass(frozen=True)
class Shape:
  """A decoder."""
  layers: int = 4
  width: int = 256
  heads: int = 4
  kv_heads: int = 2
  hidden: int = 704

  @property
  def vocabulary(self) -> int:
    return CONTROLS + TEXT + IMAGE


SHAPES = {"256": Shape(), "768": Shape(layers=12, width=768, heads=12, kv_heads=6, hidden=2_048)}


@dataclasses.dataclass(frozen=True)
class Work:
  """A batch of pictures with so many codes each, behind so many tokens."""
  tokens: int
  batch: int
  prompt: int = PROMPT


class Ours:
  """`Sampler` with guidance at temperature 1."""

  def __init__(self, shape: Shape, int8: bool = False):
    import jax
    from unitok import config as c
    from unitok.config import Sampling
    from unitok.objectives import OBJECTIVES
    from unitok.sampling.sampler import Sampler
    from unitok.steps import Language
    from unitok.vocab import make_vocabulary
    self.vocabulary = make_vocabulary({"text": TEXT, "image": IMAGE}, {})
    options = c.Decoder(**dataclasses.asdict(shape))
    language = Language(options, self.vocabulary.size, tuple(OBJECTIVES), image=self.vocabulary.image)
    params = jax.jit(language.init)(jax.random.key(0))
    self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params["layers"]))
    self.sampler = Sampler(language, params, self.vocabulary)
    if int8:
      self.sampler = self.sampler.in_int8()
    self.sampling, self.seed = Sampling(guidance_scale=GUIDANCE), 0
    self.versions = {"python": platform.python_version(), "jax": jax.__version__}
    self.loop, go_on = 0.0, self.sampler._go_on

    def timed(*given):
      jax.block_until_ready(given[-2])
      start = time.perf_counter()
      out = jax.block_until_ready(go_on(*given))
      self.loop += time.perf_counter() - start
      return out

    self.sampler._go_on = timed

  def document(self, words: int, tokens: int):
    from unitok.objectives import DRAWING, OBJECTIVES
    from unitok.objectives.codes import Codes
    from unitok.sequence import build
    side = int(tokens**0.5)
    codes = Codes((np.arange(words, dtype=np.int32) % TEXT,), np.full((side, side), -1, np.int32))
    return build(OBJECTIVES["text_to_image"](codes, np.random.default_rng(0), DRAWING), self.vocabulary)

  def draw(self, work: Work) -> float:
    """Draws; seconds of the loop behind the prefix."""
    controls = int(np.flatnonzero(self.document(0, work.tokens).fills >= 0)[0]) + 1
    document, null = self.document(work.prompt - controls, work.tokens), self.document(0, work.tokens)
    self.loop, self.seed = 0.0, self.seed + 1
    drawn = self.sampler.draw([document] * work.batch, self.sampling, self.seed, [null] * work.batch)
    assert [len(ids) for ids in drawn] == [work.tokens] * work.batch
    return self.loop


def open_side(side: str, shape: dict, **_):
  """ours, ours int8, or a peer's name in sampling_torch."""
  shape = Shape(**shape)
  if side.startswith("ours"):
    return Ours(shape, side == "ours int8")
  from tests.benchmarks.sampling_torch import Peer
  return Peer(shape, side)


def serve(given: str, lines, answer):
  """Opens the side and answers each line of `lines`."""
  start, known = time.perf_counter(), {}
  side = open_side(**json.loads(given))
  answer({"first_s": time.perf_counter() - start, "parameters": side.parameters, "versions": side.versions})
  for line in lines:
    asked = json.loads(line)
    draws = asked.pop("draws")
    work, seconds, loops = Work(**asked), [], []
    if work not in known:
      start = time.perf_counter()
      side.draw(work)
      known[work] = time.perf_counter() - start
    for _ in range(draws):
      start = time.perf_counter()
      loops.append(side.draw(work))
      seconds.append(time.perf_counter() - start)
    answer({"seconds": seconds, "loops": loops, "first_s": known[work]})


if __name__ == "__main__":
  out = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)      # what a library prints is no answer
  serve(sys.argv[1], sys.stdin, lambda answer: print(json.dumps(answer), file=out, flush=True))
