"""Models for the evaluation's tests: a small one with random weights, and one that knows the truth of scenes."""
import dataclasses
import functools

import jax
import numpy as np

from unitok import config as c
from unitok.data.pipeline import task_names
from unitok.data.record import Object
from unitok.data.scenes import BACKGROUNDS, COLOURS, PLACES, Scene, Thing, box_of, caption, draw, place_centre
from unitok.evaluation.scenes import background_of, read_caption, read_pictures
from unitok.modalities import text as texts
from unitok.modalities.image import ImageModality
from unitok.modalities.location import LocationModality
from unitok.model import Model
from unitok.objectives import needed
from unitok.sampling.sampler import Sampler
from unitok.steps import Language
from unitok.vocab import make_vocabulary

PALETTE = np.array([*BACKGROUNDS.values(), *COLOURS.values()], np.float32)


def flat_tokenizer(side: int, code: int) -> ImageModality:
  """A code is the palette colour nearest to the mean of its pixels."""
  def encode(pixels):
    b, h, w, _ = pixels.shape
    mean = np.asarray(pixels, np.float32).reshape(b, h // code, code, w // code, code, 3).mean((2, 4))
    return ((mean[..., None, :] - PALETTE) ** 2).sum(-1).argmin(-1)

  def decode(codes):
    return PALETTE[np.asarray(codes)].astype(np.uint8).repeat(code, 1).repeat(code, 2)
  return ImageModality(encode, decode, (side // code, side // code), code, len(PALETTE), "flat")


def small_model(config: c.Config, folder, captions: list[str], code: int = 6) -> Model:
  """Random weights, a text tokenizer trained on `captions`, the flat image tokenizer."""
  text = texts.train(captions, folder, config.text)
  image = flat_tokenizer(config.data.image_size, code)
  location = {"location": LocationModality.size} if "objects" in needed(config.decoder.tasks) else {}
  vocabulary = make_vocabulary({"text": text.size, "image": image.size, **location},
                               {"text": text.fingerprint, "image": image.fingerprint})
  language = Language(config.decoder, vocabulary.size, tuple(task_names(config.decoder, vocabulary)))
  return Model(config, vocabulary, text, image, Sampler(language, jax.jit(language.init)(jax.random.key(0)), vocabulary))


@dataclasses.dataclass(frozen=True)
class Oracle(Model):
  """Draws what is asked, says what it sees, and leaves holes as they were; `wrong` of ten cases come out empty."""
  wrong: int = 0

  def _spoil(self, images):
    out = np.array(images)
    out[np.arange(len(out)) % 10 < self.wrong] = BACKGROUNDS["grey"]
    return out

  def generate(self, prompts, sampling=None, seed=0, batch_size=256):
    return self._spoil([_drawn(text, self.config.data.image_size) for text in prompts])

  def caption(self, images, sampling=None, seed=0, limit=64, batch_size=256):
    rng = np.random.default_rng(seed)
    found = zip(read_pictures(images), background_of(images))
    said = [caption(Scene(tuple(things), background, ()), rng) if things else "" for things, background in found]
    return ["a small red" if n % 10 < self.wrong else text for n, text in enumerate(said)]

  def infill(self, images, masks, prompts=None, sampling=None, seed=0, keep_original=False, batch_size=256):
    return self._spoil(images)

  def reconstruct(self, images):
    return images

  def answer(self, images, questions, sampling=None, seed=0, limit=64, batch_size=256):
    """Reads what colour is where, and says yes to all the rest."""
    out = []
    for n, (things, question) in enumerate(zip(read_pictures(images), questions)):
      place = question.partition(" the thing at the ")[2].rstrip("?")
      colour = [t.colour for t in things if t.place == place]
      out.append("" if n % 10 < self.wrong else colour[0] if question.startswith("what colour") and colour else "yes")
    return out

  def locate(self, images, names, sampling=None, seed=0, batch_size=256):
    boxes = []
    for n, (things, name) in enumerate(zip(read_pictures(images), names)):
      thing = next(t for t in things if f"{t.size} {t.colour} {t.shape}" == name)
      boxes.append((0, 0, 0.01, 0.01) if n % 10 < self.wrong else box_of(thing, place_centre(thing.place)))
    return np.array(boxes)

  def detect(self, images, sampling=None, seed=0, limit=16, name_limit=8, batch_size=256):
    """Nothing where it errs."""
    seen = [[Object(f"{t.size} {t.colour} {t.shape}", box_of(t, place_centre(t.place))) for t in things]
            for things in read_pictures(images)]
    return [[] if n % 10 < self.wrong else objects for n, objects in enumerate(seen)]

  def arrange(self, layouts, sampling=None, seed=0, batch_size=256, size=None):
    scenes = []
    for objects in layouts:
      things = []
      for name, (x0, y0, x1, y1) in objects:
        column, row = (min(int(3 * (low + high) / 2), 2) for low, high in ((x0, x1), (y0, y1)))
        things.append(Thing(*name.split(), PLACES[3 * row + column]))
      scenes.append(Scene(tuple(things), "grey", tuple(place_centre(t.place) for t in things)))
    return self._spoil([draw(scene, self.config.data.image_size) for scene in scenes])

  def go_on(self, documents, draw=None, sampling=None, seed=0, limit=64, batch_size=256):
    """The picture as it was: right where nothing but the background was to change."""
    return self._spoil([pieces[1] for pieces in documents])


@functools.cache
def _drawn(text: str, side: int) -> np.ndarray:
  things = tuple(read_caption(text) or ())
  background = next((word for word in text.replace(",", "").split() if word in BACKGROUNDS), "grey")
  return draw(Scene(things, background, tuple(place_centre(t.place) for t in things)), side)
