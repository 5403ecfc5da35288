"""What comes next in a document of texts and pictures in free order: which piece it may be, and which one it is.

Between two pieces a document goes on with [boi], with a text's first id ([sep] of an empty one), or ends with [eos].
"""
import numpy as np

from unitok.vocab import Vocabulary


def may_come(vocabulary: Vocabulary, used: int, picture: int, row: int) -> dict[str, np.ndarray]:
  """Kind of piece -> the ids that it begins with, of those that can be finished behind `used` tokens of a training row of
  `row`: a text of a code and its [sep] at least, a picture takes so many."""
  text = np.append(vocabulary.block("text").table, vocabulary.special("[sep]"))
  first = {"end": (vocabulary.special("[eos]"), 0), "text": (text, 2), "picture": (vocabulary.special("[boi]"), picture)}
  return {kind: np.atleast_1d(ids) for kind, (ids, tokens) in first.items() if used + tokens <= row}


def choose(logits: np.ndarray, kinds: dict[str, np.ndarray], temperature: float, rng: np.random.Generator) -> str:
  """The kind of the id drawn at this temperature, by its logit in f32[v], from all that may come; at 0 of the likeliest."""
  each = {kind: logits[ids].astype(np.float64) for kind, ids in kinds.items()}
  if temperature == 0:
    return max(each, key=lambda kind: each[kind].max())
  total = np.array([np.logaddexp.reduce(some / temperature) for some in each.values()])
  p = np.exp(total - np.logaddexp.reduce(total))
  return str(rng.choice(list(each), p=p / p.sum()))
