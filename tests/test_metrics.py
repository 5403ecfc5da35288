"""Means, and TensorBoard's events: what is written can be read, what a killed run wrote too much is hidden."""
import struct
import time

import pytest

from unitok import config as c
from unitok.metrics import Mean, open_writers


def test_means_merge():
  """Of (1, 2, 6) and (7): 4, not the mean of 3 and 7."""
  both = Mean(9.0, 3.0) + Mean(7.0, 1.0)
  assert both == Mean(16.0, 4.0) and both.value() == 4
  assert str(Mean(0.0, 0.0).value()) == "nan"


def shown(folder) -> dict[str, dict[int, float]]:
  """{name: {step: value}} as TensorBoard has them: a START hides what was read before from its step on."""
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
        found.setdefault(value.tag, {})[event.step] = value.simple_value
  return found


@pytest.mark.parametrize("kept", [0, 2])
def test_tensorboard(tmp_path, kept):
  """Killed after step 4 and gone on with behind step `kept`, which is 0 where there was no checkpoint yet."""
  pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (pip install unitok[tensorboard])")
  def run(first, last, loss):
    writer = open_writers(c.Config(tensorboard=True), tmp_path, "decoder")
    writer.resume(first)
    for step in range(first + 1, last + 1):
      writer.write(step, {"loss": loss, "loss/text/text": 2 * loss})
    writer.close()
  run(0, 4, 8.0)
  time.sleep(1.1)      # files are named by the second
  run(kept, 3, 0.5)
  want = {step: 8.0 if step <= kept else 0.5 for step in (1, 2, 3)}
  assert shown(tmp_path / "tensorboard" / "decoder") == {
      "loss": want, "loss/text/text": {step: 2 * value for step, value in want.items()}}
