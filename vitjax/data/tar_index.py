"""An index of the samples in many tar files, made once and kept as arrays that are mapped into memory.

It takes some 50 bytes a sample, of which only those that are looked at are in memory.
"""

import bisect
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from vitjax.data import cache, files
from vitjax.data.tar_scan import Scan, scan
from vitjax.errors import UserError

_VERSION = 1  # of what is kept; whatever changes it changes the names of the folders
_AT_ONCE = 16  # files that are read: most of the time goes by in waiting
_ARRAYS = ("spans", "keys", "key_ends", "labels", "starts")
_log = logging.getLogger(__name__)


class TarIndex:
    """The samples of some tar files, in the order of the files and in theirs.

    spans: uint32 [n, 4, 2], see `tar_scan.Scan`.
    labels: int32 [n, columns], places in `values`; -1 where there is no label.
    values: for each column the labels that occur.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
        self.spans, self.labels = arrays["spans"], arrays["labels"]
        self._keys, self._key_ends = arrays["keys"], arrays["key_ends"]
        self.starts: list[int] = arrays["starts"].tolist()  # of the files, and the end of the last
        self.values: list[list[int | str]] = json.loads((folder / "values.json").read_text())

    def __reduce__(self) -> tuple:
        return TarIndex, (self._folder,)

    def shard(self, row: int) -> int:
        """The number of the file that a sample lies in."""
        return bisect.bisect_right(self.starts, row) - 1

    def key(self, row: int) -> str:
        """The path of a sample in its tar, without a suffix."""
        start = self._key_ends[row - 1] if row else 0
        return self._keys[start : self._key_ends[row]].tobytes().decode("utf-8", "replace")


def open_index(paths: list[str], columns: tuple[str, ...], cache_dir: str) -> TarIndex:
    """The index of the tar files at `paths`, made first where none is kept of them as they are now.

    Args:
      columns: of the labels, see `tar_scan.scan`.

    Raises:
      UserError: a file cannot be read or is no tar, none holds a picture, or the index cannot be kept.
    """
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            versions = list(zip(paths, pool.map(files.version, paths)))
    except OSError as error:
        raise UserError(f"a file of config.data.path cannot be reached: {error}") from error
    key = hashlib.sha256(repr((_VERSION, versions, columns)).encode()).hexdigest()[:32]
    folder = cache.folder(cache_dir) / "tar" / key
    try:
        return TarIndex(folder)
    except (OSError, ValueError, EOFError):
        pass
    _log.info("indexing %d tar files once, from %s on", len(paths), paths[0])
    arrays, values = _joined(_scanned(paths, columns))
    try:
        _keep(folder, arrays, values)
    except OSError as error:
        raise UserError(
            f"config.data.cache_dir={cache_dir!r}: cannot keep the index of tar files in {folder} ({error}); name a "
            "folder that can be written, with --config.data.cache_dir or $VITJAX_CACHE"
        ) from error
    return TarIndex(folder)


def _scanned(paths: list[str], columns: tuple[str, ...]) -> list[Scan]:
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            scans = list(pool.map(partial(files.use, act=partial(scan, columns=columns), read_ahead=True), paths))
    except OSError as error:
        raise UserError(f"a file of config.data.path cannot be read: {error}; allow it, or move it out") from error
    passed: Counter = Counter()
    for path, found in zip(paths, scans):
        if found.fault and not found.keys and not found.passed:
            raise UserError(
                f"{path} cannot be read as tar ({found.fault}); unpack it where it is compressed, write it again, or "
                "move it out"
            )
        if found.fault:
            _log.warning("%s is damaged (%s): only its first %d samples are used", path, found.fault, len(found.keys))
        passed += found.passed
    for what, count in passed.items():
        _log.warning("%s and the tar files beside it: passed over %d %s", paths[0], count, what)
    if not any(found.keys for found in scans):
        raise UserError(f"{paths[0]} and the tar files beside it hold no pictures; give others as config.data.path")
    return scans


def _joined(scans: list[Scan]) -> tuple[dict[str, np.ndarray], list[list[int | str]]]:
    """The arrays of a TarIndex, and its values."""
    keys = [key for found in scans for key in found.keys]
    places = [{None: -1} for _ in next(found.labels[0] for found in scans if found.labels)]
    labels = [
        [place.setdefault(value, len(place) - 1) for place, value in zip(places, row)]
        for found in scans
        for row in found.labels
    ]
    arrays = dict(
        spans=np.concatenate([found.spans for found in scans]),
        keys=np.frombuffer(b"".join(keys), np.uint8),
        key_ends=np.cumsum([len(key) for key in keys], dtype=np.int64),
        labels=np.array(labels, np.int32),
        starts=np.cumsum([0] + [len(found.keys) for found in scans], dtype=np.int64),
    )
    return arrays, [[value for value in place if value is not None] for place in places]


def _keep(folder: Path, arrays: dict[str, np.ndarray], values: list[list[int | str]]) -> None:
    """Writes the files beside their place and moves them there whole; another process may do so too."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, array in arrays.items():
            np.save(made / f"{name}.npy", array)
        (made / "values.json").write_text(json.dumps(values))
        os.chmod(made, 0o755)  # temporary folders are private, and a cache may be shared
        shutil.rmtree(folder, ignore_errors=True)  # it could not be opened
        os.rename(made, folder)
    except OSError:
        if not (folder / "values.json").exists():  # nor has another process made it
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
