"""Scenes of 8 x 8 codes, drawn code by code and in few passes by one model, some twenty-five minutes on two CPU cores.

    python -m train.pipeline --config configs/scenes_parallel.py --workdir runs/parallel
    unitok generate "a small red circle at the left" --model runs/parallel --passes 8
    python -m train.pipeline --config configs/scenes_parallel.py --workdir runs/raster --decoder.tasks.parallel 0
    python -m tests.benchmarks.strategies --model runs/parallel --raster runs/raster --passes 8 16 32 --skip 1000

Printed by the first, seed 0, n = 1,000 each, on two cores that others used too: whole pictures drawn right 0.936 (95 % interval
0.919-0.950; 0.000 from the null caption), in 12 passes 0.943 (0.927-0.956), attributes 0.992, whole pictures of combinations
never shown 0.910 (0.891-0.926); objects read right in reconstructions 0.960 (0.951-0.968), PSNR 30.8 dB, usage 1.0: what
is drawn wrong is as often the tokenizer's doing, which had two minutes.

By the last, n = 2,000 prompts of their own, 250 in each random order: code by code 0.935 (0.924-0.945), a decoder of the same
steps that learned text_to_image alone 0.945 (0.934-0.954); in 8 passes 0.927 (0.915-0.938) in random, 0.938 (0.927-0.948) in
Halton's, 0.923 (0.911-0.934) in local order, by maskgit 0.921 (0.909-0.932). `jacobi` takes 0.146 of the passes, guessing from
the left as from above, and draws the very pictures of `sequential` (200 of 200 keys; alone, and in other batches, too).

The same with 36 pixels, so 6 x 6 codes, 8,000 tokenizer steps and rows of 104 (n = 2,000): code by code 0.971, raster alone
0.963; in 9 passes 0.960, in 5 0.947 in random and 0.945 in Halton's order. Of 5 passes there, on the first 512 to 768 prompts:
a first group of one code (so `cosine` has it now) 0.941 in the local order, of two 0.911, of seven 0.828, for what the caption
leaves open (the background) is in every code. Behind one code it makes no difference how the others grow: sizes 1 3 7 12 13,
1 2 5 12 16, 1 1 4 12 18 and 1 5 8 10 12 lie within 0.005, eight or nine each 0.008 below. Temperature 0.2 instead of 0.5 adds
0.01, 0 no more; guidance 1.25 and 2 lose 0.003 to 0.005. Eight random orders lie between 0.943 and 0.971 (binomial error
0.009), the same ones best of two models. Shares of 0.2 and 0.8 instead of 0.4 and 0.6 learned no more of groups (0.951 instead
of 0.953) and less of the rest (0.962 instead of 0.969).
"""
from unitok.config import Config, Decoder, Evaluation, ImageTokenizer, Quantizer, Sampling, Scenes, Text, Train


def get_config() -> Config:
  return Config(
      name="scenes_parallel",
      data=Scenes(image_size=48, train_examples=40_000, val_examples=1_000, counts=(0.15, 0.3, 0.55)),
      text=Text(vocab_size=401, split_by_whitespace=False, max_captions=4_000),
      image_tokenizer=ImageTokenizer(
          widths=(128,), blocks=(2,), patch=6, encoder_kernel=1,
          quantizer=Quantizer(kind="l2", codebook_size=512, code_dim=8, revive_below=0.05),
          train=Train(steps=6_000, batch_size=8, learning_rate=4e-3, warmup_steps=100, weight_decay=0.0,
                      ema_decay=0.997, log_every=100, save_every=8_000, sample_every=2_000)),
      decoder=Decoder(
          layers=4, width=192, heads=6, kv_heads=3, hidden=512, row_length=320, unroll=4,
          tasks=dict(text_to_image=0.4, parallel=0.6),
          train=Train(steps=3_000, batch_size=5, optimizer="muon", learning_rate=4e-3, warmup_steps=40,
                      ema_decay=0.98, log_every=25, save_every=1_000, sample_every=1_000)),
      sampling=Sampling(temperature=0.2, guidance_scale=1.5),
      evaluation=Evaluation(examples=1_000, minutes=1.5, batch_size=256),
  )
