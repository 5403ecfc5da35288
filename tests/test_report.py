"""The page: whole without a network, everything escaped, the same figures as metrics.json, charts of known points."""
import html.parser
import json
import re

import numpy as np
import pytest

from unitok import config as c
from unitok.data.drawings import png
from unitok.evaluation import charts, page
from unitok.evaluation.examples import Figure, Item, Result, Section
from unitok.evaluation.report import read_metrics, render, settings_line, tile_of, told, write_report

EVIL = '<script>alert("x")</script><img src=https://example.org/a.png onerror=alert(1)> & "quoted" \'one\''
PICTURE = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
METRICS = {"text_to_image": {"accuracy": 0.734, "accuracy_n": 1000, "accuracy_low": 0.7058, "accuracy_high": 0.7604,
                             "accuracy_empty_prompt": 0.01},
           "image_tokenizer": {"psnr_db": 27.31, "perplexity": 88.4, "codebook_counts": [5, 3, 0, 1]},
           "sampling": {"seed": 0, "captions": EVIL}}
FIGURES = [Figure("Whole pictures", "text_to_image.accuracy", chance="text_to_image.accuracy_empty_prompt"),
           Figure("Reconstruction", "image_tokenizer.psnr_db", "dB"), Figure("Absent", "caption.exact_match")]
SECTIONS = [Section("Second", "b", [Item([("a", PICTURE), ("b", PICTURE), ("c", PICTURE)], EVIL, False, EVIL)], order=20),
            Section("First " + EVIL, "a", [Item([(EVIL, PICTURE)], "fine", True)], order=10), Section("Empty", "c", [])]


@pytest.fixture
def workdir(tmp_path):
  lines = [{"stage": "decoder", "step": s, "loss": 5.0 / s, "loss/infill/image": 4.0 / s, "loss/text/text": None} for s in (10, 20, 5)]
  lines += [{"stage": "image_tokenizer", "step": s, "psnr_db": 20 + s, "codebook_perplexity": 7} for s in (1, 2)]
  (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "deco')
  samples = tmp_path / "report" / "samples"
  samples.mkdir(parents=True)
  for step in range(1, 31):
    (samples / f"decoder_{step:06d}.png").write_bytes(png(PICTURE))
  (samples / "decoder_000030.json").write_text(json.dumps({"step": 30, "prompts": [EVIL]}))
  (samples / "notes.txt").write_text("not a picture")
  return tmp_path


class Tags(html.parser.HTMLParser):
  """Every tag with its attributes; that they close in order."""

  def __init__(self, text):
    super().__init__()
    self.found, self.open = [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.found.append((tag, dict(attributes)))
    if tag not in ("meta", "img", "br"):
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.found.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def written(workdir):
  path = write_report(workdir, c.Config(name=EVIL), Result(METRICS, FIGURES, SECTIONS), lambda: {"decoder": 12.3, "total": 13.0})
  assert path == workdir / "report" / "index.html" and not list(path.parent.glob("*new*"))
  return path.read_text()


def test_needs_nothing_from_elsewhere(workdir):
  text = written(workdir)
  tags = Tags(text)
  assert not tags.open
  assert not {tag for tag, _ in tags.found} & {"script", "link", "iframe", "object", "embed", "base", "form"}
  for tag, attributes in tags.found:
    assert not any(name.startswith("on") for name in attributes), tag
    assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    assert attributes.get("href", "#").startswith("#")
  assert not re.search(r"url\(|@import", page.STYLE)
  policy = next(a["content"] for tag, a in tags.found if a.get("http-equiv") == "Content-Security-Policy")
  assert policy.startswith("default-src 'none'")
  plain = text.replace("https://example.org", "")      # in the evil caption, escaped
  assert "http:" not in plain and "https:" not in plain


def test_escapes(workdir):
  """A malicious caption, label, note, name, prompt, setting is text and nothing else."""
  text = written(workdir)
  assert "<script" not in text and "<img src=https" not in text
  assert text.count("&lt;script&gt;alert(&quot;x&quot;)") >= 6
  images = [a for tag, a in Tags(text).found if tag == "img"]
  assert any(EVIL in a["alt"] for a in images)      # the parser gives it back as it was


def test_shows(workdir):
  text = written(workdir)
  assert text.index("First ") < text.index("Second") and "Empty" not in text
  assert "73.4 %" in text and "70.6 – 76.0 %, n = 1000" in text and "by chance 1.0 %" in text and "27.3 dB" in text
  assert "Absent" not in text
  assert "✓ right" in text and "✗ wrong" in text and "0 of 1 are right" in text
  assert "step 30<" in text and "step 1<" in text and text.count("<span>step ") == 10
  assert "3 of 4 codes used" in text and "perplexity 88" in text.lower()
  assert "infill: image" in text and "text: text" not in text      # nothing finite was logged of it
  assert "decoder.train.steps" in text and "12.3" in text
  assert "image-rendering: pixelated" in text and 'class="sharp"' in text
  assert "prefers-color-scheme: dark" in text


def test_of_a_bare_run(tmp_path):
  """Nothing measured, nothing logged, no samples: still a page."""
  text = render(tmp_path, c.Config(name="bare"), Result({}), dict)
  assert not Tags(text).open and "bare" in text and "<svg" not in text


def test_large_pictures_are_smooth():
  assert 'class="sharp"' in page.item(Item([("", PICTURE)]))
  assert 'class="sharp"' not in page.item(Item([("", np.zeros((96, 96, 3), np.uint8))]))


def test_tile():
  tile = tile_of(FIGURES[0], METRICS)
  assert tile.value == "73.4 %" and tile.share == 0.734 and tile.chance == 0.01
  assert tile_of(FIGURES[2], METRICS) is None and tile_of(FIGURES[1], METRICS).share is None
  assert [told(0.5, "%"), told(3.14159, "nats"), told(24.3123, "dB"), told(88.4, "")] == ["50.0 %", "3.14 nats", "24.3 dB", "88.4"]


def test_metrics_lines(workdir):
  lines = read_metrics(workdir)
  assert [v["step"] for v in lines["decoder"]] == [5, 10, 20] and len(lines["image_tokenizer"]) == 2
  assert read_metrics(workdir / "nowhere") == {}


def test_ticks():
  assert charts.ticks(0, 700) == [0, 200, 400, 600]
  assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
  assert charts.ticks(3, 3) == [3]
  assert [charts.number(v) for v in (0, 0.25, 1500, 8000, 12345)] == ["0", "0.25", "1.5k", "8k", "12345"]


def test_line_chart():
  svg = charts.line_chart([("loss", [0, 50, 100], [2.0, 1.5, 1.0]), ("gone", [1], [float("nan")]), ("none", [], [])], "step", "nats")
  points = [tuple(map(float, p.split(","))) for p in re.search(r'polyline[^>]*points="([^"]*)"', svg)[1].split()]
  assert len(points) == 3 and points[0][0] == charts.LEFT and points[-1][0] == charts.WIDTH - charts.RIGHT
  assert points[0][1] < points[1][1] < points[2][1]       # the loss falls, y grows downwards
  assert svg.count("polyline") == 1 and "gone" not in svg
  assert charts.line_chart([("none", [], [])], "step", "nats") == ""
  long = charts.line_chart([("long", list(range(5000)), list(np.sin(np.arange(5000))))], "step", "y")
  assert len(re.search(r'points="([^"]*)"', long)[1].split()) == charts.POINTS
  assert not Tags(svg).open


def test_usage_chart():
  svg = charts.usage_chart([100, 10, 1, 0])
  assert "3 of 4 codes used" in svg and not Tags(svg).open
  assert charts.usage_chart([]) == charts.usage_chart([0, 0]) == ""
  assert charts.usage_chart([7])       # one code, used always


def test_stability(workdir):
  """Curves of what training watched, a line a kind of target; no such section where it did not watch."""
  assert "Stability" not in written(workdir)
  with (workdir / "metrics.jsonl").open("a") as file:
    for step in (30, 40):
      file.write("\n" + json.dumps({"stage": "decoder", "step": step, "gradient_norm": 1.0, "update_ratio": 0.01,
                                    "log_z/image": 2.5, "log_z/text": 3.5, "attention_logit/text": 9.0}))
  text = written(workdir)
  section = text[text.index("What grows before a training diverges"):]
  section = section[:section.index("</section>")]
  assert section.count("<svg") == 4 and section.count("polyline") == 5 and "Largest attention logit" in section


def test_fewer_passes(workdir):
  """A line for each strategy, over its passes in their order; no such section where none was measured."""
  assert "Fewer passes" not in written(workdir)
  points = lambda **some: {number.strip("p"): {"accuracy": one} for number, one in some.items()}
  curve = {"groups": points(p16=0.75, p4=0.25, p8=0.5), "sequential": points(p64=1.0)}
  liked = {name: {number: {"nats": one["accuracy"]} for number, one in some.items()} for name, some in curve.items()}
  render_it = lambda some: render(workdir, c.Config(), Result({"parallel": {"curve": some}}), dict)
  text = render_it(curve)
  assert "nats a code, read code by code" in render_it(liked) and "nats a code, read code by code" not in text
  section = text[text.index('id="fewer-passes"'):]
  section = section[:section.index("</section>")]
  lines = [[tuple(map(float, one.split(","))) for one in part.split()] for part in re.findall(r'points="([^"]*)"', section)]
  assert [len(line) for line in lines] == [3, 1] and not Tags(text).open
  across, up = np.array([*lines[0], *lines[1]]).T
  np.testing.assert_allclose(across - charts.LEFT, (charts.WIDTH - charts.LEFT - charts.RIGHT) * np.array([4, 8, 16, 64]) / 64, atol=0.1)
  assert np.ptp(np.diff(up)) < 0.2 and (np.diff(up) < 0).all()
  assert "groups" in section and "sequential" in section and "passes of the model over a picture" in section


def test_settings():
  """The usual ones, and others where they are not plain, whatever their kind."""
  plain = "sampler: temperature 1, top_k 0, top_p 1, guidance_scale 3{}, seed 5, one sample a prompt; captions greedy"
  line = lambda **more: settings_line(c.Config(seed=5, sampling=c.Sampling(guidance_scale=3.0, **more)))
  assert line() == plain.format("")
  assert line(strategy="jacobi", min_p=0.1, guidance_interval=(0.25, 1.0)) == plain.format(
      ", guidance_interval 0.25 to 1, strategy jacobi").replace("top_p 1, ", "top_p 1, min_p 0.1, ")
