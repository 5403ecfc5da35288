"""The peers of `tests.benchmarks.sampling` in PyTorch: transformers' `generate`, and a cached loop."""
import os
import platform

import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers import Emu3ForCausalLM, Emu3TextConfig, JanusConfig, JanusForConditionalGeneration
from transformers import JanusVisionConfig, JanusVQVAEConfig, LlamaConfig, LogitsProcessor, LogitsProcessorList

from tests.benchmarks.sampling_side import CONTROLS, GUIDANCE, IMAGE, TEXT, Shape, Work
from tests.benchmarks.train_step_torch import rotated

FIRST = CONTROLS + TEXT
"""The first code's id; ids 0 .. 3 are padding, begin, end, and begin of a picture."""


def prompts(work: Work) -> torch.Tensor:
  """i64[2 b n]: those asked for, then as many without their text; same lengths, so that nothing is padded."""
  words = CONTROLS + torch.arange(work.prompt - 2) % TEXT
  row = lambda middle: torch.cat([torch.tensor([1]), middle, torch.tensor([3])])
  return torch.stack([row(words)] * work.batch + [row(torch.zeros_like(words))] * work.batch)


def drawn(logits):
  """i64[b] from the guided f32[b k], at temperature 1: the largest of probabilities over exponential noise."""
  given, less = logits.chunk(2)
  share = torch.softmax(less + GUIDANCE * (given - less), -1)
  return (share / torch.empty_like(share).exponential_()).argmax(-1)


class Both(LogitsProcessor):
  """Guidance of a doubled batch, both halves of which get the same code: what is drawn has the only finite score."""

  def __call__(self, input_ids, scores):
    out = torch.full_like(scores, -torch.inf)
    return out.scatter_(1, FIRST + drawn(scores[:, FIRST:]).repeat(2)[:, None], 0.0)


class Emu3:
  """Emu3ForCausalLM.generate, with a doubled batch, or with guidance as it has it: a second pass for each token."""

  def __init__(self, shape: Shape, unbatched: bool = False):
    self.unbatched = unbatched
    self.model = Emu3ForCausalLM(Emu3TextConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2_048, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()

  def draw(self, work: Work):
    ids = prompts(work)
    length = dict(min_new_tokens=work.tokens, max_new_tokens=work.tokens)
    if self.unbatched:
      given, less = ids.chunk(2)
      out = self.model.generate(given, do_sample=True, top_k=0, guidance_scale=GUIDANCE, negative_prompt_ids=less,
                                negative_prompt_attention_mask=torch.ones_like(less), attention_mask=torch.ones_like(given),
                                **length)
    else:
      out = self.model.generate(ids, do_sample=False, logits_processor=LogitsProcessorList([Both()]),
                                attention_mask=torch.ones_like(ids), **length)
    return out[:work.batch, work.prompt:]


class Janus:
  """JanusForConditionalGeneration.generate of pictures: a doubled batch, its own static cache and head."""

  def __init__(self, shape: Shape):
    text = LlamaConfig(vocab_size=FIRST, hidden_size=shape.width, intermediate_size=shape.hidden, rms_norm_eps=1e-6,
                       num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
                       num_key_value_heads=shape.kv_heads, max_position_embeddings=2_048, pad_token_id=0, bos_token_id=1,
                       eos_token_id=2)
    vision = JanusVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=16,
                               projection_dim=shape.width)
    codes = JanusVQVAEConfig(num_embeddings=IMAGE, base_channels=32, channel_multiplier=[1, 1], num_res_blocks=1,
                             latent_channels=32, projection_dim=shape.width, image_token_embed_dim=shape.width)
    self.model = JanusForConditionalGeneration(JanusConfig(text_config=text, vision_config=vision, vq_config=codes)).eval()
    self.model.generation_config.generation_kwargs = {"boi_token_id": 3}

  def draw(self, work: Work):
    self.model.model.vision_model.config.num_image_tokens = work.tokens
    ids = prompts(work)[:work.batch]
    return FIRST + self.model.generate(ids, generation_mode="image", do_sample=True, top_k=0, guidance_scale=GUIDANCE,
                                       max_length=work.prompt + work.tokens, attention_mask=torch.ones_like(ids),
                                       pad_token_id=0, bos_token_id=1)


class Layer(nn.Module):
  """RMSNorm before attention and SwiGLU; queries, keys and values are one product, so are gate and up."""

  def __init__(self, shape: Shape):
    super().__init__()
    self.heads, self.kv_heads, self.dim = shape.heads, shape.kv_heads, shape.width // shape.heads
    linear = lambda into, out: nn.Linear(into, out, bias=False)
    self.attention_norm, self.mlp_norm = nn.RMSNorm(shape.width), nn.RMSNorm(shape.width)
    self.qkv = linear(shape.width, (self.heads + 2 * self.kv_heads) * self.dim)
    self.out, self.gate_up = linear(shape.width, shape.width), linear(shape.width, 2 * shape.hidden)
    self.down = linear(shape.hidden, shape.width)

  def forward(self, x, cos, sin, keys, values, at, mask):
    """x [b n w] at slots `at` i64[n]; mask bool[n slots], or None where the queries see all of the keys given."""
    b, n, w = x.shape
    qkv = self.qkv(self.attention_norm(x)).view(b, n, -1, self.dim).transpose(1, 2)
    q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 1)
    keys.index_copy_(2, at, rotated(k, cos, sin))
    values.index_copy_(2, at, v)
    # heads of one key's as rows of one query: the CPU's fused kernel knows no groups
    q = rotated(q, cos, sin).reshape(b, self.kv_heads, -1, self.dim)
    if mask is None:
      end = int(at[-1]) + 1
      attended = F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end])
    else:
      attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask.repeat(self.heads // self.kv_heads, 1))
    x = x + self.out(attended.reshape(b, self.heads, n, self.dim).transpose(1, 2).reshape(b, n, w))
    gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
    return x + self.down(F.silu(gate) * up)


class Loop(nn.Module):
  """A GPT with a static cache; a token is one call for both halves of the batch, its head the picture's rows alone.

  eager sees the keys so far, without a mask; compile and frozen (weights packed by inductor) see all slots by a mask.
  """

  def __init__(self, shape: Shape, mode: str):
    super().__init__()
    self.shape, self.mode = shape, mode
    self.embed = nn.Embedding(shape.vocabulary, shape.width)
    self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
    self.norm, self.head = nn.RMSNorm(shape.width), nn.Linear(shape.width, shape.vocabulary, bias=False)
    pairs = shape.width // shape.heads // 2
    angle = torch.arange(2_048)[:, None] * 10_000.0 ** (-torch.arange(pairs) / pairs)
    self.register_buffer("cos", angle.cos(), persistent=False)
    self.register_buffer("sin", angle.sin(), persistent=False)
    for weight in self.parameters():
      if weight.ndim > 1:
        nn.init.normal_(weight, std=0.02)
    self.image = self.head.weight.detach()[FIRST:]
    self.caches, self.token = {}, self.one
    if mode != "eager":
      torch._inductor.config.freezing = mode == "frozen"
      torch._dynamo.config.cache_size_limit = 64
      self.token = torch.compile(self.one, dynamic=False)

  def logits(self, ids, at, mask, caches):
    """f32[b k] behind the last of ids i64[b n]."""
    x, (cos, sin) = self.embed(ids), (self.cos[at], self.sin[at])
    for layer, (keys, values) in zip(self.layers, caches):
      x = layer(x, cos, sin, keys, values, at, mask)
    return F.linear(self.norm(x[:, -1]), self.image)

  def one(self, codes, at, caches):
    """The next codes i64[b]."""
    mask = None if self.mode == "eager" else torch.arange(caches[0][0].shape[2])[None] <= at[:, None]
    return drawn(self.logits((FIRST + codes.repeat(2))[:, None], at, mask, caches))

  def draw(self, work: Work):
    if work not in self.caches:
      s, slots = self.shape, work.prompt + work.tokens
      zeros = lambda: torch.zeros(2 * work.batch, s.kv_heads, slots, s.width // s.heads)
      self.caches = {work: [(zeros(), zeros()) for _ in range(s.layers)]}
    caches, at = self.caches[work], torch.arange(work.prompt)
    slots = torch.arange(work.prompt + work.tokens)
    codes = drawn(self.logits(prompts(work), at, slots[None] <= at[:, None], caches))
    out = [codes]
    for n in range(work.prompt, work.prompt + work.tokens - 1):
      codes = self.token(codes, slots[n:n + 1], caches)
      out.append(codes)
    return FIRST + torch.stack(out, 1)


PEERS = {"emu3": Emu3, "emu3 unbatched": lambda shape: Emu3(shape, unbatched=True), "janus": Janus,
         **{f"loop {mode}": lambda shape, mode=mode: Loop(shape, mode) for mode in ("eager", "compile", "frozen")}}


class Peer:
  """A name in PEERS, and behind it " 1" for one thread: small products of many are slower than of one."""

  def __init__(self, shape: Shape, side: str):
    torch.manual_seed(0)
    name = side.removesuffix(" 1")
    torch.set_num_threads(1 if name != side else len(os.sched_getaffinity(0)))
    self.network = PEERS[name](shape)
    model = getattr(self.network, "model", self.network)
    layers = getattr(model, "model", model)      # Janus has a tokenizer of pictures, too
    layers = getattr(layers, "language_model", layers).layers
    self.parameters = sum(weight.numel() for weight in layers.parameters())
    self.versions = {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__}

  @torch.inference_mode()
  def draw(self, work: Work) -> float:
    ids = self.network.draw(work)
    assert ids.shape == (work.batch, work.tokens), ids.shape
    return 0.0
