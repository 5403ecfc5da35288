"""Lossless speculative decoding without a draft model (Wiggers 2020, 2002.09928; Teng 2024, 2410.01699).

The noise of each place is fixed by the key, so what is drawn there is a function of what stands before it. A pass draws
at every column of a window from guesses; what was drawn is the guess of the next pass. Column 0 has no guess before it and
is part of the sample; so is each one behind it as long as the guesses up to it are what was drawn. Unlike 2410.01699,
which accepts by chance, this gives the very sample of `sequential`:

    guesses      a  b  c  d        columns  0  1  2  3
    drawn        b  c  x  e        from     a  b  c  d: b and c were guessed right, d was not
    kept         b  c  x           3 of 4; the next pass begins with x and the guess e
"""
import jax.numpy as jnp

from unitok.sampling.strategy import Strategy, one_by_one


def prefix(right):
  """bool[b w] -> i32[b]: the columns before the first that is not right."""
  return jnp.cumprod(right.astype(jnp.int32), 1).sum(1)


JACOBI = Strategy(one_by_one, window=16)
