"""LlamaGen's VQ-16 (2406.06525) on ImageNet at 256 pixels: 16 x 16 codes of 16,384, l2-normalised, of 8 numbers.

    python -m train.image_tokenizer --config configs/imagenet256_f16.py --workdir runs/imagenet256_f16

It has not been run here. Its cost, by `unitok plan --config configs/imagenet256_f16.py`: 71.9 million parameters and
2.8 million of the judge; 138 GFLOP to encode a picture, 253 to decode one (a multiply-add is two), 162 TFLOP a step of
128 pictures with the judge, 65 EFLOP for 400,360 steps, which are 51.2 million pictures, 40 epochs. 1.2 GB of state;
what a batch keeps for the backward pass is 278 GB in bfloat16 as traced, the judge's part apart, shared by the devices
of the mesh (35 GB each on 8).

Batch, epochs, a learning rate that stays as it is, Adam's betas, the clip, the commitment's weight, L2 of weight 1 and
the judge's 0.5 from step 20,000 on are those of LlamaGen's training script. What differs: for its LPIPS of weight 1 name
a file of its weights (`--image_tokenizer.losses.perceptual 1 --image_tokenizer.losses.perceptual_weights FILE`); without
one the differences between neighbours (`edges`) stand in its place, as here; our judge is balanced by the
gradients at the last layer (VQGAN) and has group norm; dead codes are revived; the codes' losses are summed over their
8 numbers where LlamaGen takes the mean; and pictures are cut at the centre and not mirrored. Its paper reports rFID
2.19 with 97 % of the codes in use. To begin with its published weights: `unitok import llamagen` and `--init.from`.

The data is prepared beforehand (the extra tfds, and ImageNet's own archives). A folder of pictures does as well: take
`ImageFolder(path=…, val_share=0.01)` for `Tfds(…)`.
"""
from unitok.config import Config, ImageTokenizer, PictureLosses, Quantizer, Tfds, Train


def get_config() -> Config:
  return Config(
      name="imagenet256_f16",
      data=Tfds(name="imagenet2012:5.1.0", image_size=256, resize="crop", label_field="label", on_bad="skip"),
      image_tokenizer=ImageTokenizer(
          network="vqgan", widths=(128, 128, 256, 256, 512), blocks=(2, 2, 2, 2, 2), patch=1, latent=256,
          quantizer=Quantizer(kind="l2", codebook_size=16_384, code_dim=8, commitment_weight=0.25),
          losses=PictureLosses(l2=1.0, edges=1.0, adversarial=0.5, judge_start=20_000, judge_learning_rate=1e-4),
          train=Train(steps=400_360, batch_size=128, learning_rate=1e-4, warmup_steps=0, final_share=1.0,
                      weight_decay=0.0, beta1=0.9, beta2=0.95, clip=1.0, ema_decay=0.9999, log_every=100,
                      save_every=5_000, sample_every=5_000)),
      compute_dtype="bfloat16",
  )
