"""Boxes <-> location codes: each side of a box is one of 1,024 bins over the picture (PaliGemma, 2407.07726)."""
import numpy as np

BINS = 1024


class LocationModality:
  """`encode` keeps a box to half a bin, 1/2048 of the picture."""

  size = BINS
  fingerprint = f"location-{BINS}"

  def encode(self, boxes) -> np.ndarray:
    """f32[… 4] x0 y0 x1 y1, shares of the sides in 0 .. 1 -> i32[… 4] codes y0 x0 y1 x1.

    (0.25, 0, 0.5, 1) -> [0, 256, 1023, 512]. ValueError for a box that is none or leaves the picture.
    """
    boxes = np.asarray(boxes, np.float64)
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
    bad = ~((0 <= x0) & (x0 < x1) & (x1 <= 1) & (0 <= y0) & (y0 < y1) & (y1 <= 1))   # nan is bad, too
    if bad.any():
      first = boxes.reshape(-1, 4)[np.flatnonzero(bad.ravel())[0]]
      raise ValueError(f"box {first.tolist()}: must be x0 < x1 and y0 < y1, shares of the picture in 0 .. 1")
    return np.minimum(np.floor(np.stack([y0, x0, y1, x1], -1) * BINS), BINS - 1).astype(np.int32)

  def decode(self, codes) -> np.ndarray:
    """i32[… 4] codes y0 x0 y1 x1 -> f32[… 4] x0 y0 x1 y1, the middles of the bins. ValueError for a foreign code."""
    codes = np.asarray(codes, np.int32)
    bad = codes[(codes < 0) | (codes >= BINS)]
    if bad.size:
      raise ValueError(f"location: code {bad[0]} is not in 0 .. {BINS - 1}")
    y0, x0, y1, x1 = np.moveaxis((codes + 0.5) / BINS, -1, 0)
    return np.stack([x0, y0, x1, y1], -1).astype(np.float32)


def vectors(waves: int = 64) -> np.ndarray:
  """f32[BINS waves]: what the bins are told apart by; near bins are near. Cosines over the picture, slow ones larger."""
  wave = np.arange(waves)
  middles = (np.arange(BINS) + 0.5) / BINS
  return (np.cos(np.pi * np.outer(middles, wave)) / (1 + wave / 8)).astype(np.float32)


def overlap(one, other) -> np.ndarray:
  """Intersection over union of boxes [… 4] x0 y0 x1 y1."""
  one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
  area = lambda box: np.clip(box[..., 2] - box[..., 0], 0, None) * np.clip(box[..., 3] - box[..., 1], 0, None)
  shared = area(np.concatenate([np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])], -1))
  return shared / np.maximum(area(one) + area(other) - shared, 1e-12)
