"""LlamaGen's VQ-8 (2406.06525) on ImageNet at 256 pixels: 32 x 32 codes of 16,384, l2-normalised, of 8 numbers.

    python -m train.image_tokenizer --config configs/imagenet256_f8.py --workdir runs/imagenet256_f8

It has not been run here. Its cost, by `unitok plan --config configs/imagenet256_f8.py`: 70.1 million parameters and
2.8 million of the judge; 229 GFLOP to encode a picture, 475 to decode one (a multiply-add is two), 283 TFLOP a step of
128 pictures with the judge, 113 EFLOP for 400,360 steps, which are 51.2 million pictures, 40 epochs. 1.2 GB of state;
what a batch keeps for the backward pass is 361 GB in bfloat16 as traced, the judge's part apart, shared by the devices
of the mesh (45 GB each on 8).

The recipe, and what differs from LlamaGen's, is that of configs/imagenet256_f16.py; its paper reports rFID 0.59.
"""
from unitok.config import Config, ImageTokenizer, PictureLosses, Quantizer, Tfds, Train


def get_config() -> Config:
  return Config(
      name="imagenet256_f8",
      data=Tfds(name="imagenet2012:5.1.0", image_size=256, resize="crop", label_field="label", on_bad="skip"),
      image_tokenizer=ImageTokenizer(
          network="vqgan", widths=(128, 256, 256, 512), blocks=(2, 2, 2, 2), patch=1, latent=256,
          quantizer=Quantizer(kind="l2", codebook_size=16_384, code_dim=8, commitment_weight=0.25),
          losses=PictureLosses(l2=1.0, edges=1.0, adversarial=0.5, judge_start=20_000, judge_learning_rate=1e-4),
          train=Train(steps=400_360, batch_size=128, learning_rate=1e-4, warmup_steps=0, final_share=1.0,
                      weight_decay=0.0, beta1=0.9, beta2=0.95, clip=1.0, ema_decay=0.9999, log_every=100,
                      save_every=5_000, sample_every=5_000)),
      compute_dtype="bfloat16",
  )
