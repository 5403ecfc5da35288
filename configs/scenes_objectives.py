"""Every objective in one model, on the project's own scenes, a quarter of an hour on two CPU cores.

    python -m train.pipeline --config configs/scenes_objectives.py --workdir runs/objectives

Printed by it and by train.evaluate, seed 0, with `minutes=20` on two cores that other work used too (tokenizer 170 s, decoder
1,050 s for 4,792 steps), before the head's columns started from the vectors of codes and bins,
with 470 pieces of text and rows and columns embedded with a third of today's spread; n = 1,000, intervals at 95 %,
"by chance" behind the semicolon: whole pictures drawn right 0.553 (0.522-0.584; 0.000), in 12 passes 0.474 (0.443-0.505),
captions exact 0.656 (0.626-0.685), holes as in training 0.920 of rectangles (0.902-0.935), 0.835 of patches (0.811-0.857),
0.795 of halves (0.769-0.819), answers 0.816 (0.803-0.827, n = 4,000; 0.390), open ones 0.937 (0.928-0.945, n = 2,858; 0.315),
blanks that say the same 0.642 (0.612-0.671; 0.076), of whole sentences 0.510 (0.479-0.541; 0.000), of ends 0.676
(0.646-0.704; 0.118), changed as told 0.323 (0.295-0.353; 0.011), boxes of IoU 0.5 0.084 (0.068-0.103; 0.033), objects detected
0.083 (0.071-0.094; 0.002), layouts drawn right 0.109 (0.091-0.130).
Boxes are told by 1,024 bins of which each is seen rarely: the bins' vectors start near to each other since, which alone took
locate by itself from 3.2 to 2.6 nats after 800 steps; not measured in this mixture.

Beside specialists with as many documents of their objective alone (tests/benchmarks/objectives.py --rates 0.004, on that
run; one learning rate, this one's, not yet tuned for each): not worse in 16 of 16. The one model and the specialist: whole
pictures 0.553 and 0.588 (within the interval), in passes 0.474, 0.333, captions 0.656, 0.565, holes with the caption 0.892,
0.012, answers 0.816, 0.527, blanks that say the same 0.642, 0.143, of ends 0.676, 0.146, of sentences 0.510, 0.405, changed
0.323, 0.061, boxes 0.084, 0.036, detected 0.083, 0.028, layouts 0.109, 0.017; nats of text 1.490, 1.508, of the ends of texts
1.364, 1.435, of codes alone 0.705, 1.001, of pairs 0.632, 0.977.
"""
from unitok.config import (Config, Decoder, Evaluation, ImageTokenizer, Objectives, Quantizer, Sampling, Scenes, Text,
                           Train)


def get_config() -> Config:
  return Config(
      name="scenes_objectives",
      minutes=20,
      data=Scenes(image_size=36, train_examples=40_000, val_examples=1_000, changes=True),
      text=Text(vocab_size=461, split_by_whitespace=False, max_captions=8_000),
      image_tokenizer=ImageTokenizer(
          widths=(128,), blocks=(2,), patch=6, encoder_kernel=1,
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8),
          train=Train(steps=12_000, batch_size=8, learning_rate=4e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.998, log_every=200, save_every=6_000, sample_every=6_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=256, unroll=4,
          tasks=dict(text_to_image=0.14, image_to_text=0.14, infill=0.1, text=0.02, image=0.02, pair=0.04, parallel=0.1,
                     prefix_lm=0.02, glm_spans=0.05, glm_document=0.03, glm_sentences=0.03, question=0.08, detect=0.05,
                     locate=0.08, layout=0.08, interleaved=0.05),
          weigh_by="token",
          loss_weights=dict(image_to_text=2.0, question=4.0, locate=16.0, detect=4.0, layout=2.0, glm_spans=2.0,
                            glm_document=2.0, glm_sentences=2.0),
          objectives=Objectives(holes=dict(rectangles=1.0, patches=0.5, halves=0.5)),
          train=Train(steps=20_000, batch_size=4, optimizer="muon", learning_rate=2e-3, warmup_steps=100,
                      ema_decay=0.995, log_every=100, save_every=2_000, sample_every=4_000)),
      sampling=Sampling(temperature=0.5, guidance_scale=1.5),
      evaluation=Evaluation(examples=1_000, minutes=3.5, batch_size=256),
  )
