"""One self-contained HTML page: tiles, galleries, charts, tables.

No script, nothing from elsewhere, all text escaped.
"""
import base64
import html
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from unitok.data.drawings import png
from unitok.evaluation.examples import Item, Section

SHARP = 96
"""Pictures with a shorter side are enlarged in whole pixels, larger ones smoothly."""


class Tile(NamedTuple):
  """A headline number."""
  label: str
  value: str
  detail: tuple[str, ...] = ()     # lines below it
  share: float | None = None       # 0..1, drawn as a bar
  chance: float | None = None      # 0..1, a mark on the bar


STYLE = """
:root { color-scheme: light dark; --page: #f6f5f1; --card: #fff; --ink: #1b1c1e; --soft: #5f6368; --rule: #e2e0da;
  --good: #16794a; --bad: #b3372b; --accent: #2a6fd6;
  --c0: #2a6fd6; --c1: #d9730d; --c2: #168a5b; --c3: #8a3fb8; --c4: #b5365c; --c5: #6b6f2a; }
@media (prefers-color-scheme: dark) { :root { --page: #131416; --card: #1d1f22; --ink: #eceae4; --soft: #a3a6ab;
  --rule: #33363a; --good: #58c48c; --bad: #f08578; --accent: #74a9ff;
  --c0: #74a9ff; --c1: #f4a352; --c2: #55c795; --c3: #c590ee; --c4: #f08aa9; --c5: #c5c96a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 34px; line-height: 1.15; letter-spacing: -.02em; margin: 0 0 6px; }
h2 { font-size: 21px; letter-spacing: -.01em; margin: 52px 0 4px; }
p.lead { color: var(--soft); margin: 0 0 24px; max-width: 78ch; }
header p.lead { font-size: 16px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 22px 0 0; font-size: 13.5px; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.hero { display: grid; grid-template-columns: repeat(12, 1fr); gap: 6px; margin: 0 0 16px; }
.hero img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 8px; display: block;
  border: 1px solid var(--rule); }
@media (max-width: 700px) { .hero { grid-template-columns: repeat(6, 1fr); } main { padding: 24px 14px 60px; } }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(205px, 1fr)); gap: 12px; }
.tile, .card, .item, details { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; }
.tile { padding: 14px 16px 12px; }
.tile h3 { margin: 0; font-size: 13px; font-weight: 600; color: var(--soft); }
.tile .value { font-size: 30px; line-height: 1.2; font-weight: 650; letter-spacing: -.02em; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tile small { display: block; color: var(--soft); font-size: 12px; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
.bar { position: relative; height: 6px; border-radius: 3px; background: var(--rule); margin: 6px 0 7px; }
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--accent); }
.bar b { position: absolute; top: -3px; width: 2px; height: 12px; background: var(--ink); }
.gallery { display: grid; gap: 12px; align-items: start; }
.one { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.two { grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); }
.three { grid-template-columns: repeat(auto-fill, minmax(350px, 1fr)); }
.item { padding: 8px; margin: 0; min-width: 0; }
.pictures { display: flex; gap: 6px; }
.pictures > div { flex: 1; min-width: 0; }
.item img { width: 100%; display: block; border-radius: 6px; aspect-ratio: 1; object-fit: contain; }
img.sharp { image-rendering: pixelated; }
.pictures small { display: block; text-align: center; color: var(--soft); font-size: 11px; line-height: 1.5; }
figcaption { font-size: 12.5px; line-height: 1.35; margin-top: 6px; overflow-wrap: anywhere; }
figcaption small { display: block; color: var(--soft); font-size: 11.5px; margin-top: 2px; }
.mark { display: block; font-weight: 650; font-size: 11.5px; }
.mark.good { color: var(--good); } .mark.bad { color: var(--bad); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 12px; }
.card { padding: 14px 16px; } .card h3 { margin: 0 0 6px; font-size: 14px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 12.5px; color: var(--soft); margin-bottom: 6px; }
.legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.legend i { display: inline-block; width: 12px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.area { fill: var(--c0); opacity: .75; } .even { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 4; }
.legend .keyeven { background: none; height: 0; border-top: 2px dashed var(--ink); }
LINES
.film { display: grid; grid-template-columns: max-content 1fr; gap: 6px 14px; align-items: center; }
.film span { color: var(--soft); font-size: 12.5px; font-variant-numeric: tabular-nums; text-align: right; }
.film img { width: 100%; max-width: 940px; display: block; border-radius: 4px; }
.asked { display: grid; max-width: 940px; }
.asked small { font-size: 11px; line-height: 1.3; color: var(--soft); padding: 0 4px; overflow-wrap: anywhere; }
details { padding: 10px 16px; margin-top: 14px; } summary { cursor: pointer; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; margin: 8px 0; }
td, th { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; } th { color: var(--soft); font-weight: 600; }
footer { color: var(--soft); font-size: 12.5px; margin-top: 48px; }
@media print { .item, .tile, .card { break-inside: avoid; } }
""".replace("LINES", "\n".join(
    f".line{n} {{ stroke: var(--c{n}); }} .dot{n} {{ fill: var(--c{n}); }} "
    f".legend .key{n} {{ background: var(--c{n}); }}"
    for n in range(6)))


def text(value: object) -> str:
  return html.escape(str(value), quote=True)


def data_uri(content: bytes) -> str:
  """Of a PNG."""
  return "data:image/png;base64," + base64.b64encode(content).decode()


def image(content: bytes, about: str, sharp: bool) -> str:
  kind = ' class="sharp"' if sharp else ""
  return f'<img{kind} alt="{text(about)}" title="{text(about)}" src="{data_uri(content)}">'


def item(one: Item) -> str:
  shown = "".join(
      "<div>" + image(png(pixels), f"{label}: {one.text}" if label else one.text, min(pixels.shape[:2]) < SHARP)
      + (f"<small>{text(label)}</small>" if label else "") + "</div>" for label, pixels in one.pictures)
  mark = "" if one.right is None else \
      '<span class="mark good">✓ right</span> ' if one.right else '<span class="mark bad">✗ wrong</span> '
  note = f"<small>{text(one.note)}</small>" if one.note else ""
  return (f'<figure class="item"><div class="pictures">{shown}</div><figcaption>{mark}{text(one.text)}{note}'
          "</figcaption></figure>")


def gallery(section: Section) -> str:
  """A section's pictures, the widest item deciding the columns."""
  if not section.items:
    return ""
  columns = ("one", "two", "three")[min(3, max(len(one.pictures) for one in section.items)) - 1]
  judged = [one.right for one in section.items if one.right is not None]
  count = f" Of these, {sum(judged)} of {len(judged)} are right." if judged else ""
  return block(section.title, section.text + count,
               f'<div class="gallery {columns}">{"".join(item(one) for one in section.items)}</div>')


def tile(one: Tile) -> str:
  bar = ""
  if one.share is not None:
    at = lambda share: f"{100 * min(max(share, 0), 1):.1f}%"
    chance = "" if one.chance is None else f'<b style="left:{at(one.chance)}"></b>'
    bar = f'<div class="bar"><i style="width:{at(one.share)}"></i>{chance}</div>'
  lines = "".join(f"<small>{text(line)}</small>" for line in one.detail if line)
  return f'<div class="tile"><h3>{text(one.label)}</h3><div class="value">{text(one.value)}</div>{bar}{lines}</div>'


def anchor(title: str) -> str:
  return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def block(title: str, about: str, content: str) -> str:
  """A titled part; content is HTML already."""
  return f'<section id="{anchor(title)}"><h2>{text(title)}</h2><p class="lead">{text(about)}</p>{content}</section>'


def chart_cards(charts: Iterable[tuple[str, str]]) -> str:
  """(title, SVG) side by side; those without an SVG are left out."""
  cards = "".join(f'<div class="card"><h3>{text(title)}</h3>{svg}</div>' for title, svg in charts if svg)
  return f'<div class="charts">{cards}</div>' if cards else ""


def table(rows: Iterable[tuple], heads: tuple[str, ...] = ()) -> str:
  head = "<tr>" + "".join(f"<th>{text(h)}</th>" for h in heads) + "</tr>" if heads else ""
  body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
  return f'<div class="scroll"><table>{head}{body}</table></div>'


def folded(title: str, content: str, open_: bool = False) -> str:
  return f"<details{' open' if open_ else ''}><summary>{text(title)}</summary>{content}</details>"


HERO = 12
"""Pictures across the top."""


def page(title: str, lead: str, tiles: list[Tile], blocks: list[tuple[str, str]], last: Callable[[], str],
         hero: list[Item] = ()) -> str:
  """The whole page. blocks: (title, HTML); last() is called when everything else is made (it may tell the time).

  hero: the first picture of each stands at the top.
  """
  blocks = [(name, content) for name, content in blocks if content]
  links = "".join(f'<a href="#{anchor(name)}">{text(name)}</a>' for name, _ in blocks)
  top = "".join(image(png(pixels), one.text, min(pixels.shape[:2]) < SHARP) for one in hero[:HERO]
                for _, pixels in one.pictures[:1])
  top = f'<div class="hero">{top}</div>' if top else ""
  shown = f'<div class="tiles">{"".join(tile(one) for one in tiles)}</div>' if tiles else ""
  body = "".join(content for _, content in blocks)
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
          f'content="{policy}"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}'
          f"</title><style>{STYLE}</style></head><body><main><header><h1>{text(title)}</h1>"
          f'<p class="lead">{text(lead)}</p>{top}{shown}<nav>{links}</nav></header>{body}{last()}</main></body>'
          '</html>\n')
