"""Emoji in three drawing styles, 32 pixels, on two CPU cores.

    python -m train.pipeline --config configs/emoji.py --workdir runs/emoji --data.path ../shared/data/emoji

The folder is an imagefolder whose metadata has `captions`, `style` and `split`. Of every twentieth name the
fluent3d drawing is held out where another style stays in training: naming it asks for what the styles share.

Printed by it, seed 0, 27.6 minutes on two cores at some 160 GFLOP/s together in float32 (tokenizer 6 minutes, decoder 20
for 5,971 steps, 20 epochs), and the same again by python -m train.evaluate with these options: PSNR on val
24.6 dB (95 % interval 24.2-24.9, n = 232), usage 0.971 of 1,024 codes; the right caption among 91 by log p(text | picture)
0.060 (0.036-0.099, n = 232, chance 0.011), 0.099 (0.067-0.144) with log p(text) taken out; of the held-out drawings
(n = 63) the name greedily written 0.079 (0.034-0.173), found among 100 0.238 (0.150-0.356, chance 0.01), 0.317 with
log p(text) taken out; nats a caption 36.5 given its picture, 48.6 given another; 5.31 nats an image code on val, 0.06 in
training. So it has learned its 4,200 drawings by heart: seven of the eight prompts below, which it was trained on, come
out as they are; the eighth, the red apple, is a style held out, and is not recognisable. Guidance 2.5 at temperature 0.7
spoiled four of the seven. These figures are of two levels of 64 and 128 channels as tokenizer (8,000 steps), of the
shares 0.6 / 0.25 / 0.1 / 0.05 without `parallel`, and of rows and columns embedded with a third of today's spread.

As it stands it was run with `--minutes 24` beside another program, which left the decoder 2,527 steps, some 9 epochs: PSNR
24.8 dB (24.4-25.2, n = 232), usage 0.987; nats an image code on val 3.50 and a caption 31.4 given its picture (38.7 given
another), both less than above, for little is learned by heart yet; but the right caption among 91 0.017 (0.007-0.043), 0.056
(0.033-0.093) with log p(text) taken out, a held-out name among 100 0.079 (0.034-0.173), and of the eight prompts the cat
and the grinning face alone are recognisable. So it wants its 6,000 steps. Of it, by python -m tests.benchmarks.strategies
--emoji runs/emoji (n = 232; nats a code that the model itself gives to what is drawn, at temperature 1 without guidance):
code by code 2.75 (2.63-2.86), by rows with a window of a half, a quarter and an eighth 3.20, 3.25 and 3.54 in 35, 21 and 14
passes, in 8 passes by maskgit 3.37, in groups 4.91 in random and 4.51 in local order, in 32 4.49 and 4.07; maskgit without
noise on its choice falls to 0.71, flat pictures. `jacobi` with the run's guidance takes 0.425 of the passes with a window
of 16 (200 keys, all the very same as `sequential`), 0.42 with 24 and more (100 keys), where copies from the left are as good
as those from above. Moved copies of the pictures (data.copies) should help what was never shown; not yet measured.
"""
from unitok.config import (Config, Decoder, Evaluation, Holdout, ImageFolder, ImageTokenizer, Quantizer, Sampling,
                           Text, Train)


def get_config() -> Config:
  return Config(
      name="emoji",
      minutes=28,
      data=ImageFolder(
          path="../shared/data/emoji", image_size=32, resize="fit",
          caption_template="a {style} emoji of {caption}",
          holdout=Holdout(group_by="captions", every=20, field="style", value="fluent3d")),
      text=Text(vocab_size=1_200, split_by_whitespace=False),
      image_tokenizer=ImageTokenizer(
          widths=(160,), blocks=(4,), patch=4,
          quantizer=Quantizer(kind="l2", codebook_size=1_024, code_dim=8, revive_below=0.2),
          train=Train(steps=6_000, batch_size=8, learning_rate=3e-3, warmup_steps=200, weight_decay=0.0,
                      ema_decay=0.998, log_every=100, save_every=3_000, sample_every=3_000)),
      decoder=Decoder(
          layers=4, width=256, heads=8, kv_heads=4, hidden=704, row_length=160, unroll=4,
          tasks=dict(text_to_image=0.45, parallel=0.2, image_to_text=0.25, infill=0.05, text=0.05),
          loss_weights=dict(text_to_image=1.0, parallel=1.0, image_to_text=2.0, infill=1.0, text=1.0),
          train=Train(steps=6_000, batch_size=8, optimizer="muon", learning_rate=3e-3, warmup_steps=100,
                      ema_decay=0.99, log_every=50, save_every=1_000, sample_every=1_000)),
      sampling=Sampling(temperature=0.5, guidance_scale=1.5),
      evaluation=Evaluation(
          examples=1_000, batch_size=128,
          prompts=("a fluent3d emoji of red apple", "a fluent3d emoji of dog face", "a fluent3d emoji of green heart",
                   "a fluentflat emoji of sun", "a noto emoji of cat face", "a noto emoji of pizza",
                   "a fluent3d emoji of grinning face", "a fluentflat emoji of soccer ball")),
  )
