"""Every objective in one model, on the project's own scenes, a quarter of an hour on two CPU cores.

    python -m train.pipeline --config configs/scenes_objectives.py --workdir runs/objectives

Not yet measured. tests/benchmarks/objectives.py sets each objective's figure beside that of a specialist.
"""
from unitok.config import (Config, Decoder, Evaluation, ImageTokenizer, Objectives, Quantizer, Sampling, Scenes, Text,
                           Train)


def get_config() -> Config:
  return Config(
      name="scenes_objectives",
      minutes=15,
      data=Scenes(image_size=36, train_examples=40_000, val_examples=1_000, changes=True),
      text=Text(vocab_size=470, split_by_whitespace=False, max_captions=8_000),
      image_tokenizer=ImageTokenizer(
          widths=(128,), blocks=(2,), patch=6, encoder_kernel=1,
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8),
          train=Train(steps=12_000, batch_size=8, learning_rate=4e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.998, log_every=200, save_every=6_000, sample_every=6_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=256, unroll=4,
          tasks=dict(text_to_image=0.16, image_to_text=0.14, infill=0.1, text=0.02, image=0.02, pair=0.04, parallel=0.1,
                     prefix_lm=0.02, glm_spans=0.05, glm_document=0.03, glm_sentences=0.03, question=0.08, detect=0.05,
                     locate=0.06, layout=0.06, interleaved=0.05),
          weigh_by="token",
          loss_weights=dict(image_to_text=2.0, question=4.0, locate=4.0, detect=2.0, glm_spans=2.0, glm_document=2.0,
                            glm_sentences=2.0),
          objectives=Objectives(holes=dict(rectangles=1.0, patches=0.5, halves=0.5)),
          train=Train(steps=20_000, batch_size=4, optimizer="muon", learning_rate=4e-3, warmup_steps=100,
                      ema_decay=0.995, log_every=100, save_every=2_000, sample_every=4_000)),
      sampling=Sampling(temperature=0.5, guidance_scale=1.5),
      evaluation=Evaluation(examples=1_000, minutes=3.5, batch_size=256),
  )
