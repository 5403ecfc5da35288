"""Residual quantization: each book quantizes what the books before it left (SoundStream, Zeghidour 2021, 2107.03312;
RQ-VAE, Lee 2022, 2203.01941, eq. 5-7).

Both papers move their codebooks by running means, and RQ-VAE has one for all depths; ours are `books` codebooks, params
[G k d], each as in plain VQ: learned by gradient, put onto what is left of the first batch, revived.
"""
import jax

from unitok.models.quantizers import vq
from unitok.models.quantizers.codebook import GRADIENTS, Quantized, at_one, nearest, pull, several

__all__ = ["books", "init", "lookup", "quantize", "update"]


def books(options) -> int:
  return options.books


@at_one(vq.init)
def init(key, options):
  return jax.vmap(lambda one: vq.init(one, options))(jax.random.split(key, several(options)))


@at_one(vq.quantize)
def quantize(params, state, z, options) -> Quantized:
  """codes i32[n G]. The losses add up over the books: commitment pulls z to each partial sum (Lee, eq. 7)."""
  def one(left, book):
    codes = nearest(jax.lax.stop_gradient(left), jax.lax.stop_gradient(book))
    values = book[codes]
    return left - jax.lax.stop_gradient(values), (values, codes, pull(left, values, options))

  _, (values, codes, losses) = jax.lax.scan(one, z, params["codebook"])
  losses = {name: loss.sum() for name, loss in losses.items()}
  return Quantized(GRADIENTS[options.gradient](z, values.sum(0)), codes.T, losses)


@at_one(vq.update)
def update(params, state, z, codes, step, key, options):
  """Plain VQ's of every book on what the books before left; at first these are the books just made, one by one."""
  def one(left, book):
    old, carried, codes, key = book
    new, now, revived = vq.update(old, carried, left, codes, step, key, options)
    taken = jax.lax.cond(carried["fresh"], lambda: new["codebook"][nearest(left, new["codebook"])],
                         lambda: old["codebook"][codes])
    return left - taken, (new, now, revived)

  _, (params, state, revived) = jax.lax.scan(one, z, (params, state, codes.T, jax.random.split(key, options.books)))
  return params, state, revived.sum()


@at_one(vq.lookup)
def lookup(params, state, codes, options):
  return jax.vmap(lambda book, codes: book[codes], (0, 1))(params["codebook"], codes).sum(0)
