"""A whole run as frozen dataclasses: the config files, the command line and config.json share them.

The doc of a field is what `--help` prints. A config file is Python with one function
`get_config() -> Config`; a run's folder holds the same thing as JSON.
"""
import dataclasses
import difflib
import importlib.util
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Data:
  """What every data source shares."""
  image_size: int = 32
  """Side of the square pictures the tokenizer sees, pixels."""
  resize: Literal["fit", "crop", "pad"] = "crop"
  """fit: stretch to the square; crop: scale the short side, cut the centre; pad: scale the long side, fill."""
  sizes: tuple[tuple[int, int], ...] = ()
  """(height, width) in pixels that the decoder's training pictures may have: each takes the one nearest to its own
  aspect ratio. Several need decoder.objectives.size_tokens. Left out: all are squares, as the tokenizer's training and the
  evaluation are in any case."""
  background: tuple[int, int, int] = (255, 255, 255)
  """RGB 0..255 behind transparent pixels and padding."""
  on_bad: Literal["stop", "skip"] = "stop"
  """A bad record stops the run, or is left out, counted and named in the manifest."""
  caption_template: str = "{caption}"
  """Caption from a record's fields, e.g. "a {style} emoji of {caption}"."""


@dataclass(frozen=True)
class Scenes(Data):
  """Pictures of shapes drawn by the project itself."""
  train_examples: int = 20_000
  """Pictures drawn for training."""
  val_examples: int = 1_000
  """Pictures drawn for evaluation, from other seeds; as many again with held-out combinations."""
  held_out: tuple[str, ...] = ("red circle", "blue square", "green triangle", "yellow cross", "purple bar",
                               "orange ring")
  """"colour shape" combinations that training never shows."""
  counts: tuple[float, float, float] = (1.0, 1.0, 1.0)
  """Shares of training pictures with one, two and three shapes; evaluation has as many of each."""
  changes: bool = False
  """A scene is also an interleaved document: caption, picture, a change asked for in words, the changed picture."""
  seed: int = 0
  """Seed of the pictures."""


@dataclass(frozen=True)
class Holdout:
  """Records of a folder kept out of training: for every n-th group, those where `field` is `value`."""
  group_by: str = ""
  """Field whose distinct values are the groups ("" holds nothing out)."""
  every: int = 20
  """Every n-th group, in sorted order."""
  field: str = ""
  """Field that picks the record inside its group."""
  value: str = ""
  """Value of that field."""


@dataclass(frozen=True)
class ImageFolder(Data):
  """Files and a metadata.jsonl, metadata.csv, .txt files or class subfolders."""
  path: str = ""
  """The folder."""
  text_field: str = ""
  """Field with the caption(s); "" takes `captions`, then `text`."""
  val_share: float = 0.0
  """Share of the records, chosen by a hash of the name, that becomes "val" where the folder has no split."""
  holdout: Holdout = field(default_factory=Holdout)
  copies: int = 1
  """Times a training picture is taken: once as it is, then a little larger or smaller and to the side. Few pictures are
  learned by heart otherwise."""


@dataclass(frozen=True)
class Tfds(Data):
  """A TensorFlow dataset, read through as_data_source without TensorFlow."""
  name: str = ""
  """Name in the catalogue ("coco_captions/2014:1.1.0"), or empty with `path`."""
  path: str = ""
  """data_dir of `name`, or a prepared folder (the one with dataset_info.json)."""
  image_field: str = "image"
  """Feature with the picture."""
  text_field: str = ""
  """Feature with text(s), a/b for nested ("captions/text"); "" uses `label_field`."""
  label_field: str = ""
  """Class label whose name is the caption, where there is no text."""
  train_split: str = "train"
  val_split: str = "validation"


@dataclass(frozen=True)
class WebDataset(Data):
  """Tar shards with KEY.jpg, KEY.txt and KEY.json of each record, as img2dataset writes them."""
  path: str = ""
  """The folder of shards, or a bucket's."""
  shards: str = "*.tar"
  """Pattern of the shards' names, e.g. "train/*.tar"."""
  val_shards: str = ""
  """Pattern of those among them, or beside them, that are "val"."""
  val_share: float = 0.0
  """Without val_shards: share of the records, chosen by a hash of the key, that is "val"."""
  text_field: str = ""
  """Field of KEY.json with the caption(s); "" takes KEY.txt, then the field `caption`."""


@dataclass(frozen=True)
class Text:
  """The SentencePiece tokenizer."""
  vocab_size: int = 512
  """Pieces, the 256 bytes among them (so nothing is unknown); fewer where the text has fewer."""
  model: Literal["unigram", "bpe"] = "bpe"
  """bpe finds whole words where the text has few different ones; unigram seeds from what different words share."""
  split_by_whitespace: bool = True
  """False: a piece may span several words ("at the top left"), as in SuperBPE (2503.13423); captions become shorter."""
  max_captions: int = 100_000
  """Captions it is trained on, taken evenly from the training split."""


@dataclass(frozen=True)
class Train:
  """One stage's optimisation."""
  steps: int = 1_000
  batch_size: int = 32
  """Pictures a step (tokenizer), packed rows a step (decoder), of all devices and parts together."""
  accumulate: int = 1
  """Parts of a decoder's batch that are computed one after another, so that fewer rows are held at a time; the step is
  the same, means are over the whole batch."""
  optimizer: Literal["adamw", "muon"] = "adamw"
  """muon: orthogonalised momentum for the matrices inside the layers, AdamW for the rest."""
  learning_rate: float = 1e-3
  warmup_steps: int = 50
  final_share: float = 0.05
  """Learning rate at the end of the cosine, as a share of the peak."""
  weight_decay: float = 0.05
  beta1: float = 0.9
  beta2: float = 0.95
  clip: float = 1.0
  """Largest global gradient norm."""
  ema_decay: float = 0.99
  """Decay of the averaged weights that evaluation and sampling use."""
  log_every: int = 20
  save_every: int = 500
  """Steps between checkpoints."""
  sample_every: int = 500
  """Steps between pictures in the run's report."""
  keep_last: int = 2
  """Checkpoints kept, the newest."""
  keep_every: int = 0
  """Steps between checkpoints that are kept for ever beside those; 0: none."""
  skip_at_most: int = 20
  """Steps in a row whose loss or gradient may not be finite: each changes nothing and is counted; one more stops the
  run."""
  spike_deviations: float = 0.0
  """A loss so many standard deviations above the mean of the last `spike_window` steps is a spike: the run goes back to
  its last checkpoint and on with the batches behind those seen since (as PaLM's did, 2204.02311); 0: never."""
  spike_window: int = 100


@dataclass(frozen=True)
class Quantizer:
  kind: str = "l2"
  """A name in QUANTIZERS: l2 (normalised low-dimensional codes), vq (plain), ema (running means), simvq (a frozen codebook
  times a learned matrix), fsq (rounded levels), lfq and bsq (bits), ibq (softmax over all codes), residual and product
  (several plain books: each codes what those before left, or a part of the numbers)."""
  codebook_size: int = 512
  """Codes (of each book); lfq and bsq: a power of two."""
  books: int = 1
  """residual, product: codes a position, a book each. The decoder keeps one token a position for all of them."""
  code_dim: int = 8
  """Numbers a code; lfq and bsq have one a bit, fsq one a level."""
  levels: tuple[int, ...] = (8, 8, 8)
  """fsq: levels a dimension; codebook_size must be their product."""
  commitment_weight: float = 0.25
  entropy_weight: float = 0.05
  """lfq, bsq, ibq: of (entropy of a position's code - entropy of the mean), nats."""
  gradient: Literal["straight_through", "rotation"] = "straight_through"
  """How all but fsq, lfq and ibq pass the decoder's gradient to the encoder: as it is, or turned with the angle between
  encoding and code (the rotation trick)."""
  decay: float = 0.99
  """Decay of the running code counts (and of ema's codebook)."""
  revive_below: float = 0.2
  """l2, vq, ema, residual, product: a code used less than this share of a uniform code's use is dead and moves. Less (0.05)
  where pictures are mostly alike (drawn on a plain ground) and rare codes hold what differs."""
  revive: Literal["far", "split"] = "far"
  """far: onto encodings far from any code; split: beside the most used codes."""
  revive_every: int = 20
  """Steps between revivals; 0 never."""


@dataclass(frozen=True)
class PictureLosses:
  """What the image tokenizer's pictures are held to, pixels in [-1, 1]; 0 leaves a loss out."""
  l1: float = 0.0
  """Weight of the mean absolute error."""
  l2: float = 1.0
  """Weight of the mean squared error."""
  edges: float = 0.0
  """Weight of the mean absolute error of the differences between neighbours, at several scales."""
  perceptual: float = 0.0
  """Weight of LPIPS (Zhang 2018), the difference of a trained network's features; needs perceptual_weights. With none,
  `edges` is what needs no download."""
  perceptual_weights: str = ""
  """Safetensors file with VGG16 and LPIPS' linear heads, as the lpips package makes it (unitok/interop/measures.py)."""
  adversarial: float = 0.0
  """Weight of a judge of patches that learns to tell the pictures from real ones (hinge loss), times a balance of the
  gradients at the last layer (VQGAN); 0: no judge."""
  judge_start: int = 20_000
  """Step from which it learns and counts."""
  judge_width: int = 64
  judge_layers: int = 3
  """Times it halves the picture; a judgement sees 70 pixels with 3, 34 with 2, 16 with 1."""
  judge_learning_rate: float = 1e-4
  lecam: float = 0.0
  """Weight of LeCAM, which holds the judge back where the pictures are few."""
  r1: float = 0.0
  """Weight of the squared gradient of the judgement of real pictures (Mescheder 2018)."""
  psnr_margin: float = 0.5
  """Held-out dB lost since `judge_start` that the log warns of."""


@dataclass(frozen=True)
class ImageCodes:
  """What every kind of image tokenizer is. Its `downsampling` are pixels a code in each direction."""


@dataclass(frozen=True)
class ImageTokenizer(ImageCodes):
  """VQ autoencoder."""
  network: str = "convnext"
  """A name in NETWORKS: convnext (fast on a CPU, for small pictures), vqgan (the field's residual blocks, with
  attention at the coarsest level) or vit (a transformer of patches, one level)."""
  widths: tuple[int, ...] = (64, 128)
  """Channels of each level, fine to coarse; every level after the first halves the grid. vit: one, its width."""
  blocks: tuple[int, ...] = (1, 2)
  """Residual blocks of each level. vit: one number, the layers of encoder and decoder each."""
  patch: int = 2
  """Space-to-depth at the input: pixels of side `patch` become channels. vit: the side of a place."""
  encoder_kernel: int = 3
  """convnext: side of the encoder's convolutions; 1 makes every code depend on its own pixels alone."""
  latent: int = 256
  """vqgan: channels between the convolutions and the codes."""
  quantizer: Quantizer = field(default_factory=Quantizer)
  losses: PictureLosses = field(default_factory=PictureLosses)
  train: Train = field(default_factory=Train)

  @property
  def downsampling(self) -> int:
    """Pixels a code in each direction."""
    return self.patch * 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class Pixels(ImageCodes):
  """Pixels as the colours of a palette (image GPT, Chen 2020): nothing is learned but the palette, by k-means."""
  colours: int = 512
  """Colours of the palette; fewer where the pixels have fewer, and the vocabulary then has no more."""
  scale: int = 1
  """Side of the squares of pixels whose mean colour is a code; 1: every pixel is one."""
  pixels: int = 100_000
  """Training pixels, after `scale`, that the palette is made from."""
  iterations: int = 30
  """Steps of k-means, at most; it ends where nothing moves."""

  @property
  def downsampling(self) -> int:
    return self.scale


@dataclass(frozen=True)
class Objectives:
  """How the objectives make their documents."""
  caption_drop: float = 0.1
  """Share of documents of text_to_image, infill and parallel without their caption (for guidance); of infill >= 0.3."""
  image_first: float = 0.5
  """pair: share of documents with the picture before the caption."""
  holes: dict[str, float] = field(default_factory=lambda: dict(rectangles=1.0, patches=0.0, halves=0.0))
  """infill: kind of hole -> its share. rectangles: one or two; patches: random squares; halves: all beyond a line."""
  hole_share: tuple[float, float] = (0.1, 0.9)
  """infill: least and greatest share of the picture that patches and halves mask. Rectangles do not heed it: their
  sides are a quarter to three quarters of the picture's."""
  questions: int = 1
  """question: a document has from one to so many questions of its record, the later behind the earlier."""
  blank_share: float = 0.15
  """glm_spans, glm_sentences: least share of a text's tokens that is blanked."""
  blank_length: float = 3.0
  """glm_spans: mean length of a blank, Poisson, cut to 1 .. 39."""
  least_groups: int = 4
  """parallel: a picture is drawn in so many groups at least, and in as many as it has codes at most."""
  raster_share: float = 0.1
  """parallel: share of documents whose order is the raster's; it is random in the others."""
  refine_window: int = 0
  """refine: a document is a random part of its picture, of so many rows and columns of codes, an even number; 0: all."""
  size_tokens: bool = False
  """The numbers of a picture's rows and columns stand before its codes."""
  row_ends: bool = False
  """A token ends every row of codes (Emu3, Lumina-mGPT), but in infill and parallel."""
  training_grid: int = 0
  """Positions of a picture with a longer side than so many codes are scaled down to it (2306.15595); 0: never."""


@dataclass(frozen=True)
class Decoder:
  """Decoder-only transformer over the one vocabulary."""
  layers: int = 4
  width: int = 256
  heads: int = 4
  kv_heads: int = 2
  hidden: int = 704
  """Width of the SwiGLU."""
  experts: int = 0
  """SwiGLUs of a layer, of which a router gives each token a few (mixture of experts); 0 or 1: the one that all go
  through."""
  experts_per_token: int = 2
  """How many of them."""
  expert_hidden: int = 0
  """Width of each; 0: `hidden`."""
  shared_expert: int = 0
  """Width of one more that all tokens go through; 0: none."""
  expert_capacity: float = 0.0
  """Tokens of a row that an expert takes at most, as a multiple of its even share; a training step lets later ones pass
  it by. From experts / experts_per_token on, and with 0 (no bound), none are."""
  balance_loss: float = 0.01
  """Weight of the loss that evens out the experts' work (Switch)."""
  balance_bias: float = 0.0
  """What a step adds to an expert's p, in choosing alone, where it has less work than the mean, or else takes away
  (DeepSeek-V3: 0.001, of p that are 1 / experts on average here); 0: never."""
  modality_experts: Literal["none", "mlp", "all"] = "none"
  """Weights of their own for the tokens of pictures: none; mlp: the SwiGLU; all: those of queries, keys, values and
  attention's output, too (CogVLM's visual expert, Mixture-of-Transformers)."""
  depth_hidden: int = 512
  """Width of the SwiGLU that predicts the further codes of a place, where it has several (quantizer.books)."""
  unroll: int = 1
  """Layers of the training step written out one after another: longer to compile, on a CPU up to 1.2 times faster."""
  remat: Literal["none", "layer", "dots", "offload"] = "none"
  """What a layer computes again in the backward pass, so that less is kept: none; layer: all of it; dots: all but its
  matrix products with weights; offload: the same, and those wait in the host's memory."""
  loss_chunk: int = 0
  """Tokens of a device whose logits are held at a time, computed again in the backward pass: for large vocabularies. 0:
  all of them, which is faster."""
  rope_base: float = 1_000.0
  grid_embedding: int = 64
  """Rows and columns of a picture that have a learned embedding, added to the rotary positions; 0: none."""
  attention: Literal["auto", "dense", "blocks", "fused"] = "auto"
  """dense: with the whole mask; blocks: by blocks of 128 tokens, what nobody sees passed over; fused: the same in a
  kernel for GPU and TPU; auto: dense in rows of less than 512 tokens (2,048 on GPU and TPU), else blocks or fused."""
  sequence_attention: Literal["ring", "ulysses"] = "ring"
  """Of rows whose tokens lie over several devices (mesh.sequence). ring: keys and values go round, by XLA's loops over
  blocks on every machine, whatever `attention` says; ulysses: each device has some heads of all tokens, of which there
  must be enough, and computes them as `attention` says."""
  norm: Literal["pre", "sandwich", "swin"] = "pre"
  """Where RMSNorm stands: pre: before attention and MLP; sandwich: before and after (CogView); swin: after, before the
  residual is added (Swin v2, Chameleon 34B)."""
  qk_norm: bool = True
  """RMSNorm of every head's queries and keys, so that attention logits cannot grow with their weights."""
  pb_relax: float = 1.0
  """CogView's precision-bottleneck relaxation: products of queries and keys so many times smaller (CogView: 32), taken
  back in float32; 1: none."""
  attention_softcap: float = 0.0
  """Attention logits s become c tanh(s / c) (Gemma 2: c = 50); 0: as they are."""
  logit_softcap: float = 0.0
  """The same of the logits over the vocabulary (Gemma 2: 30)."""
  dropout: float = 0.0
  """Share of the numbers of each layer's attention and MLP output that a training step drops (Chameleon 7B: 0.1)."""
  row_length: int = 256
  """Tokens of a packed training row."""
  z_loss: float = 1e-4
  """Weight of the mean squared log Z beside the mean nats of the targets; 0: none."""
  tasks: dict[str, float] = field(default_factory=lambda: dict(
      text_to_image=0.5, image_to_text=0.2, infill=0.25, text=0.05))
  """Objective -> share of the documents."""
  loss_weights: dict[str, float] = field(default_factory=lambda: dict(
      text_to_image=1.0, image_to_text=1.0, infill=1.0, text=1.0))
  """Objective -> weight of its targets in the loss (1 where not named): a caption has few beside a picture."""
  weigh_by: Literal["token", "document"] = "token"
  """token: every target counts its objective's weight; document: its targets share it, so that a short answer counts as
  much as a long caption or a picture (LWM, 2402.08268)."""
  objectives: Objectives = field(default_factory=Objectives)
  readers: int = 1
  """Parts that the documents are dealt out to, each packed by itself into its share of a batch's rows. The batches
  depend on it, not on the processes; of several processes each reads the parts of its own rows alone, so take a multiple
  of their number."""
  also: tuple[str, ...] = ()
  """Folders of other runs whose training codes are mixed in; encoded with this run's tokenizers (`--init.from`)."""
  temperature: float = 1.0
  """Of several sets: each gives documents in proportion to its records to the power of 1 / temperature; 1: by their
  number, larger: more evenly."""
  gradients_every: int = 0
  """Steps between measurements of each task's gradient norm and of the cosines between tasks (a step each for every
  task); 0: never."""
  watch_every: int = 0
  """Steps between measurements of what tells early that a training will diverge: the update's norm over the weights',
  and by kind of target the largest attention logit, log Z and the norm of the last layer's output (a forward pass
  more each time); 0: never."""
  train: Train = field(default_factory=Train)


@dataclass(frozen=True)
class Sampling:
  temperature: float = 1.0
  """0 takes the most likely id."""
  top_k: int = 0
  """0 keeps all."""
  top_p: float = 1.0
  min_p: float = 0.0
  """Ids less than so many times as likely as the likeliest are left out; 0 keeps all."""
  repetition_penalty: float = 1.0
  """Above 1 what was drawn before in the document is less likely to come again (CTRL); 1 is plain sampling."""
  guidance_scale: float = 1.0
  """u + s (c - u); 1 is plain sampling."""
  image_guidance_scale: float = 1.0
  """How much a filled picture keeps to what is kept of it, apart from its prompt (Chameleon); 1 is plain sampling."""
  guidance_schedule: str = "constant"
  """constant, or how both scales grow from 1 while a picture is drawn: linear, cosine."""
  guidance_interval: tuple[float, float] = (0.0, 1.0)
  """From which share of the drawing on there is guidance, and up to which."""
  strategy: str = ""
  """sequential: code by code; jacobi: the same sample in fewer, larger passes; groups: `passes` groups of codes; maskgit:
  the same number of passes, of which each keeps the codes it is surest of; rows: several rows of a picture go on at once. "":
  groups where there are passes, else sequential."""
  window: int = 0
  """Codes that jacobi computes in a pass; 0: 16. For sequential the shape of the program alone; 0: 1."""
  guesses: str = "above"
  """What jacobi first guesses for a code of a picture: the one above or left of it; later what the last pass drew."""
  group_sizes: str = "cosine"
  """Of parallel groups and of what maskgit keeps: cosine, small ones first, or uniform."""
  group_order: str = "random"
  """Of a picture's places in parallel groups: random, raster, halton (even at any time) or locality (near what is known,
  those of a group apart)."""
  passes: int = 0
  """Pictures are drawn in so many groups of codes (needs the objective parallel); 0: code by code."""
  choice_temperature: float = 4.5
  """Of the Gumbel noise that maskgit adds to how sure it is of a code; it falls to 0 with the passes (2202.04200)."""
  row_window: int = 0
  """Places of a row, from the one above on, behind which rows draws a place of the row below; 0: half the width."""
  text_attention: float = 0.0
  """Added to the attention scores of text tokens while a picture is drawn (CogView2: 1.4); 0 is plain sampling."""


GREEDY = Sampling(temperature=0.0)
"""The likeliest id each time: what text is drawn with unless the caller says."""


@dataclass(frozen=True)
class Evaluation:
  examples: int = 1_000
  """Cases of each accuracy."""
  minutes: float = 1.5
  """Time kept for it where the config's `minutes` limit the run."""
  batch_size: int = 250
  show: int = 24
  """Pictures of each kind in the report."""
  lpips: str = ""
  """Safetensors file with LPIPS' weights, as for losses.perceptual_weights; "": LPIPS is not measured."""
  inception: str = ""
  """Safetensors file with pytorch-fid's Inception-v3 (unitok/interop/measures.py); "": rFID is not measured."""
  split: Literal["val", "heldout", "train"] = "val"
  """Split that `--what image_tokenizer` measures on; train is fair to a tokenizer that learned from other pictures."""
  prompts: tuple[str, ...] = ()
  """Prompts drawn every `sample_every` steps and in the report; empty takes the first eight of the evaluation split."""


@dataclass(frozen=True)
class Init:
  """Start from another run's weights."""
  source: str = ""
  """Folder of the run whose decoder and tokenizers to start from ("" starts from nothing); written `--init.from`."""
  frozen: tuple[str, ...] = ()
  """Regular expressions of parameter paths that stay as they are."""


@dataclass(frozen=True)
class Mesh:
  """Named axes of the device mesh; -1 takes what is left."""
  data: int = -1
  """Rows of a batch; every device has all weights."""
  fsdp: int = 1
  """Rows of a batch, and the weights with the optimizer's state (ZeRO-3)."""
  tensor: int = 1
  """Heads, the MLPs' width and the vocabulary."""
  expert: int = 1
  """Rows of a batch, and the decoder's experts."""
  sequence: int = 1
  """Tokens of a row."""
  zero1: bool = False
  """The optimizer's state lies over `data`, too, with the weights as they are (ZeRO-1)."""
  offload: bool = False
  """The optimizer's state waits in the host's memory and comes to the devices for its update alone (ZeRO-Offload)."""
  device_gb: float = 0.0
  """Memory of a device that a training may take, GB of 10^9 bytes: one that needs more ends before its first step, with
  the largest batch that fits. 0: what the device has; on a CPU the machine's, shared by its devices."""


@dataclass(frozen=True)
class Config:
  name: str = "run"
  seed: int = 0
  minutes: float = 0.0
  """Time for `train.pipeline`, 0: no limit. Where the decoder's steps would take longer than is left for them, they are
  cut to what fits at the speed of the first; the run's steps.json keeps their number."""
  data: Data = field(default_factory=Scenes)
  text: Text = field(default_factory=Text)
  image_tokenizer: ImageCodes = field(default_factory=ImageTokenizer)
  decoder: Decoder = field(default_factory=Decoder)
  sampling: Sampling = field(default_factory=Sampling)
  evaluation: Evaluation = field(default_factory=Evaluation)
  init: Init = field(default_factory=Init)
  mesh: Mesh = field(default_factory=Mesh)
  compute_dtype: Literal["auto", "float32", "bfloat16", "mixed"] = "auto"
  """mixed: float32, with bfloat16 factors in matrix products. auto: bfloat16 on GPU and TPU, on a CPU mixed where it
  has bfloat16 matrix units (AMX), else float32. The image tokenizer is float32 on a CPU: mixed it learned less."""
  tensorboard: bool = False
  """Also write TensorBoard events, curves and pictures (needs tensorboardX)."""
  wandb: bool = False
  """Also log to Weights & Biases (needs wandb)."""


def check_size(size: tuple[int, ...], side: int, field: str, unit: str):
  """ValueError naming the field unless `size` is a height and a width in pixels, whole multiples of `side` (`unit`)."""
  if len(size) != 2 or min(size) < 1 or any(pixels % side for pixels in size):
    raise ValueError(f"{field}: {' x '.join(map(str, size))} must be a height and a width, multiples of {unit}")


def check_train(train: Train, field: str):
  """ValueError naming the field unless each number of steps, of parts and of checkpoints is one."""
  for name in ("steps", "accumulate", "log_every", "save_every", "sample_every", "keep_last"):
    if getattr(train, name) < 1:
      never = f"; for never, give more than {field}.steps" if name.endswith("_every") else ""
      raise ValueError(f"{field}.{name}: {getattr(train, name)} must be 1 or more{never}")
  if train.keep_every < 0:
    raise ValueError(f"{field}.keep_every: {train.keep_every} must be a number of steps, or 0 for none")
  if train.skip_at_most < 0:
    raise ValueError(f"{field}.skip_at_most: {train.skip_at_most} must be 0 or more steps")
  if not 0 <= train.spike_deviations < float("inf"):
    raise ValueError(f"{field}.spike_deviations: {train.spike_deviations} must be a number from 0 on")
  if train.spike_window < 2:
    raise ValueError(f"{field}.spike_window: {train.spike_window} must be 2 or more steps")


DATA: dict[str, type[Data]] = {"scenes": Scenes, "imagefolder": ImageFolder, "tfds": Tfds,
                              "webdataset": WebDataset}
IMAGE_TOKENIZERS: dict[str, type[ImageCodes]] = {"vq": ImageTokenizer, "pixels": Pixels}


def load(path: str) -> Config:
  """The Config that `get_config()` of a Python file returns. ValueError names what is missing."""
  file = Path(path)
  if not file.is_file():
    raise ValueError(f"config {path}: no such file; give a Python file with get_config(), e.g. configs/scenes_demo.py")
  spec = importlib.util.spec_from_file_location("unitok_config_file", file)
  if spec is None:
    raise ValueError(f"config {path}: not a Python file; its name must end in .py")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config() if hasattr(module, "get_config") else None
  except Exception as error:   # a field that does not exist, or a slip: of any kind, the file is Python
    said = f"{type(error).__name__}: {error}"
    raise ValueError(f"config {path}: {said}; mend the file (unitok/config.py has the fields)") from error
  if not hasattr(module, "get_config"):
    raise ValueError(f"config {path}: no function get_config(); add one that returns unitok.config.Config")
  if not isinstance(config, Config):
    raise ValueError(f"config {path}: get_config() returned {type(config).__name__}, not unitok.config.Config")
  _check_types(config, f"config {path}: ")
  return config


def _check_types(value: Any, where: str) -> None:
  """ValueError for the first field whose value is not of its type (a config file is Python and says what it likes)."""
  for name, kind in typing.get_type_hints(type(value)).items():
    one = getattr(value, name)
    if not _fits(one, kind):
      legal = f"one of {', '.join(typing.get_args(kind))}" if typing.get_origin(kind) is Literal else kind
      raise ValueError(f"{where}{name} is {one!r}, must be {legal.__name__ if isinstance(legal, type) else legal}")
    if dataclasses.is_dataclass(one):
      _check_types(one, f"{where}{name}.")


def _fits(one: Any, kind: Any) -> bool:
  """Is it of this type, and what is in a tuple or dict of the types named there? A whole number does for a float."""
  origin, inside = typing.get_origin(kind), typing.get_args(kind)
  if origin is Literal:
    return one in inside
  wanted = (int, float) if kind is float else origin or kind
  if not isinstance(one, wanted) or isinstance(one, bool) and kind is not bool:
    return False
  if origin is dict:
    return all(_fits(part, of) for item in one.items() for part, of in zip(item, inside))
  if origin is tuple:
    inside = inside[:1] * len(one) if inside[-1] is ... else inside
    return len(one) == len(inside) and all(map(_fits, one, inside))
  return True


def override(config: Config, arguments: list[str]) -> Config:
  """`["--data.path", "X", …]` applied to a config. ValueError names the field, the problem and the legal form."""
  import contextlib
  import io
  import re
  import tyro  # only where a command line is parsed
  names = dict(flat(config))
  for name, value in flat(config):
    names |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {}
  for argument in arguments:
    if not argument.startswith("--"):
      continue
    name = argument[2:].split("=")[0].replace("-", "_")
    name = "init.source" if name == "init.from" else name
    head = re.sub(r"(^|\.)no_(\w+)$", r"\1\2", name)
    known = {name, head} & names.keys() or any(n.startswith(name + ".") for n in names)
    if not known and name != "help":
      close = difflib.get_close_matches(name, names, 1, 0.5)
      hint = f"did you mean --{close[0]}?" if close else "`--help` lists the fields"
      raise ValueError(f"--{name}: no such config field; {hint}")
  arguments = [re.sub(r"^--init\.from\b", "--init.source", a) for a in arguments]
  stderr = io.StringIO()
  try:
    with contextlib.redirect_stderr(stderr):
      return tyro.cli(Config, default=config, args=arguments)
  except SystemExit as stop:
    if not stop.code:
      raise
    text = " ".join(re.sub(r"[^\x20-\x7e]", " ", stderr.getvalue()).split())
    raise ValueError(f"command line: {text}") from None


def flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
  """(dotted name, leaf) of every field, depth first."""
  if dataclasses.is_dataclass(value):
    return [leaf for f in dataclasses.fields(value)
            for leaf in flat(getattr(value, f.name), f"{prefix}{f.name}.")]
  return [(prefix.rstrip("."), value)]


def to_json(config: Config) -> dict:
  """Plain JSON of a config; `from_json` is its inverse."""
  out = dataclasses.asdict(config)
  return {**out, "data": {**out["data"], "source": source_name(config.data)},
          "image_tokenizer": {"kind": kind_name(config.image_tokenizer), **out["image_tokenizer"]}}


def source_name(data: Data) -> str:
  return next(name for name, cls in DATA.items() if type(data) is cls)


def kind_name(options: ImageCodes) -> str:
  return next(name for name, cls in IMAGE_TOKENIZERS.items() if type(options) is cls)


def from_json(value: dict) -> Config:
  """Inverse of `to_json`; ValueError for a field this version does not know, or a value not of its type."""
  value = json.loads(json.dumps(value))
  source, kind = value["data"].pop("source", None), value.get("image_tokenizer", {}).pop("kind", "vq")   # old runs': vq
  for name, one, legal in (("data.source", source, DATA), ("image_tokenizer.kind", kind, IMAGE_TOKENIZERS)):
    if one not in legal:
      raise ValueError(f"config: {name} is {one!r}, must be one of {', '.join(legal)}")
  config = _build(Config, value, "", {"data": DATA[source], "image_tokenizer": IMAGE_TOKENIZERS[kind]})
  _check_types(config, "config: ")
  return config


def _build(cls: type, value: dict, where: str, chosen: dict[str, type]):
  """A dataclass from plain JSON, tuples restored."""
  hints, fields = typing.get_type_hints(cls), {f.name for f in dataclasses.fields(cls)}
  for name in value:
    if name not in fields:
      raise ValueError(f"config: no field {where}{name}; legal: {', '.join(sorted(fields))}")
  def one(name, v):
    kind = chosen.get(where + name, hints[name])
    if dataclasses.is_dataclass(kind):
      return _build(kind, v, f"{where}{name}.", chosen)
    return _tuples(v) if typing.get_origin(kind) is tuple else v
  return cls(**{name: one(name, v) for name, v in value.items()})


def _tuples(value: Any) -> Any:
  """[[48, 96]] -> ((48, 96),)."""
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


FREE = ("evaluation.", "sampling.", "mesh.", "compute_dtype", "tensorboard", "wandb", "log_every", "save_every",
        "sample_every", "keep_last", "keep_every", "on_bad", "skip_at_most", "accumulate", "remat", "loss_chunk",
        "unroll", "attention", "sequence_attention", "watch_every")
"""Fields (by first or last name) that may differ between two commands on one workdir: they change nothing made."""


def difference(old: Config, new: Config) -> str | None:
  """The first field in which two configs would make different things: "name: old -> new"."""
  before, after = ({"data.source": source_name(x.data), "image_tokenizer.kind": kind_name(x.image_tokenizer),
                    **dict(flat(x))} for x in (old, new))
  for name in {**before, **after}:
    free = name.split(".")[0] + "." in FREE or name.split(".")[-1] in FREE
    if not free and before.get(name) != after.get(name):
      return f"{name}: {before.get(name)!r} -> {after.get(name)!r}"
  return None
