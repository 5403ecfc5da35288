"""How much of a picture its codes keep, and how many of the codes are used."""
import math

import numpy as np
from scipy.ndimage import correlate1d

from unitok.evaluation.examples import Context, Figure, Item, Result, Section
from unitok.evaluation.statistics import figure
from unitok.metrics import usage, uses

BEST_DB = 100.0
"""PSNR of a picture that comes back exactly, where the ratio would be infinite."""


def psnr_db(images: np.ndarray, others: np.ndarray) -> np.ndarray:
  """f64[n]: peak signal to noise ratio of each pair u8[n H W 3], dB, at most BEST_DB."""
  error = ((images.astype(np.float64) - others) ** 2).mean((1, 2, 3))
  return 10 * np.log10(255**2 / np.maximum(error, 255**2 / 10 ** (BEST_DB / 10)))


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
  """f64[n]: structural similarity of each pair u8[n H W 3] (Wang 2004), at most 1: windows of 11 pixels weighted by a
  Gaussian of 1.5, K1 0.01, K2 0.03, the mean over all windows that lie inside and the three channels. Smaller pictures
  take the largest odd window that fits."""
  side = min(11, *images.shape[1:3])
  reach = (side - 1) // 2
  window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 1.5) ** 2)
  window /= window.sum()

  def blurred(x):
    for axis in (1, 2):
      x = correlate1d(x, window, axis)
    return x[:, reach:x.shape[1] - reach, reach:x.shape[2] - reach]

  found = []
  for a, b in zip(images, others):        # one at a time: five float64 pictures of it
    a, b = a[None].astype(np.float64), b[None].astype(np.float64)
    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b, both = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2, blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found.append((((2 * mean_a * mean_b + c1) * (2 * both + c2))
                  / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())
  return np.array(found)


def evaluate_reconstruction(context: Context) -> Result:
  """PSNR, SSIM, usage and perplexity on the validation pictures; the counts of each code for the report, book after
  book."""
  model, images = context.model, context.val.images
  codes = model.image.encode(images)
  back = model.image.decode(codes)
  quality = psnr_db(images, back)
  counts = uses(codes, model.image.codebook_size, model.image.books)
  used = usage(counts.astype(np.float32))
  pixels = images.shape[1] * images.shape[2]
  metrics = {"image_tokenizer": {**figure("psnr_db", quality), **figure("ssim", ssim(images, back)),
                                 "bits_per_pixel": codes[0].size * math.log2(counts.shape[-1]) / pixels,
                                 "codebook_usage": float(used["usage"]), "perplexity": float(used["perplexity"]),
                                 "codebook_size": counts.shape[-1],
                                 "codebook_counts": counts.ravel().tolist()}}
  figures = [Figure("Reconstruction", "image_tokenizer.psnr_db", "dB",
                    about="peak signal to noise ratio of pictures that come back from their codes"),
             Figure("Structural similarity", "image_tokenizer.ssim", "", about="SSIM of the same pictures"),
             Figure("Codes in use", "image_tokenizer.codebook_usage", about=f"of {counts.size}, on the same pictures")]
  pairs = [Item([("original", image), ("from codes", other)], note=f"{db:.1f} dB")
           for image, other, db in zip(images, back, quality[:context.show])]
  (height, width), books = codes.shape[1:3], model.image.books
  each = f"{books} codes at each of {height} × {width} places" if books > 1 else f"{height} × {width} codes"
  text = (f"Every picture becomes {each} out of {counts.shape[-1]}; this is what comes back from them. "
          "The first pictures of the validation split, not chosen.")
  return Result(metrics, figures, [Section("Through the codes and back", text, pairs, order=60)])
