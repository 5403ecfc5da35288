"""A run's folder opened for drawing: pictures from prompts, captions, fillings, continuations.

    model = Model.open("runs/demo")
    pictures = model.generate(["a small red circle at the top left"], seed=1)   # u8[1 H W 3]
    model.caption(pictures)                                                     # ["a small red circle …"]
"""
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from unitok.checkpoint import read_config
from unitok.config import GREEDY, Config, Sampling, check_size
from unitok.data.pictures import MAX_PIXELS
from unitok.data.record import Object
from unitok.modalities.image import ImageModality
from unitok.modalities.location import LocationModality
from unitok.modalities.text import SENTENCE, TextModality
from unitok.objectives import OBJECTIVES, drawing
from unitok.objectives.codes import Codes
from unitok.run import load_decoder, load_image_tokenizer
from unitok.sampling import rules
from unitok.sampling.groups import groups_of
from unitok.sampling.guidance import guidance_of
from unitok.sampling.pieces import choose, may_come
from unitok.sampling.sampler import Sampler, Watch
from unitok.sampling.settings import by_groups, code_by_code
from unitok.sampling.windows import seed_of, windows_over
from unitok.sequence import Sequence, build, without
from unitok.vocab import Vocabulary

BATCH = 256
"""Documents drawn side by side."""
LIMIT = 64
"""Text codes drawn at most."""
PASSES = 8
"""In which a window of an enlarged picture is drawn where the settings name no number."""
NEVER_WITHOUT = "such documents were never learned without what comes before"
"""Why what goes on in one is not guided."""
OBJECTS, NAME_LIMIT = 16, 8
"""Objects of a picture, and text codes of the name of one, drawn at most."""


class SoFar(NamedTuple):
  """What `Model.watching` tells. made() is what the method will return, of rows first .. first + n - 1 and as far as it is
  drawn: places of a picture without a code are grey, texts end."""
  first: int
  share: float                # 0 .. 1 of all that is drawn at most; texts mostly end before that
  made: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Model:
  """Everything that drawing needs. What is drawn depends on its inputs, the seed and its place in the list alone."""
  config: Config
  vocabulary: Vocabulary
  text: TextModality
  image: ImageModality
  sampler: Sampler
  step: int = 0               # of the decoder's training
  watch: Watch | None = None

  @classmethod
  def open(cls, workdir, int8: bool = False, int8_cache: bool = False) -> "Model":
    """The newest weights of a run's folder, averaged. ValueError where a stage is missing or does not fit.

    int8: with the decoder's matrices, and what they multiply, in int8: faster, and near the same; int8_cache: with keys
    and values kept in int8, a quarter of the memory.
    """
    workdir = epath.Path(workdir)
    read_config(workdir)      # so that a folder that is no run is called that
    decoder = load_decoder(workdir)
    text, image = TextModality.load(workdir / "text_tokenizer"), load_image_tokenizer(workdir)
    here = {"text": text.fingerprint, "image": image.fingerprint}
    for name, fingerprint in decoder.vocabulary.fingerprints.items():
      if here.get(name) != fingerprint:
        raise ValueError(f"{workdir}: its {name} tokenizer is {here.get(name)}, the decoder was trained on "
                         f"{fingerprint}; restore that tokenizer, or encode again and train the decoder anew")
    sampler = Sampler(decoder.model, decoder.params, decoder.vocabulary)
    sampler = sampler.in_int8(int8, int8_cache) if int8 or int8_cache else sampler
    return cls(decoder.config, decoder.vocabulary, text, image, sampler, decoder.step)

  def watching(self, call: Callable[[SoFar], None], every: int = 8) -> "Model":
    """The same model, whose methods call this behind the first pass and every so many further ones (`compose`: behind
    each piece). What is drawn stays the same; an exception in `call` ends the drawing."""
    if every < 1:
      raise ValueError(f"every: {every} passes, must be 1 or more")
    return dataclasses.replace(self, watch=Watch(call, every))

  def generate(self, prompts: list[str], sampling: Sampling | None = None, seed: int = 0,
               batch_size: int = BATCH, size: tuple[int, int] | None = None) -> np.ndarray:
    """One picture a prompt, u8[n H W 3]; "" draws from the null caption.

    size: (H, W) in pixels, the training's square unless given. ValueError for a prompt that is too long, or a size the
    tokenizer cannot make.
    """
    sampling = self.config.sampling if sampling is None else sampling
    self._check_draw(sampling, seed, batch_size)
    empty, groups = self._empty(size), None
    order = _places(empty)
    grouped = by_groups(sampling)
    if grouped:     # all pictures in one order, chosen by the seed
      groups = groups_of(np.ones(empty.shape[:2], bool), sampling, seed)
      order = np.argsort(groups, axis=None, kind="stable")
    document = functools.partial(self._document, "parallel" if grouped else "text_to_image", image=empty, groups=groups)
    documents = [document(text=text, where=f"prompt {n}") for n, text in self._encoded(prompts)]
    made = functools.partial(self._pictures_of, order, empty)
    return self._draw(made, documents, sampling, seed, batch_size, lambda n: document(text=None))

  def generate_ranked(self, prompts: list[str], samples: int, rank: Callable | None = None,
                      sampling: Sampling | None = None, seed: int = 0, batch_size: int = BATCH,
                      size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(u8[n samples H W 3], f32[n samples]): as many pictures of each prompt and their scores, the best first.

    rank(prompts, u8[m H W 3]) -> [m], more is better; unless given log p(prompt | picture) in nats, for which the model
    has to know image_to_text (CogView, 2105.13290, section 3.3). What is drawn is what `generate` draws for each prompt
    `samples` times in a row. ValueError where there is nothing to rank by, or a score is no number.
    """
    if samples < 1:
      raise ValueError(f"samples: {samples} of each prompt, must be 1 or more")
    if rank is None:
      self.check_trained("image_to_text")
      if empty := [n for n, text in self._encoded(prompts) if not len(text)]:
        raise ValueError(f"prompt {empty[0]}: it is empty, and pictures are ranked by how likely they make it; write "
                         "one, or give a rank of your own")
      if size is not None and tuple(size) not in self._sizes():
        raise ValueError(f"size: {size[0]} x {size[1]} pictures cannot be ranked by their captions, which were learned of "
                         f"{' or '.join(f'{h} x {w}' for h, w in self._sizes())}; take such, or give a rank of your own")
    every = [prompt for prompt in prompts for _ in range(samples)]
    pictures = self.generate(every, sampling, seed, batch_size, size)
    scores = np.asarray((rank or functools.partial(self.log_likelihood, batch_size=batch_size))(every, pictures), np.float32)
    if scores.shape != (len(every),) or not np.isfinite(scores).all():
      raise ValueError(f"rank: its scores are f32{list(scores.shape)}, must be {len(every)} finite numbers, one a picture")
    scores, pictures = scores.reshape(-1, samples), pictures.reshape(-1, samples, *pictures.shape[1:])
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(pictures, order[..., None, None, None], 1), np.take_along_axis(scores, order, 1)

  def imagine(self, count: int, sampling: Sampling | None = None, seed: int = 0, batch_size: int = BATCH,
              size: tuple[int, int] | None = None) -> np.ndarray:
    """u8[count H W 3]: pictures that nothing was asked of, so without guidance, by the objective `image`. size as for
    `generate`."""
    if count < 0:
      raise ValueError(f"count: {count} must be 0 or more")
    sampling, empty = self._code_by_code(sampling, "there is no prompt to be guided by"), self._empty(size)
    made = functools.partial(self._pictures_of, _places(empty), empty)
    return self._draw(made, [self._document("image", None, empty)] * count, sampling, seed, batch_size)

  def arrange(self, layouts: list[list[Object]], sampling: Sampling | None = None, seed: int = 0,
              batch_size: int = BATCH, size: tuple[int, int] | None = None) -> np.ndarray:
    """u8[n H W 3]: a picture for each list of objects, what is asked for and where. size as for `generate`."""
    sampling, empty = self._code_by_code(sampling), self._empty(size)
    coded = lambda one: (self.text.encode(one.name), LocationModality().encode(one.box))
    objects = [tuple(map(coded, layout)) for layout in layouts]
    documents = [self._document("layout", None, empty, f"layout {n}", objects=some) for n, some in enumerate(objects)]
    made = functools.partial(self._pictures_of, _places(empty), empty)
    return self._draw(made, documents, sampling, seed, batch_size, lambda n: self._document("layout", None, empty))

  def caption(self, images: np.ndarray, sampling: Sampling | None = None, seed: int = 0, limit: int = LIMIT,
              batch_size: int = BATCH) -> list[str]:
    """A caption of at most `limit` text codes for each of u8[n H W 3]; greedy unless `sampling` says."""
    codes = self.image.encode(self._pictures(images))
    unknown = self._unknown(limit, lambda one: self._document("image_to_text", one, codes[0])) if len(codes) else None
    documents = [self._document("image_to_text", unknown, image) for image in codes]
    return self._draw(self._texts, documents, _plain(sampling), seed, batch_size)

  def answer(self, images: np.ndarray, questions: list[str], sampling: Sampling | None = None, seed: int = 0,
             limit: int = LIMIT, batch_size: int = BATCH) -> list[str]:
    """An answer of at most `limit` text codes to the question about each of u8[n H W 3]; greedy unless told."""
    images = self._pictures(images)
    asked, documents = self._encoded(questions, len(images)), []
    for (n, question), image in zip(asked, self.image.encode(images)):
      asked_for = functools.partial(self._document, "question", None, image, f"question {n}")
      unknown = self._unknown(limit, lambda one: asked_for(questions=((question, one),)))
      documents.append(asked_for(questions=((question, unknown),)))
    return self._draw(self._texts, documents, _plain(sampling), seed, batch_size)

  def locate(self, images: np.ndarray, names: list[str], sampling: Sampling | None = None, seed: int = 0,
             batch_size: int = BATCH) -> np.ndarray:
    """f32[n 4]: the box x0 y0 x1 y1, shares of the sides, of what is named in each of u8[n H W 3]."""
    images, unknown = self._pictures(images), np.full(4, -1, np.int32)
    documents = [self._document("locate", None, image, f"name {n}", objects=((name, unknown),))
                 for (n, name), image in zip(self._encoded(names, len(images)), self.image.encode(images))]

    def boxes(drawn, first):
      codes = np.zeros((len(drawn), 4), np.int32)
      for row, ids in zip(codes, drawn):
        row[:len(ids)] = self.vocabulary.to_codes("location", ids)
      return LocationModality().decode(codes)

    return self._draw(boxes, documents, _plain(sampling), seed, batch_size)

  def detect(self, images: np.ndarray, sampling: Sampling | None = None, seed: int = 0, limit: int = OBJECTS,
             name_limit: int = NAME_LIMIT, batch_size: int = BATCH) -> list[list[Object]]:
    """What is in each of u8[n H W 3], and where: at most `limit` objects with names of at most `name_limit` text codes.

    Greedy unless told. No more objects than a training row had room for; one whose box has no area is left out.
    """
    if min(limit, name_limit) < 1:
      raise ValueError(f"{'limit' if limit < 1 else 'name_limit'}: {min(limit, name_limit)} must be at least 1")
    codes, row = self.image.encode(self._pictures(images)), self.config.decoder.row_length
    framing, (height, width) = self.config.decoder.objectives, codes.shape[1:3]
    picture = 3 + height * width + 2 * framing.size_tokens + height * framing.row_ends
    most = min(limit, (row - picture) // (4 + name_limit + 1))
    if most < 1:
      raise ValueError(f"name_limit: a picture and an object with a name of {name_limit} text codes do not fit into "
                       f"the {row} of a training row (decoder.row_length); lower it")
    unknown = (np.full(name_limit, -1, np.int32), np.full(4, -1, np.int32))
    documents = [self._document("detect", None, image, f"picture {n}", objects=(unknown,) * most)
                 for n, image in enumerate(codes)]
    made = lambda drawn, first: [self._objects(ids, name_limit) for ids in drawn]
    return self._draw(made, documents, _plain(sampling), seed, batch_size)

  def fill(self, texts: list[list[str | None]], sampling: Sampling | None = None, seed: int = 0, limit: int = 8,
           batch_size: int = BATCH) -> list[list[str]]:
    """What belongs into the gaps of each text: ["a small ", None, " at the top"] -> ["red circle"].

    A gap takes at most `limit` text codes; greedy unless `sampling` says. Each text is asked for in the first of GAPS
    that the model was trained for and that its gaps fit. ValueError for a text without a gap, with two side by side, or
    with gaps of no kind that this model fills.
    """
    trained = {name: kind for name, kind in GAPS.items() if self.config.decoder.tasks.get(name)}
    if limit < 1:
      raise ValueError(f"limit: {limit} must be at least 1")
    documents = []
    for n, text in enumerate(texts):
      parts = [np.full(limit, -1, np.int32) if part is None else self.text.encode(part) for part in text]
      open_ends = [part is None for part, codes in zip(text, parts) if codes.size]
      if not any(open_ends) or any(a and b for a, b in zip(open_ends, open_ends[1:])):
        raise ValueError(f"text {n}: give a list of texts and gaps (None) that do not touch, at least one gap")
      known = [part for part in text if part != ""]
      form = next((name for name, (_, fits) in trained.items() if fits(known)), "glm_spans")
      if trained and form not in trained:
        raise ValueError(f"text {n}: this model fills {' or '.join(kind for kind, _ in trained.values())} alone; give "
                         "such, or train one for glm_spans with --decoder.tasks")
      remedy = f"lower the limit of {limit} for each gap, or shorten the text"
      documents.append(self._document(form, np.concatenate(parts), None, f"text {n}", remedy))
    made = lambda drawn, first: [self.spans(document, ids) for document, ids in zip(documents[first:], drawn)]
    return self._draw(made, documents, _plain(sampling), seed, batch_size)

  def go_on(self, documents: list[list[str | np.ndarray]], draw: tuple[int, int] | None = None,
            sampling: Sampling | None = None, seed: int = 0, limit: int = LIMIT,
            batch_size: int = BATCH) -> np.ndarray | list[str]:
    """What follows each interleaved document of texts and pictures u8[H W 3] (of any sizes): a picture of the size
    `draw`, so u8[n H W 3], or else a text of at most `limit` codes, greedy unless `sampling` says."""
    encoded = [self._pieces(one) for one in documents]
    document = lambda n, last: self._document("interleaved", None, None, f"document {n}", pieces=(*encoded[n], last))
    if draw is None:
      rows = [document(n, self._unknown(limit, functools.partial(document, n))) for n in range(len(encoded))]
      made = functools.partial(self._texts, end="[sep]")
      return self._draw(made, rows, _plain(sampling), seed, batch_size)
    sampling, empty = self._code_by_code(sampling, NEVER_WITHOUT), self._empty(draw)
    made = functools.partial(self._pictures_of, _places(empty), empty)
    return self._draw(made, [document(n, empty) for n in range(len(encoded))], sampling, seed, batch_size)

  def compose(self, documents: list[list[str | np.ndarray]], pieces: int = 4, size: tuple[int, int] | None = None,
              sampling: Sampling | None = None, seed: int = 0, limit: int = LIMIT,
              batch_size: int = BATCH) -> list[list[str | np.ndarray]]:
    """What follows each interleaved document of texts and pictures u8[H W 3] (of any sizes, or none), in the order that the
    model likes: up to its end or so many pieces, texts of at most `limit` codes and pictures of `size` (see `generate`).

    The next piece's kind is drawn at the temperature, top-k and the like aside, among those that a training row has room
    for: no picture is begun there that cannot be finished. Texts and pictures are drawn side by side, with one program
    for each round; `watching` is told behind each.
    """
    sampling, empty, row = self._code_by_code(sampling, NEVER_WITHOUT), self._empty(size), self.config.decoder.row_length
    self._check_draw(sampling, seed, batch_size)
    for name, value in (("pieces", pieces), ("limit", limit)):
      if value < 1:
        raise ValueError(f"{name}: {value} must be at least 1")
    known, made = [self._pieces(one) for one in documents], [[] for _ in documents]
    document = lambda n, *last: self._document("interleaved", None, None, f"document {n}", pieces=(*known[n], *last))
    one, none = (self._built("interleaved", None, None, pieces=some).length for some in ((np.zeros_like(empty),), ()))
    alive = list(range(len(documents)))
    for step in range(pieces):
      rows, nexts = [document(n) for n in alive], {}
      found = self.sampler.after(rows, min(batch_size, 1 << max(len(alive) - 1, 0).bit_length()))
      for n, of, logits in zip(alive, rows, found):
        kind = choose(logits, may_come(self.vocabulary, of.length, one - none, row), sampling.temperature,
                      np.random.default_rng([seed, n, step]))
        if kind != "end":
          nexts[n] = empty if kind == "picture" else np.full(min(limit, row - of.length - 1), -1, np.int32)
      alive = list(nexts)
      if not alive:
        break
      for start in range(0, len(alive), batch_size):
        some = alive[start:start + batch_size]
        for n, ids in zip(some, self.sampler.draw([document(n, nexts[n]) for n in some], sampling, seed_of(seed, step),
                                                  first_row=np.array(some))):
          picture = nexts[n] is empty
          known[n] += (self.vocabulary.image_codes(ids).reshape(empty.shape) if picture else self._codes(ids, "[sep]"),)
        drawn = [n for n in some if nexts[n] is empty]
        pictures = dict(zip(drawn, self.image.decode(np.stack([known[n][-1] for n in drawn])))) if drawn else {}
        for n in some:
          made[n].append(pictures[n] if n in pictures else self.text.decode(known[n][-1]))
      if self.watch:
        so_far = [list(one) for one in made]
        self.watch.call(SoFar(0, (step + 1) / pieces, lambda so_far=so_far: so_far))
    return made

  def infill(self, images: np.ndarray, masks: np.ndarray, prompts: list[str] | None = None,
             sampling: Sampling | None = None, seed: int = 0, keep_original: bool = False,
             batch_size: int = BATCH) -> np.ndarray:
    """u8[n H W 3] with the masked part of each picture drawn anew.

    masks bool[n H W], True where pixels are to be replaced; a code is drawn where any of its pixels is. Masked
    pixels are erased before encoding, so the model sees nothing of them. The kept part comes back as its codes
    decode; keep_original pastes its own pixels over that. ValueError where a mask leaves no code or none to draw.
    """
    sampling, images = self.config.sampling if sampling is None else sampling, self._pictures(images)
    masks = np.asarray(masks)
    if masks.shape != images.shape[:3] or masks.dtype != bool:
      raise ValueError(f"infill: masks are {masks.dtype}{list(masks.shape)}, must be bool{list(images.shape[:3])}, "
                       "True where pixels are to be replaced")
    holes = hole_of(masks, self.image.downsampling)
    for n, hole in enumerate(holes):
      if not hole.any() or hole.all():
        what = "covers nothing; mask at least a pixel" if not hole.any() else \
            f"leaves none of the {hole.size} codes (of {self.image.downsampling} x {self.image.downsampling} pixels " \
            "each); mask less, or draw the whole with generate"
        raise ValueError(f"infill: mask {n} {what}")
    texts = self._prompts(prompts, len(images))
    codes = self.image.encode(erase(images, masks))
    codes[holes] = -1

    def made(filled, first):
      some, out = slice(first, first + len(filled)), self._seen(filled)
      return np.where(masks[some][..., None], out, images[some]) if keep_original else out

    return self._fill(made, codes, texts, sampling, seed, batch_size)

  def extend(self, images: np.ndarray, top: int = 0, right: int = 0, bottom: int = 0, left: int = 0,
             prompts: list[str] | None = None, sampling: Sampling | None = None, seed: int = 0,
             keep_original: bool = False, whole: bool = False, batch_size: int = BATCH) -> np.ndarray:
    """u8[n top+H+bottom left+W+right 3]: pictures u8[n H W 3] of any size, with so many pixels drawn past their sides.

    Drawn are windows of the training's square, one after another, each half known where that can be (`windows_over`).
    whole: the larger picture at once instead, on a grid that the model may never have seen. What is known comes back as
    its codes decode; keep_original pastes its own pixels over that. ValueError for pixels that make no whole codes, or
    where this model cannot draw beside something known.
    """
    sampling, images = self.config.sampling if sampling is None else sampling, self._of_codes(images)
    side, (height, width) = self.image.downsampling, images.shape[1:3]
    for name, pixels in (("top", top), ("right", right), ("bottom", bottom), ("left", left)):
      if pixels < 0 or pixels % side:
        raise ValueError(f"extend: {name}: {pixels} pixels must be 0 or more, a multiple of the {side} of a code")
    if (top + height + bottom) * (left + width + right) > MAX_PIXELS:
      raise ValueError(f"extend: {left + width + right} x {top + height + bottom} pixels are more than {MAX_PIXELS}; "
                       "extend it by less")
    texts, codes = self._prompts(prompts, len(images)), self.image.encode(images)
    around = ((0, 0), (top // side, bottom // side), (left // side, right // side), *((0, 0),) * (codes.ndim - 3))
    codes = np.pad(codes, around, constant_values=-1)

    def made(filled, first):
      out = self._seen(filled)
      if keep_original:
        out[:, top:top + height, left:left + width] = images[first:first + len(out)]
      return out

    grid = codes.shape[1:3] if whole else self.image.grid
    return self._fill_windows(made, codes, grid, texts, sampling, seed, batch_size)

  def enlarge(self, images: np.ndarray, prompts: list[str] | None = None, sampling: Sampling | None = None,
              seed: int = 0, batch_size: int = BATCH) -> np.ndarray:
    """u8[n 2H 2W 3]: pictures u8[n H W 3] of any size drawn again with twice the codes on each side, window by window,
    by the objective `refine` (CogView2's second stage, 2204.14217).

    A window is drawn in `sampling.passes` passes, 8 unless given, from the coarse codes it covers and the fine ones that
    other windows have drawn there.
    """
    self.check_trained("refine")
    sampling, images = self.config.sampling if sampling is None else sampling, self._of_codes(images)
    self._check_draw(sampling, seed, batch_size)
    window = self.config.decoder.objectives.refine_window
    grid = (window, window) if window else tuple(max(side // 2 * 2, 2) for side in self.image.grid)
    passes = sampling.passes or min(PASSES, grid[0] * grid[1])
    strategy = sampling.strategy if by_groups(sampling) else "groups"
    few = dataclasses.replace(sampling, strategy=strategy, window=0, row_window=0, passes=passes)
    texts, coarse = self._prompts(prompts, len(images)), self.image.encode(images)
    fine = np.full_like(coarse, -1).repeat(2, 1).repeat(2, 2)
    made = lambda filled, first: self._seen(filled)
    return self._fill_windows(made, fine, grid, texts, few, seed, batch_size, coarse)

  def vary(self, images: np.ndarray, share: float = 0.5, prompts: list[str] | None = None,
           sampling: Sampling | None = None, seed: int = 0, anew: str = "random",
           batch_size: int = BATCH) -> np.ndarray:
    """u8[n H W 3]: each picture with a share of its codes drawn anew and the others kept: 0 leaves what the codes decode
    to, 1 is a new picture of `generate`.

    anew: which codes; random, by the seed and the picture's place in the list, or unlikely: those least likely to the
    model given the codes before them. ValueError for a share outside 0 .. 1.
    """
    sampling, images = self.config.sampling if sampling is None else sampling, self._pictures(images)
    if not 0 <= share <= 1:
      raise ValueError(f"share: {share} of the codes drawn anew, must be in 0 .. 1")
    if anew not in ANEW:
      raise ValueError(f"anew: {anew!r} must be one of {', '.join(ANEW)}")
    texts, codes = self._prompts(prompts, len(images)), self.image.encode(images)
    places = codes.shape[1] * codes.shape[2]
    count = round(share * places)
    if count == places:
      prompts = [""] * len(images) if prompts is None else prompts
      return self.generate(prompts, sampling, seed, batch_size, images.shape[1:3])
    self._check_draw(sampling, seed, batch_size)
    if count and len(codes):
      chosen = ANEW[anew](self, codes, texts, seed, batch_size)[:, :count]
      np.put_along_axis(codes.reshape(len(codes), places, -1), chosen[..., None], -1, 1)
    return self._fill(lambda filled, first: self._seen(filled), codes, texts, sampling, seed, batch_size)

  def complete(self, texts: list[str], sampling: Sampling | None = None, seed: int = 0, limit: int = LIMIT,
               batch_size: int = BATCH) -> list[str]:
    """Each text with its continuation of at most `limit` codes; greedy unless `sampling` says."""
    documents = []
    for n, known in self._encoded(texts):
      document = lambda one: self._document("text", np.concatenate([known, one]), None, f"text {n}")
      documents.append(document(self._unknown(limit, document)))
    made = lambda drawn, first: [text + self._text(ids) for text, ids in zip(texts[first:], drawn)]
    return self._draw(made, documents, _plain(sampling), seed, batch_size)

  def reconstruct(self, images: np.ndarray, tile: int = 0) -> np.ndarray:
    """u8[n H W 3] -> what its codes decode to. tile: by overlapping squares of so many pixels, and of any size that the
    codes divide (see `ImageModality.encode`)."""
    images = images if tile else self._pictures(images)
    return self.image.decode(self.image.encode(images, tile), tile)

  def log_likelihood(self, captions: list[str], images: np.ndarray, batch_size: int = BATCH) -> np.ndarray:
    """f32[n]: log p(caption | picture) of each pair, nats, the caption's end included."""
    images = self._pictures(images)
    texts = self._encoded(captions, len(images))
    codes = self.image.encode(images)
    documents = [self._document("image_to_text", text, image, f"caption {n}") for (n, text), image in zip(texts, codes)]
    if not documents:
      return np.zeros(0, np.float32)
    return self.sampler.log_likelihood(documents, min(batch_size, 1 << (len(documents) - 1).bit_length()))

  def fits(self, text: str) -> bool:
    """Is there room for this text beside a whole picture in a training row?"""
    return len(self.text.encode(text)) + int(np.prod(self.image.grid)) + 4 <= self.config.decoder.row_length

  def check_trained(self, objective: str):
    """ValueError where this model does not know the objective."""
    if not self.config.decoder.tasks.get(objective):
      raise ValueError(f"{objective}: this model was not trained for it (decoder.tasks has no share of it); "
                       "train one with --decoder.tasks")

  # ---- inside

  def _encoded(self, texts: list[str], count: int | None = None) -> list[tuple[int, np.ndarray]]:
    """(number, codes) of each text. ValueError for a single string or the wrong number."""
    if isinstance(texts, str):
      raise ValueError(f"texts: {texts[:40]!r} is one string, must be a list of them; write [text]")
    if count is not None and len(texts) != count:
      raise ValueError(f"texts: {len(texts)} for {count} pictures; give one for each")
    for n, text in enumerate(texts):
      if not isinstance(text, str):
        raise ValueError(f"texts: number {n} is {text!r}, must be a string; \"\" asks for nothing")
    return [(n, self.text.encode(text)) for n, text in enumerate(texts)]

  def _pieces(self, document: list[str | np.ndarray]) -> tuple[np.ndarray, ...]:
    """The codes of an interleaved document's texts and pictures. ValueError for a single string."""
    if isinstance(document, str):
      raise ValueError(f"documents: {document[:40]!r} is one string, must be a list of texts and pictures; write [[text]]")
    return tuple(self.text.encode(piece) if isinstance(piece, str) else self.image.encode(self._of_codes([piece]))[0]
                 for piece in document)

  def _code_by_code(self, sampling: Sampling | None, unguided: str = "") -> Sampling:
    """The caller's settings, or the run's without what does not go here: groups, and guidance where `unguided` says why.
    ValueError where the caller asks for these."""
    if sampling is None:
      own = code_by_code(self.config.sampling)
      return dataclasses.replace(own, guidance_scale=1.0, image_guidance_scale=1.0) if unguided else own
    rules.check(sampling)
    if sampling.passes:
      raise ValueError(f"sampling.passes: {sampling.passes}, by {sampling.strategy or 'groups'}, must be 0 here, for what is "
                       "asked for is drawn code by code")
    for name in ("guidance_scale", "image_guidance_scale") if unguided else ():
      if getattr(sampling, name) != 1:
        raise ValueError(f"sampling.{name}: {getattr(sampling, name)} must be 1 here; {unguided}")
    return sampling

  def _prompts(self, prompts: list[str] | None, count: int) -> list[tuple[int, np.ndarray]]:
    """As `_encoded`; None is the null caption for each."""
    return self._encoded([""] * count if prompts is None else prompts, count)

  def _sizes(self) -> list[tuple[int, int]]:
    """(H, W) of the pictures that it learned from."""
    data = self.config.data
    return sorted({(data.image_size, data.image_size), *map(tuple, data.sizes)})

  def _pictures(self, images) -> np.ndarray:
    images, sizes = np.asarray(images), self._sizes()
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1:3] not in sizes:
      legal = " or ".join(f"uint8[n {height} {width} 3]" for height, width in sizes)
      raise ValueError(f"images are {images.dtype}{list(images.shape)}, must be {legal}; unitok.data.pictures.square "
                       "reads a file as a square")
    return images

  def _of_codes(self, images) -> np.ndarray:
    """Pictures of any size that are whole codes."""
    images, side = np.asarray(images), self.image.downsampling
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not min(images.shape[1:3]) or \
        images.shape[1] % side or images.shape[2] % side:
      raise ValueError(f"images are {images.dtype}{list(images.shape)}, must be uint8[n H W 3] with H and W multiples "
                       f"of the {side} pixels of a code")
    return images

  def _document(self, objective: str, text: np.ndarray | None, image: np.ndarray | None, where: str = "",
                remedy: str = "", **more) -> Sequence:
    """The objective's document; text None is the null caption, `more` are Codes' other fields.

    ValueError where it is longer than a training row.
    """
    self.check_trained(objective)
    text = np.zeros(0, np.int32) if text is None else text
    document, row = self._built(objective, text, image, **more), self.config.decoder.row_length
    if document.length > row:
      most = len(text) - (document.length - row)
      remedy = remedy or f"at most {most} text tokens do" if remedy or most > 0 else \
          "mask fewer, larger areas" if objective == "infill" else "shorten the text, or train one with longer rows"
      texts = f", of which {len(text)} are text," if len(text) else ""
      raise ValueError(f"{where or objective}: {document.length} tokens{texts} do not fit "
                       f"into the {row} of a training row (decoder.row_length); {remedy}")
    return document

  def _built(self, objective: str, text: np.ndarray | None, image: np.ndarray | None, **more) -> Sequence:
    """The objective's document, however long."""
    codes = Codes((np.zeros(0, np.int32) if text is None else text,), image, **more)
    options = drawing(self.config.decoder.objectives)
    return build(OBJECTIVES[objective](codes, np.random.default_rng(0), options), self.vocabulary)

  def _unknown(self, limit: int, document: Callable[[np.ndarray], Sequence]) -> np.ndarray:
    """As many text codes to be drawn as a training row has room for behind the rest of the document, `limit` at most."""
    if limit < 1:
      raise ValueError(f"limit: {limit} must be at least 1")
    left = self.config.decoder.row_length - document(np.full(1, -1, np.int32)).length
    return np.full(min(limit, left + 1), -1, np.int32)

  def _empty(self, size: tuple[int, int] | None) -> np.ndarray:
    """i32[h w] or i32[h w G] of -1: a picture of so many pixels to be drawn."""
    grid, books = self.image.grid, self.vocabulary.books
    if size is not None:
      side, size = self.image.downsampling, tuple(np.atleast_1d(size).tolist())
      check_size(size, side, "size", f"the {side} pixels of a code")
      grid = size[0] // side, size[1] // side
    return np.full(grid if books == 1 else (*grid, books), -1, np.int32)

  def _without_picture(self, document: Sequence) -> Sequence:
    """The document without the codes that it begins with."""
    known = np.arange(document.length) < np.flatnonzero(document.fills >= 0)[0]
    return without(document, known & self.vocabulary.allowed("image")[np.maximum(document.inputs, 0)])

  def _fill(self, made: Callable, codes: np.ndarray, texts: list[tuple[int, np.ndarray]], sampling: Sampling, seed: int,
            batch_size: int, first_row: int = 0, coarse: np.ndarray | None = None):
    """made(codes i32[n h w] or i32[n h w G] whose unknown places (-1) are drawn, 0); while they are, made(those of some,
    as far as they are drawn, number of the first). coarse: codes of half the pictures' sides, for `refine`."""
    holes = _unknown(codes)
    if not holes.any():
      return made(codes, 0)
    self._check_draw(sampling, seed, batch_size)
    objective, groups = self._filling(holes, sampling) if coarse is None else "refine", [None] * len(codes)
    if objective in ("parallel", "refine"):
      passes = lambda hole: sampling.passes or (0 if by_groups(sampling) else int(hole.sum()))
      groups = [groups_of(hole, dataclasses.replace(sampling, passes=passes(hole)), seed) for hole in holes]
    less = [None] * len(codes) if coarse is None else coarse
    document = lambda n, text, where="": self._document(objective, text, codes[n], where, groups=groups[n],
                                                        coarse=less[n])
    documents = [document(at, text, f"prompt {n}") for at, (n, text) in enumerate(texts)]

    def filled(drawn, first):
      some = slice(first, first + len(drawn))
      known = codes[some].copy()
      for image, hole, group, ids in zip(known, holes[some], groups[some], drawn):
        places = np.flatnonzero(hole)      # runs are drawn in raster order
        places = places if group is None else places[np.argsort(group.ravel()[places], kind="stable")]
        image.reshape(hole.size, -1)[places[:len(ids)]] = self.vocabulary.image_codes(ids).reshape(len(ids), -1)
      return made(known, first)

    return self._draw(filled, documents, sampling, seed, batch_size, lambda n: document(n, None),
                      lambda n: self._without_picture(document(n, None)), first_row)

  def _filling(self, holes: np.ndarray, sampling: Sampling) -> str:
    """The objective by which holes are drawn: parallel where groups are asked for, else infill. A model without it goes
    on by text_to_image where all that is unknown comes last, or else draws parallel groups of one."""
    knows = self.config.decoder.tasks.get
    if by_groups(sampling):
      return "parallel"
    last = (np.diff(holes.reshape(len(holes), -1).astype(int)) >= 0).all()
    others = [name for name, fits in (("text_to_image", last), ("parallel", True)) if fits and knows(name)]
    return "infill" if knows("infill") or not others else others[0]

  def _fill_windows(self, made: Callable, codes: np.ndarray, grid: tuple[int, int], texts: list[tuple[int, np.ndarray]],
                    sampling: Sampling, seed: int, batch_size: int, coarse: np.ndarray | None = None) -> np.ndarray:
    """As `_fill`, of pictures that lack the same places, by windows of a grid; `batch_size` pictures side by side."""
    self._check_draw(sampling, seed, batch_size)
    codes = codes.copy()
    at = windows_over(~_unknown(codes)[0], grid, 1 if coarse is None else 2) if len(codes) else []

    def put(before, window, filled):
      whole = before.copy()
      whole[:, *window] = filled
      return whole

    for first in range(0, len(codes), batch_size):
      some = slice(first, first + batch_size)
      for step, (row, column) in enumerate(at):
        before, window = codes[some].copy(), (slice(row, row + grid[0]), slice(column, column + grid[1]))

        def told(so_far, step=step, before=before, window=window, first=first):
          now = so_far.made
          self.watch.call(SoFar(first, (step + so_far.share) / len(at), lambda: made(put(before, window, now()), first)))

        one = self if self.watch is None else dataclasses.replace(self, watch=Watch(told, self.watch.every))
        half = [slice(sides.start // 2, sides.stop // 2) for sides in window]
        less = None if coarse is None else coarse[some][:, *half]
        filled = one._fill(lambda filled, _: filled, before[:, *window], texts[some], sampling, seed_of(seed, step),
                           len(before), first, less)
        codes[some] = put(before, window, filled)
    return made(codes, 0)

  def _by_chance(self, codes: np.ndarray, texts: list, seed: int, batch_size: int) -> np.ndarray:
    """i64[n places]: a random order of each picture's places."""
    places = codes.shape[1] * codes.shape[2]
    return np.stack([np.random.default_rng([seed, n]).permutation(places) for n in range(len(codes))])

  def _by_likelihood(self, codes: np.ndarray, texts: list, seed: int, batch_size: int) -> np.ndarray:
    """i64[n places]: each picture's places, those first whose codes are the least likely given those before them."""
    knows = self.config.decoder.tasks.get
    name = "image" if knows("image") and not knows("text_to_image") else "text_to_image"
    documents = [self._document(name, text, image, f"prompt {n}") for (n, text), image in zip(texts, codes)]
    of_picture = lambda d: (d.loss_weights > 0) & self.vocabulary.allowed("image")[d.targets]
    found = zip(documents, self.sampler.log_p(documents, min(batch_size, 1 << (len(documents) - 1).bit_length())))
    return np.stack([np.argsort(log_p[of_picture(d)], kind="stable") for d, log_p in found])

  @staticmethod
  def _check_draw(sampling: Sampling, seed: int, batch_size: int):
    rules.check(sampling)
    if int(seed) != seed or not 0 <= seed < 2**32:
      raise ValueError(f"seed: {seed} must be in 0 .. {2**32 - 1}")
    if int(batch_size) != batch_size or batch_size < 1:
      raise ValueError(f"batch_size: {batch_size} must be at least 1")

  def _draw(self, made: Callable, documents: list[Sequence], sampling: Sampling, seed: int, batch_size: int, null=None,
            empty=None, first_row: int = 0):
    """made(the drawn ids of each document, 0); while they are drawn, made(first ids of some, number of the first) is what
    `watch` is told.

    null(n) is document n without its caption, asked for only where there is guidance, and empty(n) without its picture,
    too. first_row: the number of the first document, for its random numbers.
    """
    self._check_draw(sampling, seed, batch_size)
    out, needed = [], guidance_of(sampling).documents
    if needed > 2 and empty is None:
      raise ValueError(f"sampling.image_guidance_scale: {sampling.image_guidance_scale} must be 1 here; a picture guides "
                       "the filling of its own holes alone (infill)")
    for start in range(0, len(documents), batch_size):
      some = documents[start:start + batch_size]
      less = {name: [made(start + n) for n in range(len(some))]
              for name, made in (("nulls", null), ("empties", empty))[:needed - 1]}
      watch = self._watch(made, some, start)
      out += self.sampler.draw(some, sampling, seed, first_row=first_row + start, watch=watch, **less)
    return made(out, 0)

  def _watch(self, made: Callable, documents: list[Sequence], start: int) -> Watch | None:
    if self.watch is None:
      return None
    most = sum(int((document.fills >= 0).sum()) for document in documents)
    there = lambda ids: int(((ids if ids.ndim == 1 else ids[:, 0]) >= 0).sum())
    told = lambda drawn: self.watch.call(SoFar(start, sum(map(there, drawn.ids)) / most, lambda: made(drawn.ids, start)))
    return Watch(told, self.watch.every)

  def _pictures_of(self, order: np.ndarray, empty: np.ndarray, drawn: list[np.ndarray], first: int) -> np.ndarray:
    """u8[n H W 3] of pictures like `empty` whose codes were drawn in this order of places, so far (-1: not yet)."""
    codes = np.full((len(drawn), order.size, *empty.shape[2:]), -1, np.int32)
    for row, ids in zip(codes, drawn):
      row[order[:len(ids)]] = self.vocabulary.image_codes(ids)
    return self._seen(codes.reshape(-1, *empty.shape))

  def _seen(self, codes: np.ndarray) -> np.ndarray:
    """u8[n H W 3] of i32[n h w] or i32[n h w G]; grey where there is no code yet."""
    pictures, unknown = self.image.decode(np.maximum(codes, 0)), _unknown(codes)
    if unknown.any():
      side = self.image.downsampling
      pictures = np.where(unknown.repeat(side, 1).repeat(side, 2)[..., None], np.uint8(128), pictures)
    return pictures

  def _texts(self, drawn: list[np.ndarray], first: int, end: str = "[eos]") -> list[str]:
    return [self._text(ids, end) for ids in drawn]

  def spans(self, document: Sequence, ids: np.ndarray) -> list[str]:
    """The texts of a document's blanks, in the order they have in the text, from what was drawn for them."""
    end, at = self.vocabulary.special("[eop]"), np.flatnonzero(document.fills >= 0)
    begins = at[document.inputs[at] >= 0]
    lengths = np.diff(np.append(np.searchsorted(at, begins), len(at)))
    places, found, left = document.positions[begins, 0], [], list(ids)
    for most in lengths:
      one = []
      while left and len(one) < most:
        one.append(left.pop(0))
        if one[-1] == end:
          one.pop()
          break
      found.append(self.text.decode(self.vocabulary.to_codes("text", np.array(one, np.int32))))
    return [found[n] for n in np.argsort(places)]

  def _objects(self, ids: np.ndarray, name_limit: int) -> list[Object]:
    """Those with an area among what was drawn as four locations, a name and [sep] each, up to [eos]."""
    sep, eos = self.vocabulary.special("[sep]"), self.vocabulary.special("[eos]")
    found, left = [], ids.tolist()
    while len(left) > 4 and left[0] != eos:
      name = list(itertools.takewhile(lambda one: one != sep, left[4:4 + name_limit]))
      x0, y0, x1, y1 = LocationModality().decode(self.vocabulary.to_codes("location", left[:4])).tolist()
      if x0 < x1 and y0 < y1:
        found.append(Object(self.text.decode(self.vocabulary.to_codes("text", name)), (x0, y0, x1, y1)))
      left = left[4 + len(name) + (len(name) < name_limit):]     # one of the full length ends without [sep]
    return found

  def _text(self, ids: np.ndarray, end: str = "[eos]") -> str:
    return self.text.decode(self._codes(ids, end))

  def _codes(self, ids: np.ndarray, end: str) -> np.ndarray:
    """The text codes of what was drawn, with its end or cut short."""
    ended = ids.size and ids[-1] == self.vocabulary.special(end)
    return self.vocabulary.to_codes("text", ids[:-1] if ended else ids)


def _unknown(codes: np.ndarray) -> np.ndarray:
  """bool[n h w]: the places of i32[n h w] or i32[n h w G] without a code."""
  return (codes < 0).any(tuple(range(3, codes.ndim)))


def _places(codes: np.ndarray) -> np.ndarray:
  """The numbers of a picture's places, in raster order."""
  return np.arange(codes.shape[0] * codes.shape[1])


def _at_the_end(text: list[str | None]) -> bool:
  return text.index(None) == len(text) - 1


def _of_sentences(text: list[str | None]) -> bool:
  """Does a sentence begin and end wherever a gap does? ["A ring.", None, " A bar."] and not ["A ", None, "."]."""
  whole, edges = "", []
  for part in text:
    if part is None:
      edges.append(len(whole.rstrip()))
      whole += " X."
      edges.append(len(whole))
    else:
      whole += part
  return set(edges) <= {0, *itertools.accumulate(map(len, SENTENCE.findall(whole.rstrip())))}


GAPS: dict[str, tuple[str, Callable[[list[str | None]], bool]]] = {
    "glm_document": ("one gap at the end of a text", _at_the_end),
    "glm_sentences": ("gaps of whole sentences", _of_sentences),
    "glm_spans": ("any gaps", lambda text: True),
}
"""Objective -> the gaps that it fills, for people and of a text (gaps are None, none of the others is empty)."""


ANEW: dict[str, Callable[..., np.ndarray]] = {"random": Model._by_chance, "unlikely": Model._by_likelihood}
"""Which places `Model.vary` draws anew: (model, codes, texts, seed, batch size) -> all of each picture in an order."""


def _plain(sampling: Sampling | None) -> Sampling:
  """Settings for text. ValueError where they ask for guidance (no picture is ever dropped in training) or the like."""
  sampling = GREEDY if sampling is None else sampling
  if sampling.text_attention:
    raise ValueError(f"sampling.text_attention: {sampling.text_attention} must be 0 for text; it is for pictures")
  if sampling.guidance_scale != 1.0:
    raise ValueError(f"sampling.guidance_scale: {sampling.guidance_scale} must be 1 for text; guidance is for pictures")
  return sampling


def hole_of(masks: np.ndarray, side: int) -> np.ndarray:
  """bool[n H W] of pixels -> bool[n H/side W/side] of codes, True where any pixel of the place is."""
  n, height, width = masks.shape
  return masks.reshape(n, height // side, side, width // side, side).any((2, 4))


def erase(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
  """Masked pixels take the mean colour of the kept ones that touch the mask (sides or corners).

  images u8[n H W 3], masks bool[n H W]; a picture without any kept pixel becomes grey.
  """
  out = images.copy()
  padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
  height, width = masks.shape[1:]
  near = np.zeros_like(masks)
  for row in range(3):
    for column in range(3):
      near |= padded[:, row:row + height, column:column + width]
  for image, mask, ring in zip(out, masks, near & ~masks):
    seen = image[ring if ring.any() else ~mask]
    image[mask] = np.round(seen.mean(0)) if len(seen) else 128
  return out
