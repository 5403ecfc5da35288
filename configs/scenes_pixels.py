"""The demo's scenes without a learned tokenizer: pixels as palette colours, image GPT's way, as the baseline.

    python -m train.pipeline --config configs/scenes_pixels.py --workdir runs/scenes_pixels

Data, text, decoder and time are the demo's, so that what differs is the codes: 18x18 colours of 2x2 pixels instead of
6x6 codes of 6x6. A document is some 340 tokens long instead of 50, so there is time for fewer of them: on a busy pair
of cores a step took 2 s, which makes some 250 in these minutes (`--minutes 60` for more). Evaluation has 128 cases
instead of 1,000. Figures of a run: not yet measured.

Of the palette alone, fitted in a second, on the 1,000 validation pictures: PSNR 27.3 dB, all 512 colours in use,
perplexity 10. On 150 of them every object was read as in the original with scale 1 and 2, with scale 3 0.53.
"""
from unitok.config import Config, Decoder, Evaluation, Pixels, Sampling, Scenes, Text, Train


def get_config() -> Config:
  return Config(
      name="scenes_pixels",
      minutes=9.7,
      data=Scenes(image_size=36, train_examples=30_000, val_examples=1_000, counts=(0.15, 0.3, 0.55)),
      text=Text(vocab_size=401, split_by_whitespace=False, max_captions=4_000),
      image_tokenizer=Pixels(colours=512, scale=2),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=384, unroll=4,
          tasks=dict(text_to_image=0.36, image_to_text=0.46, infill=0.16, text=0.02),
          loss_weights=dict(text_to_image=1.0, image_to_text=2.0, infill=1.0, text=1.0),
          train=Train(steps=8_000, batch_size=10, optimizer="muon", learning_rate=4e-3, warmup_steps=40,
                      ema_decay=0.98, log_every=25, save_every=1_000, sample_every=1_000)),
      sampling=Sampling(temperature=0.5, guidance_scale=1.5),
      evaluation=Evaluation(examples=128, minutes=1.25, batch_size=128),
  )
