"""What comes next in a document of texts and pictures: what fits, and the share that the logits give each kind."""
import numpy as np
from test_sampler import V

from unitok.sampling.pieces import choose, may_come


def test_only_what_can_be_finished():
  """A picture of 18 tokens, a text of two at least, an end always."""
  kinds = lambda used: list(may_come(V, used, 18, 40))
  assert kinds(22) == ["end", "text", "picture"] and kinds(23) == kinds(38) == ["end", "text"] and kinds(39) == ["end"]
  first = may_come(V, 0, 18, 40)
  assert first["picture"].tolist() == [V.special("[boi]")] and first["end"].tolist() == [V.special("[eos]")]
  assert set(first["text"]) == {*V.block("text").table, V.special("[sep]")}


def test_kinds_come_as_their_first_ids_do():
  """What each kind's ids have of the softmax over all that may come; at 0 that of the likeliest id."""
  logits, kinds = np.random.default_rng(0).normal(size=V.size).astype(np.float32), may_come(V, 0, 18, 40)
  logits[V.special("[boi]")], logits[V.special("[eos]")] = 2.5, 2.0
  for temperature in (1.0, 0.5):
    weights = {kind: np.exp(logits[ids] / temperature).sum() for kind, ids in kinds.items()}
    rng = np.random.default_rng(1)
    drawn = [choose(logits, kinds, temperature, rng) for _ in range(4_000)]
    for kind, weight in weights.items():
      p = weight / sum(weights.values())
      assert 0.02 < p < 0.98 and abs(drawn.count(kind) / 4_000 - p) < 4 * (p * (1 - p) / 4_000)**0.5
  assert choose(logits, kinds, 0.0, rng) == ("picture" if logits[kinds["text"]].max() < 2.5 else "text")
  assert choose(logits, {"end": kinds["end"]}, 1.0, rng) == "end"
