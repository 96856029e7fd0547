"""Where vitjax keeps what it can make again: drawn pictures, indices, copies of remote files."""

import os
import tempfile
from pathlib import Path


def folder(cache_dir: str) -> Path:
    """The setting, else $VITJAX_CACHE, else vitjax in the user's cache folder."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    if os.environ.get("VITJAX_CACHE"):
        return Path(os.environ["VITJAX_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitjax"


def put(path: Path, data: bytes) -> None:
    """Writes a file as a whole: who opens it at any moment, in any process, sees all of it or none.

    Raises:
      OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)  # temporary files are private, and a cache may be shared
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
