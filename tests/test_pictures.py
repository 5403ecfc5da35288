"""Every kind of picture, made by Pillow (or byte by byte where it cannot), and every way one can be bad."""
import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from unitok import config
from unitok.data import pictures
from unitok.data.record import BadRecord

BACKGROUND = (10, 20, 30)


def encode(image, kind="PNG", **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def png_by_hand(width, height, depth, color_type, rows=b"", chunks=()):
  """A PNG whose header may lie; `rows` are unfiltered bytes, each row after a 0."""
  def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
  header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
  body = b"".join(chunk(*each) for each in chunks)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def palette(alpha=None):
  image = Image.new("P", (2, 1))
  image.putpalette([255, 0, 0, 0, 255, 0])
  image.putdata([0, 1])
  return encode(image, **({} if alpha is None else {"transparency": alpha}))


def cells(mode, *values):
  image = Image.new(mode, (len(values), 1))
  image.putdata(values)
  return image


def deep(*values):
  return Image.fromarray(np.array([values], np.uint16))


KINDS = {
    "rgb": (encode(cells("RGB", (1, 2, 3), (4, 5, 6))), [(1, 2, 3), (4, 5, 6)]),
    "one bit": (encode(cells("1", 0, 255)), [(0, 0, 0), (255, 255, 255)]),
    "grey": (encode(cells("L", 7, 200)), [(7, 7, 7), (200, 200, 200)]),
    "grey with a clear value": (encode(cells("L", 7, 200), transparency=7), [BACKGROUND, (200, 200, 200)]),
    "grey and alpha": (encode(cells("LA", (100, 255), (100, 0))), [(100, 100, 100), BACKGROUND]),
    "palette": (palette(), [(255, 0, 0), (0, 255, 0)]),
    "palette with a clear entry": (palette(0), [BACKGROUND, (0, 255, 0)]),
    "palette with alpha": (palette(bytes([255, 0])), [(255, 0, 0), BACKGROUND]),
    "alpha": (encode(cells("RGBA", (255, 255, 255, 255), (9, 9, 9, 0))), [(255, 255, 255), BACKGROUND]),
    "half alpha": (encode(cells("RGBA", (110, 120, 130, 128))), [(60, 70, 80)]),
    "16 bit grey": (encode(deep(0, 257 * 100, 65535)), [(0,) * 3, (100,) * 3, (255,) * 3]),
    "16 bit grey, dark": (encode(deep(0, 257 * 3)), [(0,) * 3, (3,) * 3]),
    "16 bit grey, a clear value": (png_by_hand(2, 1, 16, 0, b"\0" + struct.pack(">HH", 5, 257 * 9),
                                               [(b"tRNS", struct.pack(">H", 5))]), [BACKGROUND, (9,) * 3]),
    "16 bit TIFF": (encode(deep(0, 257 * 100, 65535), "TIFF"), [(0,) * 3, (100,) * 3, (255,) * 3]),
    "16 bit RGB": (png_by_hand(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 257 * 9, 257 * 99, 65535)), [(9, 99, 255)]),
    "16 bit PGM": (b"P5 2 1 65535\n" + struct.pack(">HH", 257 * 50, 65535), [(50,) * 3, (255,) * 3]),
    "32 bit in 16": (encode(Image.fromarray(np.array([[0, 65535]], np.int32)), "TIFF"), [(0,) * 3, (255,) * 3]),
    "32 bit, wide": (encode(Image.fromarray(np.array([[-1000, 0, 1000000]], np.int32)), "TIFF"),
                     [(0,) * 3, (0,) * 3, (255,) * 3]),
    "float 0..1": (encode(Image.fromarray(np.array([[0, .2, 1]], np.float32)), "TIFF"), [(0,) * 3, (51,) * 3, (255,) * 3]),
    "float 0..255": (encode(Image.fromarray(np.array([[0, 51, 200]], np.float32)), "TIFF"),
                     [(0,) * 3, (51,) * 3, (200,) * 3]),
    "CMYK": (encode(cells("CMYK", (0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)), "TIFF"),
             [(255, 255, 255), (0, 255, 255), (0, 0, 0)]),
    "animated": (encode(Image.new("RGB", (1, 1), (255, 0, 0)), "GIF", save_all=True,
                        append_images=[Image.new("RGB", (1, 1), (0, 0, 255))]), [(255, 0, 0)]),
    "lossless WebP": (encode(cells("RGBA", (1, 2, 3, 255), (1, 2, 3, 0)), "WEBP", lossless=True, exact=True),
                      [(1, 2, 3), BACKGROUND]),
    "BMP": (encode(cells("RGB", (1, 2, 3)), "BMP"), [(1, 2, 3)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_rgb(kind, tmp_path):
  content, expected = KINDS[kind]
  file = tmp_path / "picture"
  file.write_bytes(content)
  image = pictures.load(file, "picture", BACKGROUND)
  assert image.dtype == np.uint8 and image.flags.writeable
  np.testing.assert_array_equal(image, [expected])
  np.testing.assert_array_equal(image, pictures.load(content, "picture", BACKGROUND))


def test_cmyk_jpeg():
  image = pictures.load(encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"))
  assert np.abs(image.astype(int) - (0, 255, 255)).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns(orientation, kind):
  """A file stored turned comes back as the upright picture: red left half, green top right, blue bottom right."""
  upright = np.zeros((32, 48, 3), np.uint8)
  upright[:, :24, 0], upright[:16, 24:, 1], upright[16:, 24:, 2] = 255, 255, 255
  stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
            6: np.rot90(upright, 1), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1)}[orientation]
  exif = Image.Exif()
  exif[0x0112] = orientation
  options = {"JPEG": dict(quality=100, subsampling=0), "WEBP": dict(lossless=True)}.get(kind, {})
  image = pictures.load(encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options))
  assert image.shape == upright.shape
  assert np.abs(image.astype(int) - upright).mean() < 2


def noise(side=64):
  return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated(kind, share, tmp_path):
  content = encode(noise(), kind)
  file = tmp_path / "cut"
  file.write_bytes(content[:int(len(content) * share)])
  with pytest.raises(BadRecord, match="^images/cut: is (truncated or broken|not a picture)") as error:
    pictures.load(file, "images/cut")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("content, problem", [
    (b"", "is empty (zero bytes)"),
    (b"<html>404</html>", "is not a picture"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
    (encode(noise())[:20], "is not a picture"),
    (png_by_hand(40_000, 40_000, 8, 2), "is too large to decode safely"),
    (png_by_hand(10_000, 10_000, 8, 2), "is too large to decode safely (10000 x 10000 pixels"),
    (png_by_hand(8_192, 8_193, 8, 2), "is too large to decode safely (8192 x 8193 pixels"),
    (png_by_hand(8_192, 8_192, 8, 2), "is truncated or broken"),
])
def test_bad_content(content, problem, tmp_path):
  file = tmp_path / "bad.png"
  file.write_bytes(content)
  for given in (file, content):
    if given == b"":
      assert "zero bytes" in str(pytest.raises(BadRecord, pictures.load, given, "x").value)
      continue
    with pytest.raises(BadRecord) as error:
      pictures.load(given, "sub/bad.png")
    assert error.value.where == "sub/bad.png" and problem in error.value.problem and error.value.remedy


def test_what_is_no_file(tmp_path):
  os.mkfifo(tmp_path / "pipe.png")
  for name, problem in (("none.png", "no such file"), (".", "is not a file"), ("pipe.png", "is not a file"),
                        ("nul\0.png", "cannot be read"), ("long" * 100, "cannot be read")):
    with pytest.raises(BadRecord, match=problem):
      pictures.load(os.path.join(tmp_path, name))


def test_unreadable(tmp_path, monkeypatch):
  (tmp_path / "a.png").write_bytes(KINDS["rgb"][0])

  def refuse(*_):   # root could read it in spite of its mode
    raise PermissionError(13, "Permission denied")
  monkeypatch.setattr("builtins.open", refuse)
  with pytest.raises(BadRecord, match="a.png: cannot be read .Permission denied.; make the file readable"):
    pictures.load(tmp_path / "a.png")


def bands(height, width):
  """Left third red, middle green, right blue."""
  image = np.zeros((height, width, 3), np.uint8)
  for i in range(3):
    image[:, width * i // 3:width * (i + 1) // 3, i] = 255
  return image


def test_fit_stretches():
  np.testing.assert_allclose(pictures.resize(bands(4, 48), 12, "fit")[0, [1, 6, 10]], np.eye(3) * 255, atol=2)


def test_crop_cuts_the_centre():
  assert (pictures.resize(bands(16, 48), 16, "crop") == (0, 255, 0)).all()
  assert (pictures.resize(bands(48, 16).swapaxes(0, 1), 8, "crop").shape) == (8, 8, 3)


def test_pad_fills():
  out = pictures.resize(np.full((12, 48, 3), 255, np.uint8), 24, "pad", BACKGROUND)
  assert (out[9:15] == 255).all() and (out[:9] == BACKGROUND).all() and (out[15:] == BACKGROUND).all()
  tall = pictures.resize(np.full((900, 1, 3), 255, np.uint8), 9, "pad", BACKGROUND)
  assert tall.shape == (9, 9, 3) and (tall[:, 4] == 255).all() and (tall[:, :4] == BACKGROUND).all()


def test_sizes_that_are_no_squares():
  """crop and pad keep the aspect ratio: of three bands side by side (1:3) in 2:1, the middle, or all and two fillings."""
  assert (pictures.resize(bands(16, 48), (16, 8), "crop") == (0, 255, 0)).all()
  padded = pictures.resize(bands(16, 48), (24, 12), "pad", BACKGROUND)
  assert (padded[:10] == BACKGROUND).all() and (padded[14:] == BACKGROUND).all()
  np.testing.assert_allclose(padded[11:13, [1, 6, 10]], np.eye(3)[None].repeat(2, 0) * 255, atol=40)
  assert pictures.resize(bands(16, 48), (5, 30), "fit").shape == (5, 30, 3)


def test_a_part_of_a_picture():
  """From inside the right third; and a part beyond the picture has the background there."""
  assert (pictures.resize(bands(16, 48), 4, "fit", part=(38.0, 0.0, 8.0, 8.0)) == (0, 0, 255)).all()
  out = pictures.resize(bands(16, 48), 8, "fit", BACKGROUND, part=(40.0, 0.0, 16.0, 16.0))
  assert (out[:, :4] == (0, 0, 255)).all() and (out[:, 4:] == BACKGROUND).all()


def test_moved_stays_near():
  parts = np.array([pictures.moved((0.0, 0.0, 100.0, 50.0), np.random.default_rng(n)) for n in range(200)])
  assert len(np.unique(parts, axis=0)) == 200
  centre = parts[:, :2] + parts[:, 2:] / 2 - (50, 25)
  assert (abs(centre) <= (6.001, 3.001)).all() and (abs(np.log(parts[:, 2:] / (100, 50))) <= 0.19).all()
  assert abs(centre.mean(0)).max() < 1 and abs(np.log(parts[:, 2:] / (100, 50)).mean()) < 0.02


def test_a_picture_takes_the_size_nearest_to_its_own():
  data = config.ImageFolder(sizes=((32, 32), (24, 48), (48, 24)))
  for shape, size in (((100, 110), (32, 32)), ((100, 180), (24, 48)), ((300, 100), (48, 24)), ((10, 14), (32, 32))):
    assert pictures.size_for(shape, data) == size
  assert pictures.size_for((3, 9), config.ImageFolder(image_size=20)) == (20, 20)


def test_resizing_is_antialiased():
  """A fine checkerboard becomes its mean, not one of its colours."""
  board = np.indices((64, 64)).sum(0)[..., None] % 2 * np.full(3, 255)
  assert np.abs(pictures.resize(board.astype(np.uint8), 8, "fit").astype(int) - 127).max() <= 3


@pytest.mark.parametrize("policy", ["fit", "crop", "pad"])
def test_the_right_size_stays_as_it_is(policy):
  image = np.asarray(noise(32))
  np.testing.assert_array_equal(pictures.resize(image, 32, policy), image)


def test_an_unknown_policy_is_named():
  with pytest.raises(ValueError, match="data.resize is 'stretch', must be fit, crop or pad"):
    pictures.resize(bands(3, 3), 2, "stretch")


def test_sources_start_without_jax():
  code = "import sys, unitok.data.sources; sys.exit(bool({'jax', 'tensorflow_datasets', 'tensorflow'} & set(sys.modules)))"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
