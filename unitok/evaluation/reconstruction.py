"""How much of a picture its codes keep, and how many of the codes are used."""
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.ndimage import correlate1d

from unitok.config import Data, source_name
from unitok.evaluation.examples import Context, Figure, Item, Result, Section
from unitok.evaluation.frechet import Moments, distance
from unitok.evaluation.networks import Networks
from unitok.evaluation.statistics import figure, merge
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


def measure(passes: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], codebook_size: int,
            networks: Networks = Networks(), books: int = 1) -> dict[str, Any]:
  """What the codes of pictures keep, over batches of (pictures u8[n H W 3], their codes i32[n h w], or i32[n h w G] of
  `books`, what comes back).

  Means are over pictures, with their 95 % interval; rfid is the Fréchet inception distance between pictures and
  reconstructions, too large with few of them; usage and perplexity over all codes, codebook_counts of each, book after
  book; bits_per_pixel is log2 of the codebook times the codes a pixel, what a file without any further coding takes.
  ValueError without a picture.
  """
  found, counts, pixels, moments = {}, 0, 0, []
  for images, codes, back in passes:
    for name, of in (("psnr_db", psnr_db), ("ssim", ssim), ("lpips", networks.differences)):
      if of:
        found.setdefault(name, []).append(of(images, back))
    if networks.features:
      some = [Moments.of(networks.features(one)) for one in (images, back)]
      moments = [a + b for a, b in zip(moments, some)] if moments else some
    counts = counts + uses(codes, codebook_size, books)
    pixels += images[..., 0].size
  if not pixels:
    raise ValueError("evaluation: there is no picture to measure the image tokenizer on; name another source or split")
  used = usage(counts.astype(np.float32))
  rfid = {"rfid": distance(*moments), "rfid_n": moments[0].count} if moments else {}
  return {**merge(*(figure(name, np.concatenate(values)) for name, values in found.items())), **rfid,
          "bits_per_pixel": int(counts.sum()) * math.log2(codebook_size) / pixels,
          "codebook_usage": float(used["usage"]), "perplexity": float(used["perplexity"]),
          "codebook_size": codebook_size, "codebook_counts": counts.ravel().tolist()}


def figures_of(metrics: dict[str, Any]) -> list[Figure]:
  """The headlines of what `measure` gave under "image_tokenizer"."""
  size = len(metrics["codebook_counts"])
  of = [Figure("Reconstruction", "image_tokenizer.psnr_db", "dB",
               about="peak signal to noise ratio of pictures that come back from their codes"),
        Figure("Structural similarity", "image_tokenizer.ssim", "", about="SSIM of the same pictures"),
        Figure("LPIPS", "image_tokenizer.lpips", "", about="perceptual difference (VGG), less is better"),
        Figure("rFID", "image_tokenizer.rfid", "", about="Fréchet inception distance, less is better"),
        Figure("Codes in use", "image_tokenizer.codebook_usage", about=f"of {size}, on the same pictures")]
  return [one for one in of if one.key.removeprefix("image_tokenizer.") in metrics]


def preprocessing(data: Data) -> dict[str, str]:
  """How a picture file becomes what is measured, in words."""
  how = {"fit": "stretched to the square", "crop": "the shorter side scaled to it, the centre cut out",
         "pad": f"the longer side scaled to it, filled with RGB {data.background}"}[data.resize]
  how = "drawn at that size" if source_name(data) == "scenes" else \
      f"{how} (antialiased Lanczos), transparency over RGB {data.background}"
  return {"pictures": f"{data.image_size} x {data.image_size} pixels, RGB of 8 bits, {how}",
          "reconstructions": "rounded and cut to 8 bits",
          "psnr_db": "of each picture, over its three channels, peak 255; the mean over pictures, one that comes back "
                     f"exactly counts as {BEST_DB:g} dB",
          "ssim": "of each channel, Gaussian window of 11 pixels and 1.5, K1 0.01, K2 0.03; mean over windows and "
                  "channels"}


def evaluate_reconstruction(context: Context) -> Result:
  """What `measure` says of the validation pictures; the counts of each code for the report."""
  model, images = context.model, context.val.images
  codes = model.image.encode(images)
  back = model.image.decode(codes)
  metrics = measure([(images, codes, back)], model.image.codebook_size, context.networks, model.image.books)
  pairs = [Item([("original", image), ("from codes", other)], note=f"{db:.1f} dB")
           for image, other, db in zip(images, back, psnr_db(images[:context.show], back[:context.show]))]
  (height, width), books = codes.shape[1:3], model.image.books
  each = f"{books} codes at each of {height} × {width} places" if books > 1 else f"{height} × {width} codes"
  text = (f"Every picture becomes {each} out of {model.image.codebook_size}; this is what comes back "
          "from them. The first pictures of the validation split, not chosen.")
  return Result({"image_tokenizer": metrics}, figures_of(metrics),
                [Section("Through the codes and back", text, pairs, order=60)])
