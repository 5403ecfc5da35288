"""Chameleon 7B (2405.09818): its shapes, vocabulary, context, batch and optimizer.

    python -m train.pipeline --config configs/chameleon_7b.py --workdir runs/chameleon_7b --data.path SHARDS

QK-norm, dropout 0.1, z-loss 1e-5, batches of 8.4 million tokens, 4.4 10^12 of them. Not run here. Its plan:

    unitok plan --config configs/chameleon_7b.py --mesh data=8,fsdp=32,tensor=4 --chip v5p

7,013,150,720 parameters, 43.7 GFLOP a token (both passes, rows causal), 243,502 EFLOP in all. A chip of the 1,024 holds
21.2 GB: weights 0.219 GB, optimizer 0.438 GB, running mean 0.219 GB, and 20.4 GB that a step makes; the largest batch
that fits is 9,728 rows of 4,096, this one has 2,048. It sends 0.278 GB over data, 0.834 GB over data and fsdp, 9.67 GB
over fsdp, 65 GB over tensor a step. A step takes 988 ms at least (988 of products, 15 of memory, 379 of
communication), 79% of the peak, and 1,383 ms (56%) where nothing hides behind anything else: 6.0 days to 8.4 days for
4,398 billion tokens.

The compiler behind it is a CPU's, so GPU and TPU order and fuse some of it otherwise. The data is not published: name
tar shards of pictures and texts as img2dataset writes them.
"""
from unitok.config import Config, Decoder, ImageTokenizer, Mesh, Objectives, Quantizer, Text, Train, WebDataset


def get_config() -> Config:
  return Config(
      name="chameleon_7b",
      data=WebDataset(path="data/shards", image_size=512, resize="crop", val_share=0.001, on_bad="skip"),
      text=Text(vocab_size=57_280, max_captions=1_000_000),
      image_tokenizer=ImageTokenizer(
          network="vqgan", widths=(128, 128, 256, 256, 512), blocks=(2, 2, 2, 2, 2), patch=1, latent=256,
          quantizer=Quantizer(kind="vq", codebook_size=8_192, code_dim=256),
          train=Train(steps=200_000, batch_size=256, learning_rate=1e-4, weight_decay=0.0, ema_decay=0.999,
                      log_every=100, save_every=5_000, sample_every=5_000)),
      decoder=Decoder(
          layers=32, width=4_096, heads=32, kv_heads=32, hidden=11_008, row_length=4_096,
          rope_base=10_000.0, grid_embedding=0, dropout=0.1, z_loss=1e-5, remat="layer", loss_chunk=1_024,
          tasks=dict(pair=0.4, text=0.6), loss_weights={}, objectives=Objectives(image_first=0.5),
          readers=256, watch_every=100,
          train=Train(steps=524_288, batch_size=2_048, learning_rate=1e-4, warmup_steps=4_000, weight_decay=0.1,
                      beta1=0.9, beta2=0.95, clip=1.0, ema_decay=0.9999, log_every=100, save_every=2_000,
                      sample_every=10_000, keep_every=50_000)),
      mesh=Mesh(data=1, fsdp=-1),
  )
