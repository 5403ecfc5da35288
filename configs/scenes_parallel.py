"""The demo's scenes, drawn code by code and in few passes by one model, twenty minutes on two CPU cores.

    python -m train.pipeline --config configs/scenes_parallel.py --workdir runs/parallel
    unitok generate "a small red circle at the left" --model runs/parallel --passes 9
    python -m tests.benchmarks.strategies --model runs/parallel --passes 5 9 18

Printed by it, seed 0, n = 1,000 each, on two cores that gave 3,000 decoder steps in 11 minutes: whole pictures drawn right
0.968 (95 % interval 0.955-0.977; 0.000 from the null caption), in 12 passes 0.964 (0.951-0.974), attributes 0.997, of
combinations never shown 0.968; objects read right in reconstructions 0.976 (0.969-0.982), PSNR 32.9 dB, usage 1.0.

By the last, n = 2,000 prompts: code by code 0.971 (0.962-0.977), a decoder of the same steps that learned text_to_image
alone 0.967 (0.958-0.974); in 9 passes 0.965 (0.955-0.972), in 5 0.907
(0.893-0.919) in random, 0.911 in Halton's and 0.904 in the local order, 0.904 by maskgit. `jacobi` needs 0.167 of the passes
and draws the very pictures of `sequential` (200 of 200 keys). With 5 passes the first groups decide, for what the caption
leaves open (the background) is in every code: of 768 prompts a first group of one code and eight or nine a group behind
it 0.934, of one and then as by cosine 0.941, groups of seven 0.828; a temperature of 0.2 changes nothing.
"""
from unitok.config import Config, Decoder, Evaluation, ImageTokenizer, Quantizer, Sampling, Scenes, Text, Train


def get_config() -> Config:
  return Config(
      name="scenes_parallel",
      data=Scenes(image_size=36, train_examples=40_000, val_examples=1_000, counts=(0.15, 0.3, 0.55)),
      text=Text(vocab_size=401, split_by_whitespace=False, max_captions=4_000),
      image_tokenizer=ImageTokenizer(
          widths=(128,), blocks=(2,), patch=6, encoder_kernel=1,
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8, revive_below=0.05),
          train=Train(steps=8_000, batch_size=8, learning_rate=4e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.997, log_every=100, save_every=8_000, sample_every=2_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=104, unroll=4,
          tasks=dict(text_to_image=0.4, parallel=0.6),
          train=Train(steps=3_000, batch_size=10, optimizer="muon", learning_rate=4e-3, warmup_steps=40,
                      ema_decay=0.98, log_every=25, save_every=1_000, sample_every=1_000)),
      sampling=Sampling(temperature=0.2, guidance_scale=1.5),
      evaluation=Evaluation(examples=1_000, minutes=1.5, batch_size=256),
  )
