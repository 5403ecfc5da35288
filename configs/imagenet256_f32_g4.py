"""Four codes a place on ImageNet at 256 pixels: 8 x 8 places, a residual quantizer of four books of 16,384.

    python -m train.image_tokenizer --config configs/imagenet256_f32_g4.py --workdir runs/imagenet256_f32_g4

The grid and number of codes are RQ-VAE's (2203.01941): a decoder has 64 tokens a picture instead of f16's 256, and each
stands for four codes. It has not been run here. Its cost, by `unitok plan --config configs/imagenet256_f32_g4.py`: 117
million parameters and 2.8 million of the judge; 136 GFLOP to encode a picture, 250 to decode one (a multiply-add is two),
160 TFLOP a step of 128 pictures with the judge, 64 EFLOP for 400,360 steps. 1.9 GB of state; what a batch keeps for the
backward pass is 275 GB in bfloat16 as traced, the judge's part apart, shared by the devices of the mesh.

Losses, batch and schedule are those of imagenet256_f16.py, so that what differs is the codes and a sixth level. RQ-VAE
shares one codebook among all depths and moves it by running means; here each book has its own, learned by gradient.
"""
from unitok.config import Config, ImageTokenizer, PictureLosses, Quantizer, Tfds, Train


def get_config() -> Config:
  return Config(
      name="imagenet256_f32_g4",
      data=Tfds(name="imagenet2012:5.1.0", image_size=256, resize="crop", label_field="label", on_bad="skip"),
      image_tokenizer=ImageTokenizer(
          network="vqgan", widths=(128, 128, 256, 256, 512, 512), blocks=(2, 2, 2, 2, 2, 2), patch=1, latent=256,
          quantizer=Quantizer(kind="residual", books=4, codebook_size=16_384, code_dim=256, commitment_weight=0.25),
          losses=PictureLosses(l2=1.0, edges=1.0, adversarial=0.5, judge_start=20_000, judge_learning_rate=1e-4),
          train=Train(steps=400_360, batch_size=128, learning_rate=1e-4, warmup_steps=0, final_share=1.0,
                      weight_decay=0.0, beta1=0.9, beta2=0.95, clip=1.0, ema_decay=0.9999, log_every=100,
                      save_every=5_000, sample_every=5_000)),
      compute_dtype="bfloat16",
  )
