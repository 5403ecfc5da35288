"""The demo's scenes for an hour on two CPU cores: how far the same code goes.

    python -m train.pipeline --config configs/scenes.py --workdir runs/scenes

Printed by it with `--minutes 33`, which cut the decoder to 4,683 of 24,000 steps (23 minutes on two cores that gave
some 110 GFLOP/s together, other programs beside it; the whole hour is not yet measured), seed 0, n = 1,000 each: objects
read right in reconstructions 0.994 (95 % interval 0.990-0.997), PSNR 34.3 dB, usage 1.0; attributes drawn right 0.987
(0.983-0.991; 0.016 from the null caption), held-out combinations 0.955 (0.950-0.961), whole pictures 0.939
(0.922-0.952), captions exact 0.947 (0.931-0.959), holes 0.971 (0.959-0.980), halves without a caption 0.449. So what
the demo's ten minutes lack is steps: it has some 3,000 and captions of 0.74.
"""
from unitok.config import Config, Decoder, Evaluation, ImageTokenizer, Quantizer, Sampling, Scenes, Text, Train


def get_config() -> Config:
  return Config(
      name="scenes",
      minutes=60,
      data=Scenes(image_size=36, train_examples=100_000, val_examples=1_000),
      text=Text(vocab_size=401, split_by_whitespace=False, max_captions=4_000),
      image_tokenizer=ImageTokenizer(
          widths=(128,), blocks=(2,), patch=6, encoder_kernel=1,
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8, revive_below=0.05),
          train=Train(steps=24_000, batch_size=8, learning_rate=4e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.999, log_every=200, save_every=8_000, sample_every=8_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=104, unroll=4,
          tasks=dict(text_to_image=0.44, image_to_text=0.38, infill=0.16, text=0.02),
          loss_weights=dict(text_to_image=1.0, image_to_text=2.0, infill=1.0, text=1.0),
          train=Train(steps=24_000, batch_size=10, optimizer="muon", learning_rate=4e-3, warmup_steps=100,
                      ema_decay=0.995, log_every=100, save_every=2_000, sample_every=2_000)),
      sampling=Sampling(temperature=0.5, guidance_scale=1.5),
      evaluation=Evaluation(examples=1_000, minutes=1.25, batch_size=512),
  )
