"""Drawing: what may come, how one id is chosen, and how many are computed at once."""
from unitok.sampling.by_rows import ROWS
from unitok.sampling.groups import GROUPS
from unitok.sampling.jacobi import JACOBI
from unitok.sampling.maskgit import MASKGIT
from unitok.sampling.sequential import SEQUENTIAL
from unitok.sampling.strategy import Strategy

STRATEGIES: dict[str, Strategy] = {"sequential": SEQUENTIAL, "jacobi": JACOBI, "groups": GROUPS, "maskgit": MASKGIT,
                                    "rows": ROWS}
