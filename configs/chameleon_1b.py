"""Chameleon's design (2405.09818) at a billion parameters.

    python -m train.pipeline --config configs/chameleon_1b.py --workdir runs/chameleon_1b --data.path SHARDS

The vocabulary is Chameleon's, 65,536 ids; width, layers and batch lie between its sizes and the smallest. Not run here.
Its plan:

    unitok plan --config configs/chameleon_1b.py --mesh data=8,fsdp=8 --chip h100

1,090,590,720 parameters, 6.54 GFLOP a token (both passes, rows causal), 876 EFLOP in all. A chip of the 64 holds 15.7
GB: weights 0.545 GB, optimizer 1.09 GB, running mean 0.545 GB, and 13.6 GB that a step makes; the largest batch that
fits is 3,264 rows of 4,096, this one has 512. It sends 0.36 GB over data, 1.59 GB over data and fsdp, 5.02 GB over fsdp
a step (1.95 GB of it beyond a node). A step takes 277 ms at least (277 of products, 9 of memory, 50 of communication),
78% of the peak, and 336 ms (64%) where nothing hides behind anything else: 3.8 hours to 4.7 hours for 105 billion
tokens.

The compiler behind it is a CPU's, so GPU and TPU order and fuse some of it otherwise. The data is not published: name
tar shards of pictures and texts as img2dataset writes them.
"""
from unitok.config import Config, Decoder, ImageTokenizer, Mesh, Objectives, Quantizer, Text, Train, WebDataset


def get_config() -> Config:
  return Config(
      name="chameleon_1b",
      data=WebDataset(path="data/shards", image_size=512, resize="crop", val_share=0.001, on_bad="skip"),
      text=Text(vocab_size=57_280, max_captions=1_000_000),
      image_tokenizer=ImageTokenizer(
          network="vqgan", widths=(128, 128, 256, 256, 512), blocks=(2, 2, 2, 2, 2), patch=1, latent=256,
          quantizer=Quantizer(kind="vq", codebook_size=8_192, code_dim=256),
          train=Train(steps=200_000, batch_size=256, learning_rate=1e-4, weight_decay=0.0, ema_decay=0.999,
                      log_every=100, save_every=5_000, sample_every=5_000)),
      decoder=Decoder(
          layers=16, width=2_048, heads=16, kv_heads=16, hidden=5_632, row_length=4_096,
          rope_base=10_000.0, grid_embedding=0, z_loss=1e-5, remat="layer", loss_chunk=1_024,
          tasks=dict(pair=0.4, text=0.6), loss_weights={}, objectives=Objectives(image_first=0.5),
          readers=8, watch_every=100,
          train=Train(steps=50_000, batch_size=512, learning_rate=3e-4, warmup_steps=4_000, weight_decay=0.1,
                      beta1=0.9, beta2=0.95, clip=1.0, ema_decay=0.9999, log_every=100, save_every=2_000,
                      sample_every=10_000, keep_every=50_000)),
      mesh=Mesh(data=1, fsdp=-1),
  )
