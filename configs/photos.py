"""Photographs with five captions each, 64 pixels, on two CPU cores.

    python -m train.pipeline --config configs/photos.py --workdir runs/photos --data.path ../shared/data/photos

Not yet measured at this length.
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
          quantizer=Quantizer(kind="l2", codebook_size=1_024, code_dim=8),
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
