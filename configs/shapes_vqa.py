"""Questions about drawn shapes (easy-VQA), on two CPU cores.

    python -m train.pipeline --config configs/shapes_vqa.py --workdir runs/shapes_vqa --data.path ../shared/data/shapes-vqa

The folder is an imagefolder whose metadata has `questions` and `split`. On its val split the best constant answer is right
in 0.35, the most frequent answer to each question's words in 0.64 (0.21 of the open ones).

Printed by it, seed 0, 20 minutes of two cores that tests used, too (decoder 1,162 s for 4,500 steps, which are some 13 minutes
on quiet ones): answers right 0.933 (95 % interval 0.921-0.943, n = 1,944), of the open ones 0.886 (0.857-0.910, n = 554),
PSNR 28.8 dB (n = 200), usage 0.992. With 2,622 steps 0.900 (0.886-0.912) and 0.810 (0.776-0.841). The evaluation's own null,
the most frequent answer to a question of these words on the same split, is 0.672, 0.307.
"""
from unitok.config import (Config, Decoder, Evaluation, ImageFolder, ImageTokenizer, Objectives, Quantizer, Sampling,
                           Text, Train)


def get_config() -> Config:
  return Config(
      name="shapes_vqa",
      minutes=20,
      data=ImageFolder(path="../shared/data/shapes-vqa", image_size=64, resize="fit"),
      text=Text(vocab_size=360, split_by_whitespace=False),
      image_tokenizer=ImageTokenizer(
          widths=(64,), blocks=(2,), patch=8,
          quantizer=Quantizer(kind="l2", codebook_size=256, code_dim=8, revive_below=0.05),
          train=Train(steps=2_000, batch_size=8, learning_rate=3e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.99, log_every=100, save_every=2_000, sample_every=2_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=256, unroll=4,
          tasks=dict(question=1.0), loss_weights={}, objectives=Objectives(questions=4),
          train=Train(steps=4_500, batch_size=6, optimizer="muon", learning_rate=3e-3, warmup_steps=50,
                      ema_decay=0.99, log_every=50, save_every=1_000, sample_every=1_000)),
      sampling=Sampling(),
      evaluation=Evaluation(examples=1_000, batch_size=256),
  )
