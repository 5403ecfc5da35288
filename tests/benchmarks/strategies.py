"""Decoding strategies on trained runs: passes, what is drawn, and wall time.

    python -m train.pipeline --config configs/scenes_parallel.py --workdir runs/parallel
    python -m train.pipeline --config configs/scenes_parallel.py --workdir runs/raster --decoder.tasks.parallel 0
    python -m tests.benchmarks.strategies --model runs/parallel --raster runs/raster --emoji runs/emoji

`jacobi` at temperature 1 without top-k and top-p, with the run's guidance, against `sequential` in a program of the same
shape, over `--keys` keys (a validation prompt each): the share of keys whose ids are all equal, and that against the
one-token program, where those that differ may do so in a near-tie alone (jacobi_beyond_near_ties counts the others), and
against a program of another batch (jacobi_identical_batch). A pass is a forward behind the prefix, for both. Of several
`--windows` and `--guesses` each is printed; the figures are those of the first.

Groups and maskgit need a run that learned `parallel` and, for accuracy, scenes: each of `--passes` against `sequential`,
over `--prompts` prompts, with the run's own temperature and guidance; rows with windows of a half, a third and a sixth of
the width. `groups_accuracy_drop` is from the better of this model drawn code by code and `--raster`, a run of the same
training without `parallel` (without one it is void), at the first of `--passes` in random orders, a new one every 250
prompts. Of `--emoji`, where nobody can say what is right, the same ways at temperature 1 without guidance: nats a code that
the model itself, code by code, gives to what was drawn; drawn code by code that is its entropy, and what is more was lost
by drawing codes apart that belong together. ms: a picture drawn alone (batch 1), the median of three.

What was learned: on configs/scenes_parallel.py (64 codes) jacobi took 0.146 of the passes, all of 200 keys the very same;
groups in 8 passes (groups_pass_share 0.111) lost 0.018 in random and 0.007 in Halton's order against the raster-only run,
0.008 and nothing against this model code by code (n = 2,000; its header has more, and of 36 codes). 64 codes in 8 passes
took 45 ms where code by code took 82 at 4 x 256 (39 and 45 on a day of faster cores), and 563 where it took 1,665 at 12 x
768 (490 and 1,498): the passes go through some 120 columns for each of the two rows, since a code is a placeholder first,
and products of 20 to 60 rows run at some 100 GFLOP/s on these cores, 15 ms at 256; code by code the weights come from the
cache there, 0.7 ms a token, and from memory at 768. Passes all as wide as the largest took 1.2 to 1.4 times as long; in six
loops of like widths instead of four they have 6 % fewer columns, and take as long. Looking at the part of the cache alone
that is filled does not pay: it is copied for it (code by code in four parts 1.2 to 1.4 times as long).

Wall time is at batch 1 with guidance 3, of random weights in the shapes 4 x 256 and 12 x 768 with 64 codes, called in
turn, the median of `--rounds`. The last line is JSON; figures that were not asked for are null.
"""
import dataclasses
import functools
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import tyro

from unitok import config as c
from unitok.config import Sampling
from unitok.evaluation.examples import load_examples
from unitok.evaluation.likelihood import document
from unitok.evaluation.passes import nats_of, to_draw
from unitok.evaluation.scene_tasks import truths
from unitok.evaluation.scenes import read_pictures
from unitok.evaluation.statistics import figure
from unitok.model import Model
from unitok.objectives import DRAWING, OBJECTIVES
from unitok.objectives.codes import Codes
from unitok.sampling import rules
from unitok.sampling.by_rows import by_rows
from unitok.sampling.groups import groups_of
from unitok.sampling.sampler import Sampler
from unitok.sequence import build
from unitok.steps import Language
from unitok.vocab import make_vocabulary

BATCH, OTHER_BATCH = 25, 4
"""Keys drawn side by side, and in another program to compare with."""
PASSES = 8
"""Of 64 codes, whose wall time is measured."""
SAME_ORDER = 250
"""Prompts whose pictures are drawn in one order."""
TIE = 1e-4
"""Of two perturbed logits that are near enough for another order of additions to choose the other."""
SHAPES = {"256": dict(layers=4, width=256, heads=8, kv_heads=4, hidden=704),
          "768": dict(layers=12, width=768, heads=12, kv_heads=6, hidden=2048)}


def prompts_of(model: Model, count: int) -> list[str]:
  """Those of so many validation examples that fit."""
  return [prompt for prompt in load_examples(model.config, "val", count).captioned().prompts if model.fits(prompt)]


def clean(sampling: Sampling, **more) -> Sampling:
  """Without a strategy of its own."""
  return dataclasses.replace(sampling, strategy="", window=0, passes=0, row_window=0, **more)


def drawn(model: Model, texts: list[np.ndarray], sampling: Sampling, seed: int,
          batch: int = BATCH) -> tuple[list[np.ndarray], np.ndarray]:
  """(ids, passes behind the prefix) of a picture for each text."""
  asked, ids, passes = functools.partial(to_draw, model), [], []
  for start in range(0, len(texts), batch):
    some = texts[start:start + batch]
    nulls = [asked(text[:0]) for text in some] if sampling.guidance_scale != 1 else None
    part = model.sampler.run([asked(text) for text in some], sampling, seed, nulls, first_row=start)
    ids, passes = ids + part.ids, passes + list(part.passes)
  return ids, np.array(passes)


def gaps(model: Model, texts: list[np.ndarray], some: list[np.ndarray], others: list[np.ndarray], sampling: Sampling,
         seed: int) -> np.ndarray:
  """f64[m]: of each of the m pictures whose ids i32[n] differ, by how much the perturbed logits of the two ids do where they
  differ first, behind the same codes: a near-tie where that is little."""
  out = []
  for row, (text, one, other) in enumerate(zip(texts, some, others, strict=True)):
    if np.array_equal(one, other):
      continue
    at, known = int(np.argmax(one != other)), []
    for ids in (one, np.append(one[:at], other[at:])):
      codes = model.vocabulary.image_codes(ids).reshape(model.image.grid)
      known += [document(model, "text_to_image", given, codes) for given in (text, text[:0])]
    of_picture = lambda d: (d.loss_weights > 0) & np.asarray(model.vocabulary.allowed("image"))[d.targets]
    nats = [float(log_p[of_picture(d)][at]) for d, log_p in zip(known, model.sampler.log_p(known))]
    given, null = nats[0] - nats[2], nats[1] - nats[3]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), row), at)
    noise = np.asarray(rules.noise(key[None], np.array([one[at], other[at]], np.uint32)))[0]
    out.append(abs(null + sampling.guidance_scale * (given - null) + float(noise[0]) - float(noise[1])))
  return np.array(out)


def jacobi(model: Model, keys: int, windows: tuple[int, ...], guesses: tuple[str, ...]) -> dict:
  """Figures of the first window and guess, over one key a prompt."""
  prompts = prompts_of(model, keys)
  texts, out = [model.text.encode(prompts[n % len(prompts)]) for n in range(keys)], {}
  warm = dataclasses.replace(model.config.sampling, temperature=1.0, top_k=0, top_p=1.0, passes=0)
  plain, passes = drawn(model, texts, dataclasses.replace(warm, strategy="sequential", window=0), 1)
  equal = lambda a, b: np.array([np.array_equal(x, y) for x, y in zip(a, b, strict=True)])
  for window in windows:
    alike, _ = drawn(model, texts, dataclasses.replace(warm, strategy="sequential", window=window), 1)
    for guess in guesses:
      ids, taken = drawn(model, texts, dataclasses.replace(warm, strategy="jacobi", window=window, guesses=guess), 1)
      one = {"share": float(taken.sum() / passes.sum()), "identical": float(equal(ids, alike).mean()),
             "identical_one_token": float(equal(ids, plain).mean()), "n": len(ids)}
      differ = gaps(model, texts, ids, plain, warm, 1)
      one |= {"beyond_near_ties": int((differ > TIE).sum()), "largest_gap": float(differ.max(initial=0.0))}
      how = dataclasses.replace(warm, strategy="jacobi", window=window, guesses=guess)
      alone, _ = drawn(model, texts, how, 1, OTHER_BATCH)
      one |= {"identical_batch": float(equal(ids, alone).mean()), "ms": milliseconds(model, how, prompts[0])}
      out[f"{window} {guess}"] = one
      print(f"jacobi, window {window:3d}, guess {guess:5s}: {taken.mean():.1f} of {passes.mean():.0f} passes, share "
            f"{one['share']:.3f}, identical {one['identical']:.3f} (one token a pass {one['identical_one_token']:.3f}, "
            f"batches of {OTHER_BATCH} {one['identical_batch']:.3f}), {one['ms']:.0f} ms, n {len(ids)}", flush=True)
  return out


def accuracy(model: Model, sampling: Sampling, count: int, skip: int) -> dict:
  """{accuracy, accuracy_n, …} of whole pictures right, over as many validation prompts behind the first `skip`; each
  SAME_ORDER of them by a seed of its own, which random and local orders depend on."""
  config = dataclasses.replace(model.config, data=dataclasses.replace(model.config.data, val_examples=skip + count))
  val = load_examples(config, "val", skip + count)
  right = []
  for seed, start in enumerate(range(skip, skip + count, SAME_ORDER)):
    here = slice(start, min(start + SAME_ORDER, skip + count))
    found = read_pictures(model.generate(val.prompts[here], sampling, seed=seed, batch_size=SAME_ORDER))
    right += [a == f for a, f in zip(truths(val)[here], found, strict=True)]
  return figure("accuracy", np.array(right))


def every_way(model: Model, base: Sampling, passes: tuple[int, ...]) -> dict[str, tuple[Sampling, int]]:
  """{name: (how, passes behind the prefix)}: code by code, groups and maskgit at so many passes, and by rows."""
  height, width = model.image.grid
  out = {"sequential": (dataclasses.replace(base, strategy="sequential"), height * width - 1)}
  for number in (n for n in passes if n <= height * width) if model.config.decoder.tasks.get("parallel") else ():
    for order in ("random", "halton", "locality"):
      out[f"{number} {order}"] = dataclasses.replace(base, passes=number, group_order=order), number - 1
    for noise in dict.fromkeys((base.choice_temperature, 0.0)):
      out[f"{number} maskgit {noise:g}"] = (
          dataclasses.replace(base, strategy="maskgit", passes=number, choice_temperature=noise), number - 1)
  picture = to_draw(model, np.zeros(0, np.int32))
  for window in dict.fromkeys(max(1, width // share) for share in (2, 3, 6)):
    how = dataclasses.replace(base, strategy="rows", row_window=window)
    out[f"rows {window}"] = how, int(by_rows(picture, how, model.sampler.image).passes.max())
  return out


def milliseconds(model: Model, how: Sampling, prompt: str) -> float:
  """Milliseconds of one picture, its pixels included."""
  seconds = []
  for number in range(4):      # the first compiles
    start = time.perf_counter()
    model.generate([prompt], how, seed=number)
    seconds.append(time.perf_counter() - start)
  return 1e3 * statistics.median(seconds[1:])


def curve(model: Model, raster: Model | None, passes: tuple[int, ...], count: int, skip: int) -> dict:
  """Accuracy of whole pictures by the number of passes."""
  found, out = every_way(model, clean(model.config.sampling), passes), {}
  runs = [(name, model, *one) for name, one in found.items()]
  if raster is not None:
    runs.insert(1, ("raster", raster, clean(model.config.sampling), found["sequential"][1]))
  for name, one, how, taken in runs:
    out[name] = accuracy(one, how, count, skip) | {
        "passes": taken, "ms": milliseconds(one, how, "a large red circle at the left")}
    print(f"{name:15s} {taken:3d} passes behind the prefix, {out[name]['ms']:4.0f} ms, pictures right "
          f"{out[name]['accuracy']:.3f} ({out[name]['accuracy_low']:.3f}-{out[name]['accuracy_high']:.3f}), "
          f"n {out[name]['accuracy_n']}", flush=True)
  return out


def likelihood(model: Model, passes: tuple[int, ...], count: int) -> dict:
  """Nats a code, by the model itself code by code, of what each way draws."""
  base = clean(model.config.sampling, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, guidance_scale=1.0)
  prompts = prompts_of(model, count)
  texts, out = [model.text.encode(prompt) for prompt in prompts], {}
  for name, (how, taken) in every_way(model, base, passes).items():
    out[name] = figure("nats", nats_of(model, texts, how)) | {"passes": taken, "ms": milliseconds(model, how, prompts[0])}
    print(f"{name:15s} {taken:3d} passes behind the prefix, {out[name]['ms']:4.0f} ms, nats a code "
          f"{out[name]['nats']:.3f} ({out[name]['nats_low']:.3f}-{out[name]['nats_high']:.3f}), n {len(texts)}", flush=True)
  return out


def walls(shape: dict, passes: int, rounds: int, grid: int = 8) -> dict[str, float]:
  """Seconds a picture at batch 1; window: by passes as large as jacobi's that keep one token each."""
  vocabulary = make_vocabulary({"text": 512, "image": 1024}, {})
  language = Language(c.Decoder(**shape), vocabulary.size, tuple(OBJECTIVES))
  sampler = Sampler(language, language.init(jax.random.key(0)), vocabulary)
  text = np.arange(16, dtype=np.int32)

  def asked(words, objective, groups=None):
    codes = Codes((words,), np.full((grid, grid), -1, np.int32), groups=groups)
    return build(OBJECTIVES[objective](codes, np.random.default_rng(0), DRAWING), vocabulary)

  groups = groups_of(np.ones((grid, grid), bool), Sampling(passes=passes), 0)
  guided, alone = Sampling(guidance_scale=3.0), ("text_to_image", None)
  ways = {"sequential": (dataclasses.replace(guided, strategy="sequential"), *alone),
          "groups": (dataclasses.replace(guided, strategy="groups"), "parallel", groups),
          "maskgit": (dataclasses.replace(guided, strategy="maskgit", passes=passes), "parallel", np.zeros_like(groups)),
          "rows": (dataclasses.replace(guided, strategy="rows"), *alone),
          "window": (dataclasses.replace(guided, strategy="sequential", window=16), *alone)}
  seconds = {name: [] for name in ways}
  for number in range(rounds + 1):
    for name, (sampling, *what) in ways.items():
      start = time.perf_counter()
      sampler.draw([asked(text, *what)], sampling, number, [asked(text[:0], *what)])
      if number:      # the first compiles
        seconds[name].append(time.perf_counter() - start)
  return {name: statistics.median(some) for name, some in seconds.items()}


def main(model: Path | None = None, emoji: Path | None = None, raster: Path | None = None, keys: int = 200,
         prompts: int = 2_000, skip: int = 0, windows: tuple[int, ...] = (16,), guesses: tuple[str, ...] = ("above", "left"),
         passes: tuple[int, ...] = (8, 4, 16, 32), rounds: int = 5, shapes: tuple[str, ...] = ("256", "768")):
  """model: a run on scenes; emoji: one on another source; raster: of equal training, without parallel; skip: prompts before
  those of the accuracies, where they were used to choose something; shapes: those timed, of 256 and 768."""
  result = {"jacobi_pass_share": None, "jacobi_identical": None, "jacobi_pass_share_emoji": None, "groups_pass_share": None,
            "groups_accuracy_drop": None}
  for folder, suffix in ((model, ""), (emoji, "_emoji")):
    if folder is None:
      continue
    print(f"{folder}:", flush=True)
    opened = Model.open(folder)
    found = jacobi(opened, keys, windows, guesses)
    first = next(iter(found.values()))
    result |= {f"jacobi_pass_share{suffix}": first["share"], f"jacobi_identical{suffix}": first["identical"],
               f"jacobi_identical_one_token{suffix}": first["identical_one_token"], f"jacobi_n{suffix}": first["n"],
               f"jacobi_identical_batch{suffix}": first["identical_batch"],
               f"jacobi_beyond_near_ties{suffix}": first["beyond_near_ties"],
               f"jacobi{suffix}": found}
    if suffix:
      result["ways_emoji"] = likelihood(opened, passes, prompts)
    if not suffix and opened.config.decoder.tasks.get("parallel"):
      found = curve(opened, None if raster is None else Model.open(raster), passes, prompts, skip)
      ours = found[f"{passes[0]} random"]
      best = max(found[name]["accuracy"] for name in ("sequential", "raster") if name in found)
      result |= {"groups_pass_share": ours["passes"] / found["sequential"]["passes"],
                 "groups_accuracy_drop": best - ours["accuracy"] if raster else None,
                 "groups_accuracy_drop_own": found["sequential"]["accuracy"] - ours["accuracy"],
                 "groups_n": ours["accuracy_n"], "groups": found}
      for way in ("maskgit", "rows"):
        first = next(one for name, one in found.items() if way in name)
        result |= {f"{way}_pass_share": first["passes"] / found["sequential"]["passes"],
                   f"{way}_accuracy_drop_own": found["sequential"]["accuracy"] - first["accuracy"]}
  for name in shapes:
    seconds = walls(SHAPES[name], PASSES, rounds)
    suffix = "" if name == "256" else f"_{name}"
    print(f"{SHAPES[name]['layers']} x {name}, batch 1, 64 codes: " + ", ".join(
        f"{way} {1e3 * one:.0f} ms" for way, one in seconds.items()) + f", n {rounds}", flush=True)
    result |= {f"{way}_wall_ratio{suffix}": seconds["sequential"] / seconds[way] for way in ("groups", "maskgit", "rows")}
    result |= {f"wall_n{suffix}": rounds, f"window_pass_ratio{suffix}": seconds["window"] / seconds["sequential"]}
  print(json.dumps(result))


if __name__ == "__main__":
  tyro.cli(main, description=__doc__)
