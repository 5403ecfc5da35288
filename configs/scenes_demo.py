"""All stages on the project's own scenes in ten minutes on two CPU cores.

    make demo        # python -m train.pipeline --config configs/scenes_demo.py --workdir runs/demo
"""
from unitok.config import (Config, Decoder, Evaluation, ImageTokenizer, Quantizer, Sampling, Scenes, Text, Train)


def get_config() -> Config:
  return Config(
      name="scenes_demo",
      # 36 pixels, so that a code stands for 6x6 of them and each of the nine places for 2x2 codes
      data=Scenes(image_size=36, train_examples=20_000, val_examples=1_000),
      text=Text(vocab_size=400, max_captions=4_000),
      image_tokenizer=ImageTokenizer(
          widths=(128,), blocks=(2,), patch=6, encoder_kernel=1,
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8),
          train=Train(steps=6_000, batch_size=8, learning_rate=4e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.995, log_every=100, save_every=6_000, sample_every=2_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=128,
          train=Train(steps=1_500, batch_size=8, optimizer="muon", learning_rate=4e-3, warmup_steps=40,
                      ema_decay=0.98, log_every=25, save_every=500, sample_every=500)),
      sampling=Sampling(temperature=0.7, guidance_scale=2.0),
      evaluation=Evaluation(examples=1_000, batch_size=256),
  )
