"""Trained networks that measure pictures, as functions of arrays, where the user names their weights."""
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from unitok.models.autoencoder import to_pm1
from unitok.models.inception import SIDE
from unitok.models.inception import features as inception_features
from unitok.models.lpips import LEAST_SIDE, lpips
from unitok.run import at_once, in_batches


class Networks(NamedTuple):
  """None where no weights are named."""
  differences: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None   # u8[n H W 3], the same -> f32[n], LPIPS
  features: Callable[[np.ndarray], np.ndarray] | None = None                  # u8[n H W 3] -> f32[n 2048], Inception's


@jax.jit
def _lpips(weights, pairs):
  return lpips(weights, to_pm1(pairs[:, 0]), to_pm1(pairs[:, 1]), "highest")


def differences(weights) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """LPIPS of pairs of pictures, in float32. ValueError where they are too small for the network."""
  def of(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    height, width = images.shape[1:3]
    if min(height, width) < LEAST_SIDE:
      raise ValueError(f"evaluation.lpips: pictures of {height} x {width} pixels are too small for LPIPS; take "
                       f"{LEAST_SIDE} a side or more (data.image_size), or leave it out")
    return in_batches(lambda pairs: _lpips(weights, pairs), np.stack([images, others], 1), at_once(height * width))
  return of


@jax.jit
def _inception(weights, images):
  return inception_features(weights, images, "highest")


def features(weights) -> Callable[[np.ndarray], np.ndarray]:
  """What the Fréchet inception distance is taken of, in float32."""
  return lambda images: in_batches(lambda some: _inception(weights, some), images, at_once(SIDE**2))
