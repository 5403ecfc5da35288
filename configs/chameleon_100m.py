"""Chameleon's design (2405.09818) at 100 million parameters, for trials of it.

    python -m train.pipeline --config configs/chameleon_100m.py --workdir runs/chameleon_100m --data.path SHARDS

The vocabulary is a quarter of Chameleon's, or its two tables would outweigh the layers. Not run here. Its plan:

    unitok plan --config configs/chameleon_100m.py --mesh data=8 --chip h100

110,121,216 parameters, 0.812 GFLOP a token (both passes, rows causal), 10 EFLOP in all. A chip of the 8 holds 20.7 GB:
weights 0.44 GB, optimizer 0.881 GB, running mean 0.44 GB, and 18.9 GB that a step makes; the largest batch that fits is
544 rows of 4,096, this one has 128. It sends 0.43 GB over data a step. A step takes 60 ms at least (60 of products, 12
of memory, 1 of communication), 89% of the peak, and 74 ms (73%) where nothing hides behind anything else: 0.3 hours to
0.4 hours for 10 billion tokens.

The compiler behind it is a CPU's, so GPU and TPU order and fuse some of it otherwise. The data is not published: name
tar shards of pictures and texts as img2dataset writes them.
"""
from unitok.config import Config, Decoder, ImageTokenizer, Mesh, Objectives, Quantizer, Text, Train, WebDataset


def get_config() -> Config:
  return Config(
      name="chameleon_100m",
      data=WebDataset(path="data/shards", image_size=512, resize="crop", val_share=0.001, on_bad="skip"),
      text=Text(vocab_size=8_128, max_captions=1_000_000),
      image_tokenizer=ImageTokenizer(
          network="vqgan", widths=(128, 128, 256, 256, 512), blocks=(2, 2, 2, 2, 2), patch=1, latent=256,
          quantizer=Quantizer(kind="vq", codebook_size=8_192, code_dim=256),
          train=Train(steps=200_000, batch_size=256, learning_rate=1e-4, weight_decay=0.0, ema_decay=0.999,
                      log_every=100, save_every=5_000, sample_every=5_000)),
      decoder=Decoder(
          layers=12, width=768, heads=12, kv_heads=12, hidden=2_048, row_length=4_096,
          rope_base=10_000.0, grid_embedding=0, z_loss=1e-5, remat="dots", loss_chunk=1_024,
          tasks=dict(pair=0.4, text=0.6), loss_weights={}, objectives=Objectives(image_first=0.5),
          readers=8, watch_every=100,
          train=Train(steps=20_000, batch_size=128, learning_rate=6e-4, warmup_steps=4_000, weight_decay=0.1,
                      beta1=0.9, beta2=0.95, clip=1.0, ema_decay=0.9999, log_every=100, save_every=2_000,
                      sample_every=10_000, keep_every=50_000)),
      mesh=Mesh(data=1, fsdp=-1),
  )
