"""Chips by their public figures, and the least time that a step can take on them."""
from typing import NamedTuple


class Chip(NamedTuple):
  flops: float       # a second, dense bfloat16 products
  memory: float      # bytes
  bandwidth: float   # bytes a second to and from that memory
  link: float        # bytes a second that it sends, and as many it gets, along an axis of the mesh inside its domain
  domain: int        # chips joined so
  network: float     # bytes a second of its share of the network beyond


CHIPS: dict[str, Chip] = {
    "v5e": Chip(197e12, 16e9, 819e9, 100e9, 256, 3.125e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 200e9, 8960, 6.25e9),
    "v6e": Chip(918e12, 32e9, 1600e9, 200e9, 256, 12.5e9),
    "a100": Chip(312e12, 80e9, 2039e9, 300e9, 8, 25e9),
    "h100": Chip(989e12, 80e9, 3350e9, 450e9, 8, 50e9),
    "h200": Chip(989e12, 141e9, 4800e9, 450e9, 8, 50e9),
}
"""TPUs: the tables of cloud.google.com/tpu/docs/v5e, v5p and v6e; a link is two of the chip's ports (1,600 Gb/s over 4,
4,800 over 6, 3,200 over 4), the ring of one axis both ways; the network a host's cards over its chips (2 x 100 Gb/s
over 8, 200 over 4, 4 x 200 over 8). GPUs, of the SXM form: NVIDIA's data sheets of the A100 80GB, H100 and H200 without
sparsity; a link is half of what NVLink moves both ways (600 and 900 GB/s), the network a DGX's card for each (HDR 200
Gb/s, NDR 400 Gb/s)."""


def chip(name: str) -> Chip:
  if name not in CHIPS:
    raise ValueError(f"--chip: no chip {name!r}; take one of {', '.join(CHIPS)}")
  return CHIPS[name]


def roofline(chip: Chip, flops: float, moved: float, near: float, far: float) -> dict[str, float]:
  """Seconds of a step's parts on each chip, and of the whole if all of it went on at the same time: the longest of them.

  flops: of one chip; moved: bytes between it and its memory; near, far: bytes that it sends inside its domain, and
  beyond.
  """
  parts = {"seconds_products": flops / chip.flops, "seconds_memory": moved / chip.bandwidth,
           "seconds_communication": near / chip.link + far / chip.network}
  return {**parts, "seconds_step": max(parts.values()), "seconds_step_in_turn": sum(parts.values())}
