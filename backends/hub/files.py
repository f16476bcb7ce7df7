"""Checks of weight files on disk by their first bytes and their own tables of contents. No torch here.

The page that lists models, downloads and loaders all use this to decide whether a file is complete. Only the
beginning and the end of a file are read.
"""

from __future__ import annotations

import errno
import json
import re
import stat
import sys
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple

from backends.base import BackendUnavailable

INDEX = ".safetensors.index.json"  # suffix of a list of shards
WEIGHTS = (".safetensors", ".pt", ".pth")  # suffixes of weight files
TOLERANCE = 0.01  # of a size that was computed, not listed
AGAIN = "delete it and download it again"

_HEAD = 512  # bytes that distinguish formats
_HEADER = 100_000_000  # bytes: the longest header that safetensors itself accepts
_JSON = 50_000_000  # bytes: no configuration or index is longer
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
_ARCHIVES = (b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd")


class Finding(NamedTuple):
    """The kind of a file.

    `fault` (or "") continues a sentence that begins with "it"; `way` is the way out.
    """

    kind: Literal["safetensors", "pytorch", "unknown"]
    fault: str = ""
    way: str = AGAIN


def inspect(path: Path) -> Finding:
    """Returns what is at `path`; `unknown` without a fault if its content decides nothing."""
    try:
        found = path.stat()
    except FileNotFoundError:
        lost = "is a link to a file that is gone" if path.is_symlink() else "is not there"
        return Finding("unknown", lost, "download it again")
    except OSError as error:
        return Finding("unknown", f"cannot be opened: {error.strerror}", "look at the disk")
    if not stat.S_ISREG(found.st_mode):
        return Finding("unknown", "is no file", "move it away")
    return _inspect(path, found.st_size, found.st_mtime_ns)


def whole(path: Path, size: int = 0, exact: bool = False, resized: bool = True) -> bool:
    """Returns whether a file is complete.

    `size` in bytes is 0 if unknown; with `exact` it must match to the byte. A file that its own header shows
    to be truncated is never complete, nor is a web page or a pointer in its place. With `resized`, a file of
    another size is complete if its own header says so: a copy in another dtype.
    """
    found = inspect(path)
    try:
        length = path.stat().st_size
    except OSError:
        return False
    if exact and length == size:
        return True
    if found.fault:
        return False
    if size and (exact or abs(length - size) > TOLERANCE * size):
        return resized and found.kind != "unknown"
    return True


def check(path: Path) -> Finding:
    """Returns the kind of file at `path`. Raises BackendUnavailable, naming it, if it has no weights."""
    found = inspect(path)
    if found.fault:
        raise damaged(path, f"it {found.fault}", found.way)
    return found


def index_of(path: Path) -> Path:
    """Returns the path of the shard list for weights too large for the one safetensors file `path`."""
    return path.with_name(path.name.removesuffix(".safetensors") + INDEX)


def damaged(path: Path, why: str, way: str = AGAIN) -> BackendUnavailable:
    """Returns the error for a file that cannot be parsed."""
    return BackendUnavailable(f"{path} cannot be read ({why}): {way}.")


def unreadable(path: Path, error: OSError) -> BackendUnavailable:
    """Returns the error for a file that the system cannot read. The file itself may be intact."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return damaged(path, "its permissions forbid it", "give this user the right to read it")
    if isinstance(error, FileNotFoundError):
        return damaged(path, "it is not there", "download it again")
    return damaged(path, error.strerror or type(error).__name__, "look at the disk it lies on, and try again")


def shards(folder: Path) -> dict[Path, frozenset[str] | None]:
    """Returns the safetensors files of a folder's weights, with the names to take from each.

    An index decides, if there is one: files it does not name are ignored. Without one all files are taken,
    with all names (None), except those that systems leave (`._x`, `.DS_Store`). Raises BackendUnavailable for
    a folder without weights or with missing shards, and for an index that points elsewhere.
    """
    indexes = _named(folder, INDEX)
    if len(indexes) > 1:
        several = ", ".join(path.name for path in indexes)
        raise BackendUnavailable(f"{folder} has several lists of shards ({several}): keep one of them.")
    if indexes:
        return indexed(indexes[0])
    files = _named(folder, ".safetensors")
    if not files:
        raise BackendUnavailable(f"{folder} holds no safetensors files.")
    _check_numbers(folder, files)
    return dict.fromkeys(files)


def indexed(index: Path) -> dict[Path, frozenset[str] | None]:
    """Returns the files beside an index that it names, with the names to take from each. See `shards`."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, Mapping) or not listed:
        raise damaged(index, "it does not say which file holds what")
    wanted: dict[Path, set[str]] = {}
    for name, file in listed.items():
        if not isinstance(file, str) or not _stays_inside(file):
            raise damaged(index, f"it names {file!r}, which is not a file beside it")
        wanted.setdefault(index.parent / file, set()).add(name)
    for file in sorted(wanted):
        if not file.is_file():
            raise BackendUnavailable(f"{index} names {file.name}, which is not there: download it again.")
    return {file: frozenset(names) for file, names in sorted(wanted.items())}


def all_whole(path: Path) -> bool:
    """Returns whether every shard in a folder, or that an index names, is there and complete."""
    try:
        return all(whole(file) for file in (shards(path) if path.is_dir() else indexed(path)))
    except BackendUnavailable:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file. Raises BackendUnavailable if it contains anything else."""
    try:
        if path.stat().st_size > _JSON:
            raise damaged(path, "it is too long for a description")
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise damaged(path, "it is no text") from None
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        found = inspect(path)
        raise damaged(path, f"it {found.fault or 'is not JSON'}") from None
    if not isinstance(read, dict):
        raise damaged(path, f"it holds a {type(read).__name__}, not a description")
    if "error" in read and not any(name.startswith("_") for name in read):
        raise damaged(path, "it is a server's answer that something went wrong")
    return read


@lru_cache(maxsize=512)
def _inspect(path: Path, size: int, changed: int) -> Finding:
    if not size:
        return Finding("unknown", "is empty")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            length = int.from_bytes(head[:8], "little")
            if head[8:9] == b"{" and 2 <= length <= _HEADER:
                file.seek(8)
                return _safetensors(file.read(length), length, size)
    except OSError as error:
        return Finding("unknown", f"cannot be opened: {error.strerror}", "look at the disk")
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"version https://git-lfs"):
        pointer = "is a Git LFS pointer, not the file it points to"
        return Finding("unknown", pointer, "run git lfs pull, or delete it and download it again")
    if text.lower().startswith(_PAGES):
        return Finding("unknown", "is a web page, saved in the file's place")
    if head.startswith(b"GGUF"):
        return Finding("unknown", "is a GGUF file", "use a safetensors or PyTorch file of the same weights")
    if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
        return Finding("unknown", "is a packed archive", "unpack it first")
    if head.startswith(b"\x00\x05\x16\x07"):
        return Finding("unknown", "is what macOS leaves beside a file", "use the file without ._ in its name")
    if text.startswith((b"{", b"[")) and path.suffix in WEIGHTS:
        return Finding("unknown", "is a JSON text, perhaps a server's answer that something went wrong")
    return Finding("unknown")


def _safetensors(header: bytes, length: int, size: int) -> Finding:
    if len(header) < length:
        return Finding("safetensors", "is cut off")
    try:
        described = json.loads(header)
        tensors = [_tensor(entry) for name, entry in described.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Finding("safetensors", "is damaged in its header")
    places = sorted(tensors)
    # Tensors follow each other without gaps, as the format requires: no byte belongs to two.
    if any(place[0] != before[1] for before, place in pairwise([(0, 0), *places])):
        return Finding("safetensors", "is damaged in its header")
    end = 8 + length + max((stop for _, stop in places), default=0)
    if size < end:
        return Finding("safetensors", "is cut off")
    if size > end:
        return Finding("safetensors", "is longer than its header says")
    return Finding("safetensors")


def _tensor(entry: Mapping[str, Any]) -> tuple[int, int]:
    """Returns where a tensor of a safetensors header begins and ends.

    Raises ValueError, KeyError or TypeError.
    """
    start, stop = entry["data_offsets"]
    sizes = [start, stop, *entry["shape"]]
    # The smallest dtype takes half a byte.
    if not isinstance(entry["dtype"], str) or any(type(size) is not int or size < 0 for size in sizes):
        raise ValueError
    if start > stop or prod(entry["shape"]) > 2 * (stop - start):
        raise ValueError
    return start, stop


def _zip(path: Path) -> Finding:
    """Returns the finding for a zip, whose table of contents is at its end."""
    again = "save it again with torch.save, or as safetensors"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            packed = any(
                entry.compress_type != zipfile.ZIP_STORED
                for entry in archive.infolist()
                if "/data/" in entry.filename
            )
            orders = {archive.read(name) for name in names if name.endswith("/byteorder")}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return Finding("pytorch", "is cut off")
    if not any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names):
        return Finding("unknown", "is a zip archive, but not one that PyTorch wrote", "unpack it first")
    if any(name.endswith("/constants.pkl") for name in names):
        return Finding("unknown", "is a TorchScript program, not weights", "use a file of weights")
    if packed:
        return Finding("unknown", "was compressed by another program than PyTorch", again)
    if orders - {sys.byteorder.encode()}:
        return Finding("unknown", "was written on a machine of the other byte order", again)
    return Finding("pytorch")


def _named(folder: Path, ending: str) -> list[Path]:
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.name.endswith(ending) and not path.name.startswith(".") and not path.is_dir()
        )
    except OSError as error:
        raise unreadable(folder, error) from error


def _check_numbers(folder: Path, files: list[Path]) -> None:
    """Raises BackendUnavailable if a file is numbered as one of several and some of those are missing."""
    numbers: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if found := _NUMBERED.fullmatch(file.name):
            numbers.setdefault((found[1], int(found[3])), set()).add(int(found[2]))
    for (stem, count), there in numbers.items():
        if absent := sorted(set(range(1, count + 1)) - there):
            lost = f"{stem}-{absent[0]:05}-of-{count:05}.safetensors"
            raise BackendUnavailable(f"{folder} lacks {lost}: download it, or remove the other shards of it.")


def _stays_inside(name: str) -> bool:
    """Returns whether a path stays inside the folder it is relative to, on any system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    rooted = posix.is_absolute() or windows.drive or windows.root
    return bool(posix.name) and not rooted and ".." not in (*posix.parts, *windows.parts)
