"""What a stage's training costs on a mesh of chips: memory, communication, time."""
import dataclasses
import math
from typing import Any

from jax.sharding import AbstractMesh

from unitok import config as c
from unitok.plan.chips import chip, roofline
from unitok.plan.communication import Sent
from unitok.plan.program import bytes_on, state_on
from unitok.plan.simulate import compiled
from unitok.plan.stages import STAGES, flops_row, flops_step, on_chips, tokenizer_flops_step
from unitok.sharding import AXES, check_batch, check_decoder

MOST = 4096
"""Devices of a mesh: each is simulated."""


def sizes_of(mesh: c.Mesh, text: str) -> dict[str, int]:
  """"data=8,fsdp=32" -> the size of every axis, those not named 1; of "" the mesh's own. ValueError in a line."""
  legal = f"take AXIS=NUMBER,… of {', '.join(AXES)}"
  sizes = dict.fromkeys(AXES, 1) if text else {name: max(getattr(mesh, name), 1) for name in AXES}
  for part in filter(None, text.split(",")):
    name, _, number = part.strip().partition("=")
    if name not in AXES:
      raise ValueError(f"--mesh: no axis {name!r}; {legal}")
    if not number.isdigit() or int(number) < 1:
      raise ValueError(f"--mesh: {name} is {number!r}, must be a whole number from 1 on; {legal}")
    sizes[name] = int(number)
  if (count := math.prod(sizes.values())) > MOST:
    raise ValueError(f"--mesh: {count} devices are more than the {MOST} that are simulated; plan a part of them with "
                     "its part of the batch, and multiply")
  return sizes


def mesh_plan(config: c.Config, stage: str, mesh: str, name: str = "", tokens: float = 0.0) -> dict[str, Any]:
  """A stage's cost on the mesh "AXIS=NUMBER,…", by device; on chips of that name their time, too.

  Bytes of weights, optimizer and average (the running mean of the weights) are exact; `bytes_temporary` is what the
  compiler plans for activations, gradients and all else a step makes (unitok/plan/simulate.py). bytes_sent: what each
  device sends in a step, by axis. Time is a roofline: products at the chip's peak, the state and the temporary arrays
  written and read once, everything sent at the links' full rate; seconds_step if these hide each other wholly,
  seconds_step_in_turn if not at all. share_of_peak: of the products of a forward and a backward pass, without what is
  computed again, by seconds_step. tokens: of the training, 0: the config's.
  """
  config = on_chips(config) if name else config
  the_chip, sizes = chip(name) if name else None, sizes_of(config.mesh, mesh)
  # what `watch_every` measures holds less than a step, and is too rare to count among what one sends
  config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **sizes),
                               decoder=dataclasses.replace(config.decoder, watch_every=0))
  if tokens and stage != "decoder":
    raise ValueError(f"--tokens: a number of the decoder's; the {stage} sees pictures, so leave it out and change "
                     f"{stage}.train.steps")
  one, shape = STAGES[stage](config), AbstractMesh(tuple(sizes.values()), tuple(sizes))
  devices, decoder = math.prod(sizes.values()), stage == "decoder"
  if decoder:
    check_decoder(config.decoder, one.model.vocabulary_size, shape)
  check_batch(one.train.batch_size, shape, f"{stage}.train.batch_size", one.train.accumulate)
  state = state_on(one.state(), shape, config.mesh)
  parts = {"bytes_weights": bytes_on(state.params), "bytes_optimizer": bytes_on(state.opt_state),
           "bytes_average": bytes_on(state.extra)}
  room = int(the_chip.memory) if the_chip else 0
  found = compiled(config, stage, sizes, room, the_chip.domain if the_chip else 0)
  memory, sent = found["memory"], [Sent(*some) for some in found["sent"]]
  told = {"mesh": sizes, "devices": devices, **parts, "bytes_batch": memory["arguments"] - sum(parts.values()),
          "bytes_temporary": memory["temporary"], "bytes_device": memory["total"],
          "bytes_sent": {axis: round(sum(some.bytes for some in sent if some.axis == axis))
                         for axis in sorted({some.axis for some in sent})}}
  if not the_chip:
    return told
  rows, length = one.train.batch_size, config.decoder.row_length if decoder else 0
  step = flops_step(config) if decoder else tokenizer_flops_step(config)
  model = 3 * rows * flops_row(config) if decoder else step
  moved = 2 * (sum(parts.values()) + one.train.accumulate * memory["temporary"])
  near, far = (sum(s.bytes for s in sent if s.far == yes) for yes in (False, True))
  times = roofline(the_chip, step / devices, moved, near, far)
  steps = math.ceil(tokens / (rows * length)) if tokens and decoder else one.train.steps
  days = lambda seconds: steps * seconds / 86400
  return {**told, "bytes_chip": room, "fits": memory["total"] <= room, "largest_batch": found["largest_batch"],
          "bytes_sent_far": round(far), **times,
          "share_of_peak": model / devices / the_chip.flops / times["seconds_step"],
          "share_of_peak_in_turn": model / devices / the_chip.flops / times["seconds_step_in_turn"],
          **({"tokens_a_second": rows * length / times["seconds_step"], "tokens": steps * rows * length}
             if decoder else {}), "steps": steps,
          "days": days(times["seconds_step"]), "days_in_turn": days(times["seconds_step_in_turn"]),
          "chip_hours": 24 * devices * days(times["seconds_step"])}
