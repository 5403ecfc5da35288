"""Binary spherical quantization (Zhao 2024, 2406.07548): the signs of a vector of length one, as one of length one."""
from unitok.models.quantizers.codebook import GRADIENTS, Quantized, unit
from unitok.models.quantizers.lfq import dim, entropy, init, signs, to_codes, to_signs

__all__ = ["dim", "init", "lookup", "quantize"]

SHARPNESS = 10.0
"""Of the soft bits in the entropy loss: its logit of a bit is 2 · SHARPNESS · z · d^-1/2 (the paper's temperature)."""


def quantize(params, state, z, options) -> Quantized:
  """The error is bounded on the sphere, so that nothing pulls z to its code but the entropy."""
  z = unit(z)
  values = signs(z) * dim(options) ** -0.5
  losses = {"entropy": entropy(2 * SHARPNESS * dim(options) ** -0.5 * z, options)}
  return Quantized(GRADIENTS[options.gradient](z, values), to_codes(z), losses)


def lookup(params, state, codes, options):
  return to_signs(codes, dim(options)) * dim(options) ** -0.5
