"""Files wherever they are: local paths, and URLs (gs://, s3://, https://, memory://) through fsspec.

Local paths go through Python's own calls: fsspec costs some 50 us a file, which is half of a small picture.
"""

import glob
import os
import posixpath
import time
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

TRIES = 3
WAIT_S = 0.5  # before the second try; doubled with each


class Entry(NamedTuple):
    name: str  # without the folder
    path: str  # with it, as `read` takes it
    size: int  # bytes; 0 for a folder


def is_remote(path: str) -> bool:
    """Whether `path` is a URL and not a local path."""
    return "://" in path


def join(folder: str, name: str) -> str:
    """The path of `name` in `folder`."""
    return posixpath.join(folder, name) if is_remote(folder) else os.path.join(folder, name)


def below(folder: str, path: str) -> str:
    """`path` as it is called from `folder`."""
    return path.removeprefix(folder.rstrip("/") + "/") if is_remote(path) else os.path.relpath(path, folder)


def exists(path: str) -> bool:
    """Whether there is a file or folder.

    Raises:
      OSError: the place cannot be reached.
    """
    return _tried(lambda fs: fs.exists(path), path) if is_remote(path) else os.path.exists(path)


def is_folder(path: str) -> bool:
    """Whether there is a folder.

    Raises:
      OSError: the place cannot be reached.
    """
    return _tried(lambda fs: fs.isdir(path), path) if is_remote(path) else os.path.isdir(path)


def size(path: str) -> int:
    """The length of a file in bytes.

    Raises:
      OSError: it cannot be reached, or the server does not say.
    """
    if not is_remote(path):
        return os.path.getsize(path)
    length = _tried(lambda fs: fs.size(path), path)
    if length is None:
        raise OSError(f"{path}: the server does not say how long it is")
    return length


def scan(folder: str) -> tuple[list[Entry], list[Entry]]:
    """The files and the folders directly in `folder`, in the order of their names; no hidden ones.

    Raises:
      OSError: it cannot be listed.
    """
    if is_remote(folder):
        return _scan_remote(folder)
    with os.scandir(folder) as entries:
        found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    files = [Entry(e.name, e.path, e.stat().st_size) for e in found if e.is_file()]
    return files, [Entry(e.name, e.path, 0) for e in found if e.is_dir()]


def folders(folder: str) -> list[tuple[str, str]]:
    """(name, path) of the folders directly in `folder`, in the order of their names; no file is looked at."""
    if is_remote(folder):
        return [(entry.name, entry.path) for entry in scan(folder)[1]]
    with os.scandir(folder) as entries:
        return sorted((entry.name, entry.path) for entry in entries if entry.is_dir())


def matching(pattern: str) -> list[str]:
    """The files that a pattern with * and [..] stands for.

    Raises:
      OSError: the place cannot be listed.
    """
    if not is_remote(pattern):
        return [path for path in glob.glob(pattern) if os.path.isfile(path)]
    scheme = pattern.split("://")[0]
    found = _tried(lambda fs: fs.glob(pattern), pattern)
    return [path if is_remote(path) else f"{scheme}://{path.lstrip('/')}" for path in found]


def read(path: str, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes [start, stop) of a file, to its end by default.

    Raises:
      OSError: it cannot be read, or is shorter than `stop`.
    """
    if is_remote(path):
        data = _tried(lambda fs: fs.cat_file(path, start=start, end=stop), path)
    else:
        with open(path, "rb", buffering=0) as file:  # a buffer costs more than the few calls that it saves
            file.seek(start)
            data = file.read(-1 if stop is None else stop - start)
    if stop is not None and len(data) < stop - start:
        raise OSError(f"{path} ends at byte {start + len(data):,}, and {stop:,} bytes are needed of it")
    return data


def read_named(path: str) -> bytes:
    """The bytes of a file that somebody's list names. A pipe, which would be waited for without end, is none.

    Raises:
      OSError: it cannot be read, or is not there.
    """
    if not is_remote(path) and not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is not there, or is no file")
    return read(path)


def use(path: str, act: Callable[[BinaryIO], Any], read_ahead: bool = False) -> Any:
    """What `act` makes of the open file; where a store fails it is called again for the file opened anew.

    Args:
      read_ahead: of a remote file some megabytes are fetched at a time, for one who goes through it from the
        beginning to the end; otherwise only those bytes that `act` reads.

    Raises:
      OSError: it cannot be read, or `act` fails on a remote file.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            return act(file)

    def attempt(fs: Any) -> Any:
        with fs.open(path, "rb", cache_type="readahead" if read_ahead else "none") as file:
            return act(file)

    return _tried(attempt, path)


def copy(url: str, path: str) -> None:
    """Makes `path` a copy of the remote file.

    Raises:
      OSError: it cannot be read or written, or came short.
    """
    _tried(lambda fs: fs.get_file(url, path), url)
    if os.path.getsize(path) != size(url):
        raise OSError(f"{url}: {os.path.getsize(path):,} of {size(url):,} bytes came")


def version(path: str) -> str:
    """A text that is another once the file is changed, for indices that were made of it.

    Raises:
      OSError: it cannot be reached.
    """
    if not is_remote(path):
        found = os.stat(path)
        return f"{found.st_size}-{found.st_mtime_ns}"
    about = _tried(lambda fs: fs.info(path), path)
    marks = ("ETag", "etag", "generation", "LastModified", "mtime", "created")
    return "-".join(str(about[mark]) for mark in ("size", *marks) if about.get(mark) is not None)


def _scan_remote(folder: str) -> tuple[list[Entry], list[Entry]]:
    found = _tried(lambda fs: fs.ls(folder, detail=True), folder)
    scheme = folder.split("://")[0]
    files, folders = [], []
    for about in found:
        path = about["name"].rstrip("/")
        path = path if is_remote(path) else f"{scheme}://{path.lstrip('/')}"
        name = path.rsplit("/", 1)[1]
        # Object stores list a folder's own marker as a file in it.
        if name.startswith(".") or path.rstrip("/") == folder.rstrip("/"):
            continue
        if about["type"] == "directory":
            folders.append(Entry(name, path, 0))
        else:
            files.append(Entry(name, path, about.get("size") or 0))
    return sorted(files), sorted(folders)


def _tried(act: Any, path: str) -> Any:
    """What `act` gives for the file system of `path`; stores and networks fail now and then, so up to three times.

    Raises:
      OSError: it failed each time, with whatever kind of error the store's library has.
    """
    for attempt in range(TRIES):
        try:
            return act(_file_system(path))
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError):
            raise
        except Exception as error:
            if attempt == TRIES - 1 or isinstance(error, ImportError | ValueError):
                raise OSError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
            time.sleep(WAIT_S * 2**attempt)


def _file_system(path: str) -> Any:
    import fsspec  # not needed by those who have local files alone

    return fsspec.core.url_to_fs(path)[0]
