"""What a record says beside its captions: questions with answers, objects with boxes."""
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from unitok.data.record import BadRecord, Object

MEND = "mend the line, or leave it out with data.on_bad=skip"


class Boxed(NamedTuple):
  """An object as its file says it."""
  name: str
  box: tuple[float, float, float, float]   # x, y, width, height in pixels of the upright picture


class Shown(NamedTuple):
  """A picture inside an interleaved document."""
  file_name: str


def questions(fields: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
  """((question, answer), …) of `questions`: [{"question": …, "answer": …}, …]. BadRecord for any other form."""
  said = fields.get("questions")
  if said is None:
    return ()
  legal = isinstance(said, list) and all(isinstance(one, dict) for one in said)
  pairs = [(one.get("question"), one.get("answer")) for one in said] if legal else []
  if not legal or not all(_is_text(text) for pair in pairs for text in pair):
    raise BadRecord(where, f"its questions are {str(said)[:60]}", f'write [{{"question": …, "answer": …}}]; {MEND}')
  return tuple((question.strip(), answer.strip()) for question, answer in pairs)


def objects(fields: dict[str, Any], where: str) -> tuple[Boxed, ...]:
  """Those of `objects`, as Hugging Face's object detection folders have them: {"bbox": [[x, y, width, height], …],
  "categories": [name or number, …]}. BadRecord for any other form."""
  said = fields.get("objects")
  if said is None:
    return ()
  fields = said if isinstance(said, dict) else {}
  boxes, names = fields.get("bbox"), fields.get("categories", fields.get("category"))
  if not (isinstance(boxes, list) and isinstance(names, list) and len(boxes) == len(names)):
    raise BadRecord(where, f"its objects are {str(said)[:60]}",
                    f'write {{"bbox": [[x, y, width, height], …], "categories": [name, …]}}, as many of each; {MEND}')
  for name, box in zip(names, boxes):
    if not (_is_text(name) or (isinstance(name, int) and not isinstance(name, bool))):
      raise BadRecord(where, f"its category {str(name)[:40]} is no name", MEND)
    numbers = isinstance(box, list) and len(box) == 4 and all(_is_number(x) for x in box)
    if not numbers or min(box[:2]) < 0 or min(box[2:]) <= 0:
      raise BadRecord(where, f"its box {str(box)[:60]} is not x, y, width, height in pixels, the sides above 0", MEND)
  return tuple(Boxed(str(name).strip(), tuple(map(float, box))) for name, box in zip(names, boxes))


def placed(some: Sequence[Boxed], size: tuple[int, int], frame: tuple[float, float, float, float],
           where: str) -> tuple[Object, ...]:
  """The objects inside a frame of their picture (pictures.frame), as shares of it; what it leaves out is gone.

  size: height and width of the upright picture. BadRecord for a box that leaves it by more than a pixel.
  """
  (height, width), (left, top, *sides) = size, frame
  out = []
  for name, (x, y, across, down) in some:
    if x + across > width + 1 or y + down > height + 1:
      raise BadRecord(where, f"its box {[x, y, across, down]} leaves the picture of {width} x {height} pixels", MEND)
    x0, x1 = (min(max((edge - left) / sides[0], 0.0), 1.0) for edge in (x, min(x + across, width)))
    y0, y1 = (min(max((edge - top) / sides[1], 0.0), 1.0) for edge in (y, min(y + down, height)))
    if x0 < x1 and y0 < y1:
      out.append(Object(name, (x0, y0, x1, y1)))
  return tuple(out)


def pieces(fields: dict[str, Any], where: str) -> tuple[str | Shown, ...]:
  """Those of `pieces`, an interleaved document: a list of texts and {"file_name": …}, relative to the metadata's
  folder as the line's own. BadRecord for any other form."""
  said = fields.get("pieces")
  if said is None:
    return ()
  one = lambda piece: _is_text(piece) or (isinstance(piece, dict) and _is_text(piece.get("file_name")))
  if not (isinstance(said, list) and said and all(map(one, said))):
    raise BadRecord(where, f"its pieces are {str(said)[:60]}", f'write [text, {{"file_name": …}}, …]; {MEND}')
  return tuple(piece if isinstance(piece, str) else Shown(piece["file_name"]) for piece in said)


def _is_text(value: Any) -> bool:
  return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
