"""Chameleon 34B (2405.09818): its shapes, vocabulary, context, batch and optimizer.

    python -m train.pipeline --config configs/chameleon_34b.py --workdir runs/chameleon_34b --data.path SHARDS

Norms behind attention and MLP, 8 heads of keys and values, no dropout, z-loss 1e-5, batches of 12.6 million tokens, 4.4
10^12 of them. Not run here. Its plan:

    unitok plan --config configs/chameleon_34b.py --mesh data=8,fsdp=128 --chip v5p

34,293,436,416 parameters, 212 GFLOP a token (both passes, rows causal), 1,244,356 EFLOP in all. A chip of the 1,024
holds 32.3 GB: weights 1.07 GB, optimizer 2.14 GB, running mean 1.07 GB, and 28 GB that a step makes; the largest batch
that fits is 12,288 rows of 4,096, this one has 3,072. It sends 0.908 GB over data, 6.44 GB over data and fsdp, 201 GB
over fsdp a step. A step takes 7,574 ms at least (7,574 of products, 23 of memory, 1,042 of communication), 75% of the
peak, and 8,639 ms (66%) where nothing hides behind anything else: 30.6 days to 35.0 days for 4,398 billion tokens.

The compiler behind it is a CPU's, so GPU and TPU order and fuse some of it otherwise. The data is not published: name
tar shards of pictures and texts as img2dataset writes them.
"""
from unitok.config import Config, Decoder, ImageTokenizer, Mesh, Objectives, Quantizer, Text, Train, WebDataset


def get_config() -> Config:
  return Config(
      name="chameleon_34b",
      data=WebDataset(path="data/shards", image_size=512, resize="crop", val_share=0.001, on_bad="skip"),
      text=Text(vocab_size=57_280, max_captions=1_000_000),
      image_tokenizer=ImageTokenizer(
          network="vqgan", widths=(128, 128, 256, 256, 512), blocks=(2, 2, 2, 2, 2), patch=1, latent=256,
          quantizer=Quantizer(kind="vq", codebook_size=8_192, code_dim=256),
          train=Train(steps=200_000, batch_size=256, learning_rate=1e-4, weight_decay=0.0, ema_decay=0.999,
                      log_every=100, save_every=5_000, sample_every=5_000)),
      decoder=Decoder(
          layers=48, width=8_192, heads=64, kv_heads=8, hidden=22_016, row_length=4_096,
          rope_base=10_000.0, grid_embedding=0, norm="swin", z_loss=1e-5, remat="layer", loss_chunk=1_024,
          tasks=dict(pair=0.4, text=0.6), loss_weights={}, objectives=Objectives(image_first=0.5),
          readers=256, watch_every=100,
          train=Train(steps=349_525, batch_size=3_072, learning_rate=1e-4, warmup_steps=4_000, weight_decay=0.1,
                      beta1=0.9, beta2=0.95, clip=1.0, ema_decay=0.9999, log_every=100, save_every=2_000,
                      sample_every=10_000, keep_every=50_000)),
      mesh=Mesh(data=1, fsdp=-1),
  )
