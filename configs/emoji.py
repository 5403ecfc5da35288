"""Emoji in three drawing styles, 32 pixels, on two CPU cores.

    python -m train.pipeline --config configs/emoji.py --workdir runs/emoji --data.path ../shared/data/emoji

The folder is an imagefolder whose metadata has `captions`, `style` and `split`. Of every twentieth name the
fluent3d drawing is held out where another style stays in training: naming it asks for what the styles share.

Each training picture is also taken seven times a little larger or smaller and to the side (data.copies), and the decoder
has dropout, for 4,200 drawings are learned by heart otherwise: the same 6,000 steps without both had 4.58 nats an image
code on val beside 0.32 in training, the fewer steps there were the better (2,527: 3.50), and drew what they were trained
on, the held-out red apple not recognisably. Now it is 3.26 on val beside 3.08 in training, of moved copies.

Printed by it, seed 0, 53 minutes on two cores that tests used too (decoder 44, 6,000 steps): PSNR on val 24.7 dB (95 %
interval 24.3-25.1, n = 232), usage 0.983 of 1,024 codes; the right caption among 91 by log p(text | picture) 0.039
(0.021-0.072, n = 232, chance 0.011), 0.073 (0.046-0.114) with log p(text) taken out; of the held-out drawings (n = 63) the
name greedily written 0.016 (0.003-0.085), found among 100 0.159 (0.089-0.268, chance 0.01), 0.222 (0.137-0.339) with log
p(text) taken out; nats a caption 31.6 given its picture, 38.4 given another. Of the eight prompts the green heart and the
grinning face come out, the cat as another face, the others as coloured shapes: little is known of a name that three
pictures have. Who wants the drawings themselves takes --data.copies 1 --decoder.dropout 0: that draws most as they were,
and had 0.035, 0.060 and held out 0.206, 0.222 in the retrieval above, a caption 36.2 and 46.7 nats.

Nats a code that the model itself, code by code, gives to what is drawn at temperature 1 without guidance (n = 232): code by
code 3.20 (3.10-3.30), by rows in 36 passes 3.23 (3.14-3.33), by maskgit in 8 passes 2.98 (2.89-3.08), in 4 3.73, in groups
of random order 4.15, 4.21, 4.45 and 4.89 in 32, 16, 8 and 4 passes: a fifth of the documents are too few for these.

By python -m tests.benchmarks.strategies --emoji runs/emoji --passes 8 --windows 16 32: `jacobi` with the run's guidance
takes 0.351 of the passes with a window of 16, 0.331 with 32 (n = 200 keys, all the very same as `sequential`, alone and in
batches), copies from the left as good as those from above. Of a model that knows its pictures by heart every code hangs on
all before it, and jacobi guesses less: 0.614 after the 6,000 steps without copies, 0.425 after 2,527.
"""
from unitok.config import (Config, Decoder, Evaluation, Holdout, ImageFolder, ImageTokenizer, Quantizer, Sampling,
                           Text, Train)


def get_config() -> Config:
  return Config(
      name="emoji",
      minutes=55,
      data=ImageFolder(
          path="../shared/data/emoji", image_size=32, resize="fit", copies=8,
          caption_template="a {style} emoji of {caption}",
          holdout=Holdout(group_by="captions", every=20, field="style", value="fluent3d")),
      text=Text(vocab_size=1_200, split_by_whitespace=False),
      image_tokenizer=ImageTokenizer(
          widths=(160,), blocks=(4,), patch=4,
          quantizer=Quantizer(kind="l2", codebook_size=1_024, code_dim=8, revive_below=0.2),
          train=Train(steps=6_000, batch_size=8, learning_rate=3e-3, warmup_steps=200, weight_decay=0.0,
                      ema_decay=0.998, log_every=100, save_every=3_000, sample_every=3_000)),
      decoder=Decoder(
          layers=4, width=256, heads=8, kv_heads=4, hidden=704, row_length=160, unroll=4, dropout=0.1,
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
