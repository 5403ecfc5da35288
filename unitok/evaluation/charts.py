"""Charts as inline SVG: lines over steps, and how often each code is used. Colours come from the page's style."""
import html
import math

import numpy as np

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 24, 34
POINTS = 240
"""Points of a line, at most; more than the page has pixels for are averaged."""
COLOURS = 6
"""Classes line0 .. line5 of the page's style."""

Line = tuple[str, list[float], list[float]]      # name, x, y


def ticks(low: float, high: float, count: int = 5) -> list[float]:
  """About `count` round numbers within low .. high: ticks(0, 700) is 0, 200, 400, 600."""
  if not high > low:
    return [low]
  rough = (high - low) / count
  power = 10 ** math.floor(math.log10(rough))
  step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
  first = math.ceil(low / step - 1e-9)
  return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
  """1500 -> "1.5k", 0.25 -> "0.25"."""
  if abs(value) >= 1000 and value % 100 == 0:
    return f"{value / 1000:g}k"
  return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def thinned(x: list[float], y: list[float]) -> tuple[np.ndarray, np.ndarray]:
  """At most POINTS of a line's finite points, neighbours averaged."""
  points = np.array([(a, b) for a, b in zip(x, y) if b is not None and math.isfinite(b)], np.float64).reshape(-1, 2)
  if len(points) > POINTS:
    points = np.stack([part.mean(0) for part in np.array_split(points, POINTS)])
  return points[:, 0], points[:, 1]


def line_chart(lines: list[Line], x_label: str, y_label: str, from_zero: bool = False) -> str:
  """SVG of lines with a legend, "" where no line has a point."""
  drawn = [(name, *thinned(x, y)) for name, x, y in lines]
  drawn = [one for one in drawn if len(one[1])]
  if not drawn:
    return ""
  right = max(x.max() for _, x, _ in drawn)
  every = np.concatenate([y for _, _, y in drawn])
  low, high = float(every.min()), float(every.max())
  if len(every) > 50:      # the first steps would flatten the rest
    high = min(high, float(np.quantile(every, 0.98)) + 0.15 * (float(np.quantile(every, 0.98)) - low))
  low = 0.0 if from_zero else low - 0.04 * (high - low)
  high = high if high > low else low + 1
  across = lambda v: LEFT + (WIDTH - LEFT - RIGHT) * v / max(right, 1e-9)
  up = lambda v: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (min(v, high) - low) / (high - low)
  parts = [_frame(ticks(0, right), across, ticks(low, high), up, x_label, y_label)]
  for n, (name, x, y) in enumerate(drawn):
    path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in zip(x, y))
    parts.append(f'<polyline class="line line{n % COLOURS}" points="{path}"/>')
    parts.append(f'<circle class="dot{n % COLOURS}" cx="{across(x[-1]):.1f}" cy="{up(y[-1]):.1f}" r="3.5">'
                 f"<title>{html.escape(name)}: {number(float(y[-1]))} at {number(float(x[-1]))}</title></circle>")
  legend = "".join(f'<span><i class="key{n % COLOURS}"></i>{html.escape(name)} <b>{number(float(y[-1]))}</b></span>'
                   for n, (name, _, y) in enumerate(drawn))
  label = html.escape(f"{y_label} over {x_label}", quote=True)
  return f'<div class="legend">{legend}</div>' + _svg(label, "".join(parts))


def usage_chart(counts: list[int]) -> str:
  """SVG of the codes by how often they are used, most used first, on a logarithmic scale; "" without any use."""
  ranked = np.sort(np.asarray(counts, np.float64))[::-1]
  if not ranked.size or not ranked.sum():
    return ""
  share = ranked / ranked.sum()
  used = int((ranked > 0).sum())
  level = 1 / len(ranked)
  low, high = math.log10(share[used - 1] / 1.5), math.log10(share[0] * 1.3)
  across = lambda v: LEFT + (WIDTH - LEFT - RIGHT) * v / len(ranked)
  up = lambda v: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (v - low) / max(high - low, 1e-9)
  at = np.unique(np.round(np.linspace(0, used - 1, min(used, POINTS))).astype(int))
  points = [(across(0), up(low))]
  for one, after in zip(at, [*at[1:], used]):
    points += [(across(one), up(math.log10(share[one]))), (across(after), up(math.log10(share[one])))]
  points.append((across(used), up(low)))
  path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
  powers = [float(p) for p in range(math.ceil(low), math.floor(high) + 1)]
  frame = _frame(ticks(0, len(ranked)), across, powers, up, "codes, most used first", "share of all places",
                 lambda p: f"{10 ** (p + 2):g} %")
  y = f"{up(math.log10(level)):.1f}"
  even = f'<line class="even" x1="{across(0):.1f}" x2="{across(len(ranked)):.1f}" y1="{y}" y2="{y}"/>'
  legend = (f'<div class="legend"><span><i class="key0"></i>{used} of {len(ranked)} codes used</span>'
            f'<span><i class="keyeven"></i>were all used alike</span></div>')
  label = f"{used} of {len(ranked)} codes used"
  return legend + _svg(label, f'{frame}<polygon class="area" points="{path}"/>{even}')


def _svg(label: str, content: str) -> str:
  return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{content}</svg>'


def _frame(xs, across, ys, up, x_label: str, y_label: str, y_text=number) -> str:
  """Grid lines, their numbers, and what the axes are."""
  parts = []
  for y in ys:
    parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>'
                 f'<text x="{LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{y_text(y)}</text>')
  for x in xs:
    parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number(x)}</text>')
  parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
  parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{html.escape(x_label)}</text>')
  parts.append(f'<text x="{LEFT}" y="12">{html.escape(y_label)}</text>')
  return "".join(parts)
