"""How much of a picture its codes keep, and how many of the codes are used."""
import numpy as np

from unitok.evaluation.examples import Context, Figure, Item, Result, Section
from unitok.evaluation.statistics import figure
from unitok.metrics import usage

BEST_DB = 100.0
"""PSNR of a picture that comes back exactly, where the ratio would be infinite."""


def psnr_db(images: np.ndarray, others: np.ndarray) -> np.ndarray:
  """f64[n]: peak signal to noise ratio of each pair u8[n H W 3], dB, at most BEST_DB."""
  error = ((images.astype(np.float64) - others) ** 2).mean((1, 2, 3))
  return 10 * np.log10(255**2 / np.maximum(error, 255**2 / 10 ** (BEST_DB / 10)))


def evaluate_reconstruction(context: Context) -> Result:
  """PSNR, usage and perplexity on the validation pictures; the counts of each code for the report."""
  model, images = context.model, context.val.images
  codes = model.image.encode(images)
  back = model.image.decode(codes)
  quality = psnr_db(images, back)
  counts = np.bincount(codes.ravel(), minlength=model.image.codebook_size)
  used = usage(counts.astype(np.float32))
  metrics = {"image_tokenizer": {**figure("psnr_db", quality), "codebook_usage": float(used["usage"]),
                                 "perplexity": float(used["perplexity"]), "codebook_size": int(counts.size),
                                 "codebook_counts": counts.tolist()}}
  figures = [Figure("Reconstruction", "image_tokenizer.psnr_db", "dB",
                    about="peak signal to noise ratio of pictures that come back from their codes"),
             Figure("Codes in use", "image_tokenizer.codebook_usage", about=f"of {counts.size}, on the same pictures")]
  pairs = [Item([("original", image), ("from codes", other)], note=f"{db:.1f} dB")
           for image, other, db in zip(images, back, quality[:context.show])]
  height, width = codes.shape[1:]
  text = (f"Every picture becomes {height} × {width} codes out of {counts.size}; this is what comes back from them. "
          "The first pictures of the validation split, not chosen.")
  return Result(metrics, figures, [Section("Through the codes and back", text, pairs, order=60)])
