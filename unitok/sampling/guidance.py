"""Guidance: the logits of a document beside those of the same without its condition."""
from dataclasses import dataclass

import jax.numpy as jnp

from unitok.config import Sampling
from unitok.sampling.settings import differs


def guide(conditional, unconditional, scale):
  """u + s (c - u) (Ho & Salimans 2022, 2207.12598); scale 1, also of single places, is exactly the conditional."""
  if not differs(scale, 1.0):
    return conditional
  guided = unconditional + scale * (conditional - unconditional)
  return jnp.where(scale == 1, conditional, guided) if jnp.ndim(scale) else guided


@dataclass(frozen=True)
class Guidance:
  """Two-way: by the text; three-way: text and picture apart, u + image_scale (i - u) + scale (c - i) with i the document
  without its text and u without text and picture (Chameleon, 2405.09818; Brooks 2022, 2211.09800, eq. 3).

  Both scales are 1 outside the interval (Kynkäänniemi 2024, 2404.07724), and grow from 1 as SCHEDULES says.
  """
  scale: float = 1.0
  image_scale: float = 1.0
  schedule: str = "constant"
  interval: tuple[float, float] = (0.0, 1.0)

  @property
  def documents(self) -> int:
    """How many stand behind each other for one that is drawn."""
    return 3 if differs(self.image_scale, 1) else 2 if differs(self.scale, 1) else 1

  def __call__(self, logits, done):
    """f32[documents * b w v] -> f32[b w v]; done f32[b w]: the share of the document's draws that came before."""
    given, *less = jnp.split(logits, self.documents)
    if not less:
      return given
    out = guide(given, less[0], self._now(self.scale, done))
    return out if len(less) == 1 else out + (self._now(self.image_scale, done) - 1) * (less[0] - less[1])

  def _now(self, scale: float, done):
    if not differs(scale, 1) or self.schedule == "constant" and not differs(self.interval, (0, 1)):
      return scale
    first, end = self.interval
    now = 1 + (scale - 1) * SCHEDULES[self.schedule](done)
    return jnp.where((first <= done) & (done < end), now, 1.0)[..., None]


SCHEDULES = {"constant": jnp.ones_like, "linear": lambda done: done,
             "cosine": lambda done: (1 - jnp.cos(jnp.pi * done)) / 2}
"""Share of the draws that came before -> share of the way from scale 1 (linear: Muse, 2301.00704)."""


def guidance_of(sampling: Sampling) -> Guidance:
  return Guidance(sampling.guidance_scale, sampling.image_guidance_scale, sampling.guidance_schedule,
                  sampling.guidance_interval)
