"""Caption templates: a record's fields -> its captions."""
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_HOLE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Template:
  """Text with `{field}` holes; `{{` and `}}` are braces.

  A hole holds the name of a field and nothing else: no attribute, index, conversion or format is ever looked at,
  and what is put in is not read again, so neither a template nor a field's value can reach anything.
  """
  pieces: tuple[tuple[str, str | None], ...]   # (text, the field after it)

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(name for _, name in self.pieces if name is not None)

  def fill(self, fields: Mapping[str, Any]) -> str:
    """The text with its holes filled; KeyError with the name of a field that is absent or None."""
    return "".join(text if name is None else text + _text(fields, name) for text, name in self.pieces)


def parse(template: str) -> Template:
  """A template from its text. ValueError for a brace that belongs to no hole."""
  pieces, text, end = [], "", 0
  for match in _HOLE.finditer(template):
    text, end = text + template[end:match.start()], match.end()
    if match[0] in ("{{", "}}"):
      text += match[0][0]
    elif match[1] is None:
      raise ValueError(f"data.caption_template {template!r}: a lone {match[0]!r} at character {match.start() + 1}; "
                       "write {field} for a field, {{ or }} for a brace")
    else:
      pieces.append((text, match[1]))
      text = ""
  return Template((*pieces, (text + template[end:], None)))


def check(template: str, known: set[str]) -> Template:
  """`parse`, and ValueError for a field that no record has: it names the field and those that exist."""
  parsed = parse(template)
  for name in parsed.names:
    if name not in known:
      raise ValueError(f"data.caption_template {template!r}: no field {name!r}; fields: {', '.join(sorted(known))}")
  return parsed


def fill(template: Template, captions: tuple[str, ...], fields: Mapping[str, Any]) -> tuple[str, ...]:
  """One text a caption, or one alone where the template does not use {caption}; () where nothing is to be said.

  KeyError names a field that this record lacks.
  """
  if not template.pieces[-1][0] and len(template.pieces) == 1:
    return ()
  if "caption" in template.names:
    return tuple(template.fill({**fields, "caption": caption}) for caption in captions)
  return (template.fill(fields),)


def _text(fields: Mapping[str, Any], name: str) -> str:
  value = fields.get(name)
  if value is None:
    raise KeyError(name)
  return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
