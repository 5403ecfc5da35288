"""Every objective in one model, on the project's own scenes, twenty minutes on two CPU cores.

    python -m train.pipeline --config configs/scenes_objectives.py --workdir runs/objectives

Printed by it, seed 0, 18.1 minutes on two quiet cores (tokenizer 103 s, decoder 778 s for 5,116 steps of 150 ms); n = 1,000,
intervals at 95 %, "by chance" behind the semicolon: whole pictures drawn right 0.930 (0.912-0.944; 0.000), of combinations
never shown 0.768 (0.741-0.793), in 12 passes 0.933 (0.916-0.947), captions exact 0.835 (0.811-0.857), holes with the caption
0.967 (0.954-0.976), as in training 0.958 of rectangles (0.944-0.969), 0.951 of patches (0.936-0.963), 0.945 of halves
(0.929-0.958), answers 0.914 (0.905-0.923, n = 4,000; 0.390), open ones 0.989 (0.984-0.992, n = 2,858; 0.315), blanks that
say the same 0.723 (0.694-0.750; 0.078), of whole sentences 0.711 (0.682-0.738; 0.000), of ends 0.845 (0.821-0.866; 0.114),
changed as told 0.721 (0.692-0.748; 0.011), boxes of IoU 0.5 0.968 (0.955-0.977; 0.033), objects detected 0.692 (0.671-0.713;
0.002), all of a picture 0.571 (0.540-0.601), layouts drawn right 0.955 (0.940-0.966).

The learning rate decides: at 4e-3 and with boxes weighing less (locate 4, detect 2, layout 1) and being fewer, 6,490 steps
gave 0.113 of boxes (by the likeliest bin alone; `sampling.rules.gathered` is worth some 0.03 there), 0.094 of objects, 0.591 of layouts, 0.735 of captions, 0.495 changed. After 8,000 rows, on one core,
rates of 1e-3, 2e-3 and 4e-3 left captions at 0.63, 0.54 and 0.69 nats, boxes at 4.69, 4.60 and 4.87; batches of two rows at
2e-3 0.60 and 5.25, of one row worse. Boxes weigh sixteen, for they have four targets beside a picture's 36.

Beside specialists with as many documents of their objective alone and the best of at least three learning rates each
(tests/benchmarks/objectives.py on this run): not worse in 16 of 16. The one model and the specialist: whole pictures 0.930
and 0.748, in passes 0.933, 0.804, captions 0.835, 0.815 (within the interval), holes with the caption 0.967, 0.077, answers
0.914, 0.589, blanks that say the same 0.723, 0.151, of ends 0.845, 0.137, of sentences 0.711, 0.395, changed 0.721, 0.144,
boxes 0.968, 0.810, detected 0.692, 0.458, layouts 0.955, 0.832; nats of text 1.438, 1.458, of the ends of texts 1.339, 1.383,
of codes alone 0.728, 0.970, of pairs 0.618, 0.935.
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
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8, revive_below=0.05),
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
