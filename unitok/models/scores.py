"""What becomes of the products of queries and keys before their softmax: one formula for every attention."""
from typing import NamedTuple

import jax.numpy as jnp


class Scores(NamedTuple):
  """From products of q / (relax √d) and k to scores; plain numbers, known when a program is compiled.

  relax α: PB-relax (CogView, 2105.13290, 2.4), softmax(α (q·k / (α √d) - max)): products stay α times smaller. α is
  taken back in float32 before the maximum goes off, so beside rounding it is the identity.
  softcap c: c tanh(s / c) of each score s = q·k / √d (Gemma 2, 2408.00118, 2); 0: none.
  """
  relax: float = 1.0
  softcap: float = 0.0

  def factor(self, dim: int) -> float:
    """Of the queries, before the product."""
    return dim**-0.5 / self.relax

  def __call__(self, products):
    """f32 products -> scores, before the mask."""
    scores = products if self.relax == 1 else products * self.relax
    return self.softcap * jnp.tanh(scores / self.softcap) if self.softcap else scores

  def back(self, scores, gradient):
    """The gradient of the products from that of the scores, which are as `__call__` gave them."""
    gradient = gradient * (1 - (scores / self.softcap) ** 2) if self.softcap else gradient
    return gradient if self.relax == 1 else gradient * self.relax


PLAIN = Scores()
