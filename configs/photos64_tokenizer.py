"""The image tokenizer alone on photographs at 64 pixels, on a CPU: 16 x 16 codes of 1,024, 4 pixels a code.

    python -m train.image_tokenizer --config configs/photos64_tokenizer.py --workdir runs/photos64 \
        --data.path ../shared/data/photos

Printed by `python -m train.evaluate --what image_tokenizer` with these options, seed 0, n = 419: PSNR 25.2 dB (95 % interval
24.9-25.4), SSIM 0.82 (0.82-0.83), usage 1.0 of 1,024 codes over the held-out pictures. configs/photos.py has them at 8
pixels a code, with a decoder.
Its cost, by `unitok plan`: 838,000 parameters, 213 MFLOP to encode a picture and 209 to decode one, 10.1 GFLOP a step
of 8 pictures, 60 TFLOP for 6,000 steps (48,000 pictures): some twelve minutes where a CPU gives 80 GFLOP/s in it. 13 MB of
state; 222 MB of a batch for the backward pass in float32 as traced.
"""
from unitok.config import Config, ImageFolder, ImageTokenizer, PictureLosses, Quantizer, Train


def get_config() -> Config:
  return Config(
      name="photos64_tokenizer",
      data=ImageFolder(path="../shared/data/photos", image_size=64, resize="fit"),
      image_tokenizer=ImageTokenizer(
          widths=(160,), blocks=(4,), patch=4,
          quantizer=Quantizer(kind="l2", codebook_size=1_024, code_dim=8), losses=PictureLosses(l2=1.0, edges=0.2),
          train=Train(steps=6_000, batch_size=8, learning_rate=3e-3, warmup_steps=200, weight_decay=0.0,
                      ema_decay=0.998, log_every=100, save_every=2_000, sample_every=1_000)),
  )
