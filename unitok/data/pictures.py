"""Any picture file -> u8[h w 3] RGB -> the square, or other size, that the tokenizer sees.

numpy and Pillow only: data workers start fast. Colour profiles are not applied.
"""
import functools
import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from unitok.data.record import BadRecord

MAX_PIXELS = 1 << 26
"""64 MiPixel (8192 x 8192): read from the header, so a decompression bomb is never decoded."""

SAFE_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF",
                "QOI", "PCX", "SGI", "DDS")
"""What is read. Pillow would also hand EPS to an external program; such formats stay out."""

SUFFIXES = frozenset((
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .tga .ico .jp2 .j2k "
    ".avif .avifs .qoi .pcx .sgi .dds").split())
"""Names that count as pictures where a folder is searched."""

TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
"""EXIF orientation -> what brings the picture upright."""

REPLACE = "replace the file, or leave it out with data.on_bad=skip"


def load(file: str | os.PathLike | bytes, where: str = "",
         background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
  """The first frame of a picture file (path or content), upright -> u8[h w 3] RGB.

  Grey, palette and CMYK become RGB; alpha is laid over `background` (RGB 0..255); 16 bit is scaled, not clipped.
  BadRecord(where …), `where` being the path unless given: missing, unreadable, empty, not a picture, truncated,
  more than MAX_PIXELS.
  """
  if isinstance(file, (bytes, bytearray, memoryview)):
    where, content = where or "picture", bytes(file)
    if not content:
      raise BadRecord(where, "is empty (zero bytes)", REPLACE)
    return _read(io.BytesIO(content), where, background)
  where = where or os.fspath(file)
  try:
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
      raise BadRecord(where, "is not a file", "give a picture file")
    if not status.st_size:
      raise BadRecord(where, "is empty (zero bytes)", REPLACE)
    handle = open(file, "rb")
  except FileNotFoundError:
    raise BadRecord(where, "no such file", "restore the picture, or leave it out with data.on_bad=skip") from None
  except (OSError, ValueError) as error:
    raise BadRecord(where, f"cannot be read ({_words(error)})", "make the file readable") from None
  with handle:
    return _read(handle, where, background)


Frame = tuple[float, float, float, float]
"""A rectangle in a picture's pixels: left, top, width, height. It may reach beyond the picture."""


def resize(image: np.ndarray, size: int | tuple[int, int], policy: str,
           background: tuple[int, int, int] = (255, 255, 255), part: Frame | None = None) -> np.ndarray:
  """u8[h w 3] -> u8[H W 3] of size (H, W), or of a square's side, antialiased (Lanczos).

  fit stretches; crop scales until the size is covered and cuts the centre; pad scales until all is inside and fills
  with `background`. `part` is what is shown instead of what the policy shows. A picture of the right size comes back as
  it is.
  """
  size = (size, size) if isinstance(size, int) else tuple(size)
  (high, wide), (height, width) = size, image.shape[:2]
  left, top, across, down = part or frame((height, width), size, policy)
  if (height, width) == size and (left, top, across, down) == (0, 0, width, height):
    return image
  box = max(left, 0.0), max(top, 0.0), min(left + across, width), min(top + down, height)
  columns, rows = ([round((box[axis + n] - start) / length * pixels) for n in (0, 2)]
                   for axis, start, length, pixels in ((0, left, across, wide), (1, top, down, high)))
  columns[1], rows[1] = max(columns[1], columns[0] + 1), max(rows[1], rows[0] + 1)
  inner = columns[1] - columns[0], rows[1] - rows[0]
  out = np.array(Image.fromarray(image).resize(inner, Image.Resampling.LANCZOS, box=box))
  if inner == (wide, high):
    return out
  canvas = np.empty((high, wide, 3), np.uint8)
  canvas[:] = background
  canvas[rows[0]:rows[1], columns[0]:columns[1]] = out
  return canvas


def frame(shape: tuple[int, int], size: tuple[int, int], policy: str) -> Frame:
  """The part of a picture [h w] that `resize` puts into (H, W); for pad it reaches beyond the picture."""
  if policy not in ("fit", "crop", "pad"):
    raise ValueError(f"data.resize is {policy!r}, must be fit, crop or pad")
  (height, width), (high, wide) = shape, size
  if policy == "fit":
    return 0.0, 0.0, width, height
  choose = min if policy == "crop" else max
  across, down = choose(width, height * wide / high), choose(height, width * high / wide)
  return (width - across) / 2, (height - down) / 2, across, down


def moved(part: Frame, rng: np.random.Generator) -> Frame:
  """The part up to 15 % larger or smaller, each side by itself up to 4 %, and up to 6 % to the side."""
  left, top, across, down = part
  scale, stretch = np.exp(rng.uniform(-0.15, 0.15)), np.exp(rng.uniform(-0.04, 0.04))
  wide, high = across * scale * stretch, down * scale / stretch
  dx, dy = rng.uniform(-0.06, 0.06, 2)
  return left + (across - wide) / 2 + dx * across, top + (down - high) / 2 + dy * down, wide, high


def size_for(shape: tuple[int, int], data) -> tuple[int, int]:
  """(H, W) of a config.Data for a picture [h w]: the one of `sizes` nearest to its aspect ratio, or the square."""
  if not data.sizes:
    return data.image_size, data.image_size
  ratio = np.log(shape[0] / shape[1])
  return tuple(min(data.sizes, key=lambda size: abs(np.log(size[0] / size[1]) - ratio)))


def sized(image: np.ndarray, data) -> np.ndarray:
  """u8[h w 3] -> u8[H W 3] as a config.Data says."""
  return resize(image, size_for(image.shape[:2], data), data.resize, data.background)


def square(file: str | os.PathLike | bytes, where: str, data) -> np.ndarray:
  """`load`, then `resize` as a config.Data says -> u8[image_size image_size 3]."""
  return resize(load(file, where, data.background), data.image_size, data.resize, data.background)


def is_picture(name: str) -> bool:
  return Path(name).suffix.lower() in SUFFIXES


def _read(handle, where: str, background) -> np.ndarray:
  try:
    image = Image.open(handle, formats=_formats())
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise _bomb(where, _words(error)) from None
  except Exception:  # a decoder may raise anything on a broken header
    remedy = f"{REPLACE}; PNG, JPEG, WebP, GIF, BMP, TIFF and some others are"
    raise BadRecord(where, "is not a picture that can be read", remedy) from None
  with image:
    if image.width * image.height > MAX_PIXELS:
      raise _bomb(where, f"{image.width} x {image.height} pixels")
    try:
      image.load()
    except Exception as error:  # or on broken data
      raise BadRecord(where, f"is truncated or broken ({_words(error)})", REPLACE) from None
    try:
      rgb = _to_rgb(_upright(image), background)
    except (ValueError, OSError, KeyError) as error:
      raise BadRecord(where, f"its colours ({image.mode}) cannot be turned into RGB ({_words(error)})",
                      "save it as RGB") from None
  return np.array(rgb)


def _bomb(where: str, size: str) -> BadRecord:
  return BadRecord(where, f"is too large to decode safely ({size}, at most {MAX_PIXELS})", "scale it down")


def _upright(image: Image.Image) -> Image.Image:
  try:
    turn = TURNS.get(image.getexif().get(0x0112))
  except Exception:  # broken EXIF does not spoil the pixels
    turn = None
  return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, background) -> Image.Image:
  """Any mode -> RGB. The transparent colour of a palette, grey or RGB file (tRNS) counts as alpha."""
  if image.mode.startswith("I") or image.mode == "F":
    image = _to_8_bit(image)
  if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
  return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
  """Deep grey (16 bit, 32 bit, float) -> L, or LA where one value is transparent.

  The range is the file's: 0..65535 for 16 bit and whatever fits it; floats in 0..1 or 0..255; else minimum..maximum.
  """
  values = np.nan_to_num(np.asarray(image).astype(np.float64))
  low, high = float(values.min()), float(values.max())
  tops = (1.0, 255.0) if image.mode == "F" else (65535.0,)
  fitting = [top for top in tops if low >= 0 and high <= top]
  low, high = (0.0, fitting[0]) if fitting else (low, high)
  grey = Image.fromarray(np.round((values - low) * (255 / max(high - low, 1e-30))).astype(np.uint8))
  if isinstance(clear := image.info.get("transparency"), int):
    grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
  return grey


@functools.cache
def _formats() -> tuple[str, ...]:
  """Those of SAFE_FORMATS that this Pillow was built with."""
  Image.init()
  # Pillow only warns about 89 to 179 MPixel; `_read` refuses them, so the warning would be a second line.
  warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
  return tuple(name for name in SAFE_FORMATS if name in Image.OPEN)


def _words(error: Exception) -> str:
  """The error in one line, without its path (the record's place names that)."""
  text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
  return " ".join(text.split()) or type(error).__name__
