"""The reference: a token a pass. With a window it runs in the very program of `jacobi`, and still keeps one."""
from unitok.sampling.strategy import Strategy, one_by_one

SEQUENTIAL = Strategy(one_by_one, window=1, most=1)
