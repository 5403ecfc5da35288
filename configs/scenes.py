"""The demo's scenes for an hour on two CPU cores: how far the same code goes.

    python -m train.pipeline --config configs/scenes.py --workdir runs/scenes

Not yet measured at this length; the demo's header has the figures of its first ten minutes.
"""
from unitok.config import Config, Decoder, Evaluation, ImageTokenizer, Quantizer, Sampling, Scenes, Text, Train


def get_config() -> Config:
  return Config(
      name="scenes",
      data=Scenes(image_size=36, train_examples=100_000, val_examples=1_000),
      text=Text(vocab_size=404, split_by_whitespace=False, max_captions=4_000),
      image_tokenizer=ImageTokenizer(
          widths=(128,), blocks=(2,), patch=6, encoder_kernel=1,
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8),
          train=Train(steps=40_000, batch_size=8, learning_rate=4e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.999, log_every=200, save_every=10_000, sample_every=10_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=128, unroll=4,
          train=Train(steps=11_000, batch_size=8, optimizer="muon", learning_rate=4e-3, warmup_steps=100,
                      ema_decay=0.995, log_every=100, save_every=2_000, sample_every=2_000)),
      sampling=Sampling(temperature=0.7, guidance_scale=2.0),
      evaluation=Evaluation(examples=1_000, batch_size=256),
  )
