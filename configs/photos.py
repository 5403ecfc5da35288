"""Photographs with five captions each, 64 pixels, on two CPU cores.

    python -m train.pipeline --config configs/photos.py --workdir runs/photos --data.path ../shared/data/photos

Printed by it, seed 0, 25.5 minutes on two cores at some 160 GFLOP/s together in float32, tests running beside it at
times (tokenizer 6 minutes, decoder 17.5 for all 4,000 steps): PSNR on val 20.9 dB (95 % interval 20.7-21.1, n = 419), all
1,024 codes used; the right caption among 100 by log p(text | picture) 0.024 (0.013-0.043, n = 419, chance 0.01), 0.036
(0.022-0.058) with log p(text) taken out; nats a caption 48.8 given its picture, 50.3 given another; 5.30 nats an image code.
So in this time it has learned how captions are written and next to nothing of what they say about pictures: some 60,000
documents are few for 6,700 photographs. Rows of 1,024 would leave 1.7 % padding instead of these rows' 19 %. Rows and
columns of codes were embedded with a third of today's spread.
"""
from unitok.config import (Config, Decoder, Evaluation, ImageFolder, ImageTokenizer, Quantizer, Sampling, Text, Train)


def get_config() -> Config:
  return Config(
      name="photos",
      minutes=28,
      data=ImageFolder(path="../shared/data/photos", image_size=64, resize="fit", copies=4),
      text=Text(vocab_size=2_000, split_by_whitespace=False),
      image_tokenizer=ImageTokenizer(
          widths=(64, 128), blocks=(1, 2), patch=4,
          quantizer=Quantizer(kind="l2", codebook_size=1_024, code_dim=8, revive_below=0.05),
          train=Train(steps=8_000, batch_size=8, learning_rate=3e-3, warmup_steps=200, weight_decay=0.0,
                      ema_decay=0.998, log_every=100, save_every=4_000, sample_every=4_000)),
      decoder=Decoder(
          layers=4, width=256, heads=8, kv_heads=4, hidden=704, row_length=192, unroll=4,
          tasks=dict(text_to_image=0.35, image_to_text=0.5, infill=0.1, text=0.05),
          loss_weights=dict(text_to_image=1.0, image_to_text=2.0, infill=1.0, text=1.0),
          train=Train(steps=4_000, batch_size=8, optimizer="muon", learning_rate=3e-3, warmup_steps=100,
                      ema_decay=0.99, log_every=50, save_every=1_000, sample_every=1_000)),
      sampling=Sampling(temperature=0.9, top_p=0.95, guidance_scale=2.5),
      evaluation=Evaluation(examples=1_000, batch_size=128),
  )
