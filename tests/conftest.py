"""What every test has: the CPU, no network, a compilation cache, and the way to the shared data."""
import os
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

# Environment variables, not jax.config: the programs that tests start inherit them, and tests without jax stay quick.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture
def shared_data():
  """`shared_data(name)`: the folder ../shared/data/NAME beside the checkout; the test is skipped where it is absent."""
  def folder(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
      pytest.skip(f"needs ../shared/data/{name}, which is not beside this checkout")
    return path
  return folder


LOCAL = ("127.", "::1", "localhost", "0.0.0.0")


@pytest.fixture(scope="session", autouse=True)
def no_network():
  """A connection to anywhere but this machine fails at once."""
  connect, look_up = socket.socket.connect, socket.getaddrinfo

  def guarded_connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOCAL):
      raise ConnectionRefusedError(f"{address[0]}: tests use no network")
    return connect(self, address)

  def guarded_look_up(host, *arguments, **options):
    name = host.decode() if isinstance(host, bytes) else host
    if name and not name.startswith(LOCAL) and name != socket.gethostname():
      raise socket.gaierror(socket.EAI_NONAME, f"{name}: tests use no network")
    return look_up(host, *arguments, **options)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
