"""All stages on the project's own scenes in ten minutes on two CPU cores.

    make demo        # python -m train.pipeline --config configs/scenes_demo.py --workdir runs/demo

Printed by it on two cores that multiply matrices at some 70 GFLOP/s together, seed 0, n = 1,000 each, 558 s in all
(tokenizer 78, decoder 378, evaluation 87): objects read right in reconstructions 0.961 (95 % interval 0.953-0.970),
PSNR 32.2 dB, usage 0.998; attributes drawn right 0.723 (0.708-0.737; 0.119 from the null caption), held-out
combinations 0.696, whole pictures 0.419, captions exact 0.254, holes 0.674, halves without a caption 0.246.
By the number of objects asked for, whole pictures were 0.94 / 0.33 / 0.01 right (256 training prompts, the same
sampler settings, by a separate script): one object is solved, which
attribute belongs to which place is what more training brings.

What was learned on the way (same data, shares of objects or attributes read right):
- tokenizer after 32,000 pictures: random revival of dead codes and batch 64 0.64; by squared distance 0.78 at batch
  32 and 0.82 at 16 (not told apart: revival and batch); at batch 8 a gate instead of relu² 0.92 -> 0.96; a 1x1
  encoder costs 0.986 -> 0.974 at 8,000 steps and halves the codes' entropy, so the decoder learns faster, and no code
  of a kept place knows what a hole covers.
- decoder, 128 prompts, after 12,000 documents: AdamW 0.35, Muon 0.56, both with row and column embeddings (AdamW
  without them 0.25 after 21,000); codes of the 1x1 encoder 0.63; embeddings started from the codes' vectors 0.67. At
  7,000 documents six heads of 32 gave 0.55, three of 64 sharing one key 0.47. Temperature 0-0.7 and guidance 1-2 made
  no difference beyond 0.01 (training prompts); guidance 3 cost 0.04.
"""
from unitok.config import (Config, Decoder, Evaluation, ImageTokenizer, Quantizer, Sampling, Scenes, Text, Train)


def get_config() -> Config:
  return Config(
      name="scenes_demo",
      minutes=9.7,
      # 36 pixels, so that a code stands for 6x6 of them and each of the nine places for 2x2 codes
      data=Scenes(image_size=36, train_examples=20_000, val_examples=1_000),
      text=Text(vocab_size=404, split_by_whitespace=False, max_captions=4_000),
      image_tokenizer=ImageTokenizer(
          widths=(128,), blocks=(2,), patch=6, encoder_kernel=1,
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8),
          train=Train(steps=6_000, batch_size=8, learning_rate=4e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.995, log_every=100, save_every=6_000, sample_every=2_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=104, unroll=4,
          tasks=dict(text_to_image=0.48, image_to_text=0.3, infill=0.2, text=0.02),
          loss_weights=dict(text_to_image=1.0, image_to_text=1.5, infill=1.0, text=1.0),
          train=Train(steps=2_700, batch_size=10, optimizer="muon", learning_rate=4e-3, warmup_steps=40,
                      ema_decay=0.98, log_every=25, save_every=900, sample_every=900)),
      sampling=Sampling(temperature=0.5, guidance_scale=1.5),
      evaluation=Evaluation(examples=1_000, batch_size=256),
  )
