"""The demo's scenes for an hour on two CPU cores: how far the same code goes.

    python -m train.pipeline --config configs/scenes.py --workdir runs/scenes

Not yet measured at this length; the demo's header has the figures of its first ten minutes.
"""
from unitok.config import Config, Decoder, Evaluation, ImageTokenizer, Quantizer, Sampling, Scenes, Text, Train


def get_config() -> Config:
  return Config(
      name="scenes",
      minutes=60,
      data=Scenes(image_size=36, train_examples=100_000, val_examples=1_000),
      text=Text(vocab_size=404, split_by_whitespace=False, max_captions=4_000),
      image_tokenizer=ImageTokenizer(
          widths=(128,), blocks=(2,), patch=6, encoder_kernel=1,
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8),
          train=Train(steps=24_000, batch_size=8, learning_rate=4e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.999, log_every=200, save_every=8_000, sample_every=8_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=104, unroll=4,
          tasks=dict(text_to_image=0.46, image_to_text=0.33, infill=0.19, text=0.02),
          loss_weights=dict(text_to_image=1.0, image_to_text=2.0, infill=1.0, text=1.0),
          train=Train(steps=24_000, batch_size=10, optimizer="muon", learning_rate=4e-3, warmup_steps=100,
                      ema_decay=0.995, log_every=100, save_every=2_000, sample_every=2_000)),
      sampling=Sampling(temperature=0.5, guidance_scale=1.5),
      evaluation=Evaluation(examples=1_000, minutes=1.25, batch_size=512),
  )
