"""Means; what is written for TensorBoard can be read, and what a killed run wrote too much is hidden; a full disk."""
import io
import json
import struct
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image

from unitok import config as c
from unitok.errors import message
from unitok.metrics import JsonlWriter, Mean, open_writers


def test_means_merge():
  """Of (1, 2, 6) and (7): 4, not the mean of 3 and 7."""
  both = Mean(9.0, 3.0) + Mean(7.0, 1.0)
  assert both == Mean(16.0, 4.0) and both.value() == 4
  assert str(Mean(0.0, 0.0).value()) == "nan"


def shown(folder) -> dict[str, dict[int, float]]:
  """{name: {step: value, or an encoded picture}} as TensorBoard has them: a START hides what was read before from its step
  on."""
  from tensorboardX.proto.event_pb2 import Event, SessionLog
  found = {}
  for path in sorted(folder.iterdir()):
    content = path.read_bytes()
    while content:      # records of a length, its checksum, the event, its checksum
      length, = struct.unpack("<Q", content[:8])
      event, content = Event.FromString(content[12:12 + length]), content[16 + length:]
      if event.session_log.status == SessionLog.START:
        found = {name: {step: v for step, v in values.items() if step < event.step} for name, values in found.items()}
      for value in event.summary.value:
        found.setdefault(value.tag, {})[event.step] = value.image.encoded_image_string or value.simple_value
  return found


def test_jsonl_on_a_full_disk():
  """The error names the file, which the system's own does not."""
  with pytest.raises(OSError, match="No space left") as told:
    JsonlWriter("/dev/full", "decoder").write(1, {"loss": 1.0})
  assert message(told.value).startswith("/dev/full: the disk is full;")


def test_wandb(tmp_path, monkeypatch):
  """A run for each start of a stage, the stages of one config side by side; its lines, then its end."""
  said = []

  def init(**options):
    said.append(options)
    return types.SimpleNamespace(log=lambda values, step: said.append((step, values)), finish=lambda: said.append("end"))
  monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Image=lambda pixels: pixels.shape))
  config = c.Config(name="demo", wandb=True)
  writer = open_writers(config, tmp_path, "decoder")
  writer.resume(3)
  writer.write(4, {"loss": 0.5, "loss/text/text": 2.0})
  writer.show(4, "drawn", np.zeros((2, 3, 3), np.uint8))
  writer.close()
  assert said == [dict(project="unitok", name="demo-decoder", group="demo", dir=str(tmp_path), config=c.to_json(config),
                       reinit="create_new"), (4, {"loss": 0.5, "loss/text/text": 2.0}), (4, {"drawn": (2, 3, 3)}), "end"]
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert lines == [{"stage": "decoder", "step": 4, "loss": 0.5, "loss/text/text": 2.0}]


@pytest.mark.parametrize("kept", [0, 2])
def test_tensorboard(tmp_path, kept):
  """Killed after step 4 and gone on with behind step `kept`, which is 0 where there was no checkpoint yet."""
  pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (pip install unitok[tensorboard])")
  def run(first, last, loss):
    writer = open_writers(c.Config(tensorboard=True), tmp_path, "decoder")
    writer.resume(first)
    for step in range(first + 1, last + 1):
      writer.write(step, {"loss": loss, "loss/text/text": 2 * loss})
      writer.show(step, "drawn", np.full((2, 3, 3), step, np.uint8))
    writer.close()
  run(0, 4, 8.0)
  time.sleep(1.1)      # files are named by the second
  run(kept, 3, 0.5)
  want = {step: 8.0 if step <= kept else 0.5 for step in (1, 2, 3)}
  found = shown(tmp_path / "tensorboard" / "decoder")
  drawn = found.pop("drawn")
  assert drawn.keys() == want.keys()
  for step, picture in drawn.items():
    np.testing.assert_array_equal(Image.open(io.BytesIO(picture)), np.full((2, 3, 3), step, np.uint8))
  assert found == {"loss": want, "loss/text/text": {step: 2 * value for step, value in want.items()}}
