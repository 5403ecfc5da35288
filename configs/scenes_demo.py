"""All stages on the project's own scenes in ten minutes on two CPU cores.

    make demo        # python -m train.pipeline --config configs/scenes_demo.py --workdir runs/demo

Printed by it, seed 0, n = 1,000 each, on two cores with nothing beside it, 568 s (tokenizer 106, encoding 27, decoder 380
for 3,405 steps of 98 ms, evaluation 52): objects read right in reconstructions 0.983 (95 % interval 0.978-0.989), PSNR
33.1 dB, usage 1.0; attributes drawn right 0.930 (0.920-0.939; 0.021 from the null caption), held-out combinations 0.858
(0.849-0.867; 0.023), whole pictures 0.736 (0.708-0.762; 0.000), captions exact 0.865 (0.842-0.885), holes 0.866
(0.843-0.886), halves without a caption 0.317 (0.289-0.346). Again on the same day (3,739 steps of 90 ms, 579 s):
attributes 0.961 (0.956-0.966), held-out combinations 0.877 (0.870-0.884), whole pictures 0.789 (0.763-0.813), captions
0.904 (0.884-0.921), holes 0.912 (0.893-0.928). The machine's speed decides how many steps there are: the same cores made
them in 90 to 129 ms.

What was learned on the way (same data, shares of objects or attributes read right):
- tokenizer after 32,000 pictures: random revival of dead codes and batch 64 0.64; by squared distance 0.78 at batch
  32 and 0.82 at 16 (not told apart: revival and batch); at batch 8 a gate instead of relu² 0.92 -> 0.96; a 1x1
  encoder costs 0.986 -> 0.974 at 8,000 steps and halves the codes' entropy, so the decoder learns faster, and no code
  of a kept place knows what a hole covers.
- decoder, 128 prompts, after 12,000 documents: AdamW 0.35, Muon 0.56, both with row and column embeddings (AdamW
  without them 0.25 after 21,000); codes of the 1x1 encoder 0.63; embeddings started from the codes' vectors 0.67. At
  7,000 documents six heads of 32 gave 0.55, three of 64 sharing one key 0.47.
- text pieces across words: captions of 12 tokens instead of 17, and after 1,500 steps 0.85 instead of 0.75 (whole
  pictures 0.52, 0.43). Captions have few targets beside pictures: with weight 3 and a share of 0.3 instead of 1 and
  0.2, exact captions after 1,500 steps went from 0.07 to 0.63, attributes from 0.85 to 0.72 (256 prompts each).
- made no difference that can be told at equal documents (attributes 0.70-0.74 after 1,000 steps of 10 rows, 512
  prompts, or the losses alone): captions seen both ways, six layers of 160, a key for every head, the first layer's
  input added to each layer, embeddings of the three tokens before mixed in, rotary embedding of six pairs in sixteen,
  learning rate 6e-3. In equal time batches of 5 and 16 rows were no better than 10. Hiding 0.3 of the targets' own
  inputs was worse (captions 0.25 instead of 0.46). Documents seen are what counts; three captions of a picture in one
  document, each seeing the picture and itself alone, are no more than one: after 2,700 steps of 2.2 times the caption
  targets captions were 0.728 instead of 0.706, attributes 0.846 instead of 0.922.
- nor did these after 1,000 steps (512 prompts; attributes 0.74-0.77, captions 0.39-0.44 against 0.77 and 0.41):
  queries, keys and values orthogonalised apart; pictures causal before their captions, with loss on them or without.
  By their losses queries twice as sharp at first did nothing, rotary base 20 was worse (captions 0.86 instead of 0.74
  nats after 750 steps). Three Newton-Schulz steps are 12 % faster than five and worse (captions 0.33); four are
  taken.
- text pieces longer still (470 instead of 404, 8 tokens a caption) join colours with sizes and shapes with places, which
  is worse: after 1,400 steps attributes 0.74 instead of 0.85, captions 0.41 instead of 0.55.
- the tokenizer's part: with the codes of scenes.py's (24,000 steps, objects 0.994) the same 1,400 decoder steps give
  whole pictures 0.62 instead of 0.51, captions 0.59 instead of 0.55. 1,024 codes read 0.980 instead of 0.962 after as
  many steps, but the decoder learns them more slowly (caption loss 0.47 instead of 0.43 after 1,250 steps).
- captions bind late. After "at the left a small" the likeliest colour is right in 0.82 of the cases as long as that of any
  small shape is told, and it stays so for some 25,000 captions: whole runs with fewer had captions of 0.71 to 0.76, whatever
  their weight in the loss (a share of 0.48 of drawing and 0.33 of captions, 3,920 steps: attributes 0.981, whole pictures
  0.895, captions 0.738), scenes.py with 36,000 has 0.947. So captions have the larger share here. It is their number that
  counts: trained alone (one run each) learning rates of 1e-3, 2e-3 and 4e-3 come equally far (8e-3 less), half the batch needs twice
  the steps; rotary base 1e5, a key for every head, or biases that let heads look back from the start changed nothing. Embeddings of the two tokens before mixed in moved it a little (0.91 instead of 0.82 after 28,000).
- rows and columns embedded with a spread of 0.6, not 0.2 beside the codes' 0.5: size by place is right in 0.95 instead of
  0.90 after 28,000 captions; 1.6 learns slowly at first. Four pieces more (404) join "a small pink" and no other colour.
- the tokenizer after 14,000 steps instead of 6,000: the shape in captions 0.97 instead of 0.94. Here it has 8,000.
- training pictures of one, two and three shapes in shares 0.15 / 0.3 / 0.55 instead of alike: whole pictures 0.895
  instead of 0.708 (with 3,920 steps instead of 3,552), captions no different; not told apart after 1,000 steps.
- the head's columns of the codes started from the codes' vectors, as their embeddings are: after 1,000 steps 0.435 nats a
  caption token instead of 0.453, 0.591 instead of 0.621 a code in a hole, 0.471 instead of 0.476 a drawn one.
- binding is what is learned last: whole pictures by number of objects are 0.88 / 0.16 / 0.02 right after 1,000 steps
  and 0.96 / 0.88 / 0.52 after 2,600 (512 prompts); captions that fail swap attributes between objects.
- the sampler, on training prompts: temperature 0.3-0.7 and guidance 1-2 lie within 0.03 of each other.
"""
from unitok.config import (Config, Decoder, Evaluation, ImageTokenizer, Quantizer, Sampling, Scenes, Text, Train)


def get_config() -> Config:
  return Config(
      name="scenes_demo",
      minutes=9.6,
      # 36 pixels, so that a code stands for 6x6 of them and each of the nine places for 2x2 codes
      data=Scenes(image_size=36, train_examples=30_000, val_examples=1_000, counts=(0.15, 0.3, 0.55)),
      text=Text(vocab_size=401, split_by_whitespace=False, max_captions=4_000),
      image_tokenizer=ImageTokenizer(
          widths=(128,), blocks=(2,), patch=6, encoder_kernel=1,
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8, revive_below=0.05),
          train=Train(steps=8_000, batch_size=8, learning_rate=4e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.997, log_every=100, save_every=8_000, sample_every=2_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=104, unroll=4,
          tasks=dict(text_to_image=0.36, image_to_text=0.46, infill=0.16, text=0.02),
          loss_weights=dict(text_to_image=1.0, image_to_text=2.0, infill=1.0, text=1.0),
          train=Train(steps=8_000, batch_size=10, optimizer="muon", learning_rate=4e-3, warmup_steps=40,
                      ema_decay=0.98, log_every=25, save_every=1_000, sample_every=1_000)),
      sampling=Sampling(temperature=0.5, guidance_scale=1.5),
      evaluation=Evaluation(examples=1_000, minutes=1.0, batch_size=512),
  )
