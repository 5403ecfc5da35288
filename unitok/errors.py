"""An error as the one line that a user sees."""
import errno
import os


def message(error: BaseException) -> str:
  """What went wrong and, where the system says it, with which file."""
  where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
  if disk_full(error):
    return f"{where}the disk is full; what is finished stays: make room and give the same command again"
  if isinstance(error, OSError) and error.strerror:
    return f"{where}{error.strerror.lower()}; check the path and its rights"
  return " ".join(str(error).split()) or type(error).__name__


def disk_full(error: BaseException) -> bool:
  """Also where a library made another error of the system's, which then says it in words alone."""
  codes = (errno.ENOSPC, errno.EDQUOT)
  return getattr(error, "errno", None) in codes or any(os.strerror(code) in str(error) for code in codes)
