"""The peers of `tests.benchmarks.train_step` in PyTorch: transformers' Emu3ForCausalLM, and a plain GPT."""
import contextlib
import os
import platform

import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers import Emu3ForCausalLM, Emu3TextConfig

from tests.benchmarks.train_step_side import BETAS, CLIP, DECAY, RATE, WARMUP, Shape, tokens_of


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

  def forward(self, x, cos, sin):
    b, n, w = x.shape
    qkv = self.qkv(self.attention_norm(x)).view(b, n, -1, self.dim).transpose(1, 2)
    q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 1)
    each = self.heads // self.kv_heads      # written out: with enable_gqa the CPU has no fused kernel
    k, v = (rotated(k, cos, sin).repeat_interleave(each, 1), v.repeat_interleave(each, 1))
    attended = F.scaled_dot_product_attention(rotated(q, cos, sin), k, v, is_causal=True)
    x = x + self.out(attended.transpose(1, 2).reshape(b, n, w))
    gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
    return x + self.down(F.silu(gate) * up)


def rotated(x, cos, sin):
  a, b = x.chunk(2, -1)
  return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class GPT(nn.Module):
  def __init__(self, shape: Shape):
    super().__init__()
    self.embed = nn.Embedding(shape.vocabulary, shape.width)
    self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
    self.norm, self.head = nn.RMSNorm(shape.width), nn.Linear(shape.width, shape.vocabulary, bias=False)
    pairs = shape.width // shape.heads // 2
    angle = torch.arange(shape.length)[:, None] * 10_000.0 ** (-torch.arange(pairs) / pairs)
    self.register_buffer("cos", angle.cos(), persistent=False)
    self.register_buffer("sin", angle.sin(), persistent=False)
    for weight in self.parameters():
      if weight.ndim > 1:
        nn.init.normal_(weight, std=0.02)

  def forward(self, ids):
    x = self.embed(ids)
    for layer in self.layers:
      x = layer(x, self.cos, self.sin)
    return self.head(self.norm(x))


class Emu3(nn.Module):
  """transformers' own, with scaled_dot_product_attention, its default."""

  def __init__(self, shape: Shape):
    super().__init__()
    self.model = Emu3ForCausalLM(Emu3TextConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.length, attention_dropout=0.0, use_cache=False, pad_token_id=0, bos_token_id=1,
        eos_token_id=2))

  def forward(self, ids):
    return self.model(input_ids=ids, use_cache=False).logits


NETWORKS = {"gpt": GPT, "emu3": Emu3}
MODES = {"eager": lambda function: function, "compile": torch.compile}


class Peer:
  """A network's training step: dense next-token loss in float32, clipping, fused AdamW with ours' numbers.

  bfloat16 is autocast: weights, their gradients and the optimizer stay float32.
  """

  def __init__(self, shape: Shape, network: str, mode: str, dtype: str = "float32"):
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    self.model = NETWORKS[network](shape).train()
    self.weights = list(self.model.parameters())
    self.parameters = sum(weight.numel() for weight in self.weights)
    decayed = lambda yes: [weight for weight in self.weights if (weight.ndim > 1) == yes]
    self.optimizer = torch.optim.AdamW([dict(params=decayed(True), weight_decay=DECAY), dict(params=decayed(False),
                                        weight_decay=0.0)], lr=RATE, betas=BETAS, fused=True)
    ids = torch.from_numpy(tokens_of(shape)).long()
    self.inputs, self.targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    self.cast = (lambda: torch.autocast("cpu", torch.bfloat16)) if dtype == "bfloat16" else contextlib.nullcontext
    self.loss, self.taken = MODES[mode](self.loss_of), 0
    self.versions = {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__}

  def loss_of(self, inputs, targets):
    return F.cross_entropy(self.model(inputs).float().flatten(0, 1), targets.flatten())

  def step(self) -> float:
    for group in self.optimizer.param_groups:
      group["lr"] = RATE * min(self.taken / WARMUP, 1.0)
    self.optimizer.zero_grad()
    with self.cast():
      loss = self.loss(self.inputs, self.targets)
    loss.backward()
    nn.utils.clip_grad_norm_(self.weights, CLIP)
    self.optimizer.step()
    self.taken += 1
    return loss.item()
