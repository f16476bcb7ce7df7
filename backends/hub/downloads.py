"""Hugging Face's cache on disk and its download protocol, which no other file knows. No torch.

Files are stored where `huggingface_hub` itself puts and finds them. Its own downloader is not used: it keeps
nothing of an interrupted file, and these are gigabytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from backends.base import BackendUnavailable
from backends.hub import files

Stop = Callable[[], bool]
Advance = Callable[[int, bool], None]  # (bytes more than before, whether their checksum is being computed)

_PARTIAL = ".incomplete"
_SHA256 = 64  # hexadecimal digits; the cache names large files by it, small ones by git's SHA-1
_COMMIT, _CHECKSUM = "[0-9a-f]{40}", "[0-9a-f]{40}|[0-9a-f]{64}"
_CHUNK = 1 << 22
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Wanted(NamedTuple):
    """A file at one commit or branch. `size` in bytes is 0, and `sha256` empty, if unknown."""

    repo: str
    revision: str
    path: str
    size: int = 0
    sha256: str = ""


def cache_folder() -> Path:
    """Returns the cache's folder, from HF_HUB_CACHE and HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def own_folder() -> Path:
    """Returns the folder for this program's own files: beside the cache, under HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "qvg-studio"


def snapshots(repo: str, revision: str) -> list[Path]:
    """Returns folders of the repository's files at any commit that is here, `revision` first."""
    folder = _repo_folder(repo)
    commit = revision
    with suppress(OSError, UnicodeDecodeError):
        commit = (folder / "refs" / revision).read_text().strip()
    first = folder / "snapshots" / commit
    with suppress(OSError):
        return [first, *sorted(path for path in first.parent.iterdir() if path != first and path.is_dir())]
    return []


def holder(repo: str, revision: str, wanted: Sequence[Wanted]) -> Path | None:
    """Returns the first of the repository's `snapshots` that has all of the files, complete."""
    for root in snapshots(repo, revision):
        if all(_holds(root, each) for each in wanted):
            return root
    return None


def is_commit(revision: str) -> bool:
    return re.fullmatch(_COMMIT, revision) is not None


def commit_here(wanted: Sequence[Wanted]) -> str | None:
    """Returns the commit at which files of a branch were downloaded; None if none of them is here."""
    for each in wanted:
        for root in snapshots(each.repo, each.revision)[:1]:
            if is_commit(root.name) and _holds(root, each):
                return root.name
    return None


def bytes_here(wanted: Wanted) -> int:
    """Returns the bytes here of one file, or of its partial download, which is found by checksum only."""
    if (root := holder(wanted.repo, wanted.revision, (wanted,))) is not None:
        return (root / wanted.path).stat().st_size
    with suppress(OSError):
        return _partial(_repo_folder(wanted.repo), wanted.sha256).stat().st_size
    return 0


def fetch(wanted: Wanted, token: str | None, advance: Advance, stop: Stop) -> bool:
    """Downloads a file into the cache, resuming a partial download. Returns False if stopped.

    The file is kept only if commit, size and checksum are those wanted. `advance` is called with bytes as
    they are known to be here. Raises BackendUnavailable.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return _fetch(wanted, token, advance, stop)
    except _Stopped:
        return False
    # HTTP libraries' own errors are not OSErrors; which library it is depends on the version.
    except HfHubHTTPError.__bases__ as error:  # pyright: ignore[reportGeneralTypeIssues]
        raise BackendUnavailable(_sentence(error, wanted.repo, wanted.path, token)) from error


def remove(repo: str, revision: str, path: str, sha256: str = "") -> int:
    """Removes one file at one commit and its partial download. Returns the bytes freed."""
    folder = _repo_folder(repo)
    freed = 0
    for root in snapshots(repo, revision)[:1]:
        pointer = root / path
        if not os.path.lexists(pointer):
            continue
        blob = pointer.resolve()
        size = blob.stat().st_size if blob.exists() else 0
        pointer.unlink()
        if not _is_pointed_to(folder, blob):
            blob.unlink(missing_ok=True)
            freed += size
        with suppress(OSError):  # stops at the first folder that is not empty
            for parent in pointer.relative_to(folder).parents:
                (folder / parent).rmdir()
    partial = _partial(folder, sha256)
    if sha256 and partial.exists():
        freed += partial.stat().st_size
        partial.unlink()
    return freed


class _Stopped(Exception):
    pass


def _fetch(wanted: Wanted, token: str | None, advance: Advance, stop: Stop) -> bool:
    from filelock import Timeout
    from huggingface_hub import constants, get_hf_file_metadata
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    repo, revision, path, *_ = wanted
    url = f"{constants.ENDPOINT}/{repo}/resolve/{quote(revision, safe='')}/{quote(path)}"
    metadata = get_hf_file_metadata(url, token=token)
    host = urlsplit(url).netloc
    # They become file names, so they must not be paths.
    named = re.fullmatch(_COMMIT, metadata.commit_hash or "") and re.fullmatch(_CHECKSUM, metadata.etag or "")
    if metadata.commit_hash is None or metadata.etag is None or metadata.size is None or not named:
        raise BackendUnavailable(f"{host} does not answer as Hugging Face does: unset HF_ENDPOINT.")
    if not _is_wanted(wanted, metadata.commit_hash, metadata.etag, metadata.size):
        raise BackendUnavailable(
            f"{host} has another {path} than the one this program was made for: unset HF_ENDPOINT, or update "
            "the program."
        )
    folder = _repo_folder(repo)
    pointer = folder / "snapshots" / metadata.commit_hash / path
    blob = folder / "blobs" / metadata.etag
    if _has_size(pointer, metadata.size):
        advance(metadata.size, False)
        return True
    lock = cache_folder() / ".locks" / folder.name / f"{metadata.etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with WeakFileLock(lock, timeout=1):
            if _has_size(blob, metadata.size):
                advance(metadata.size, False)
            else:
                _take_back(blob)
                # Every attempt requests a new redirect: signed addresses expire before gigabytes arrive.
                _receive(url, build_hf_headers(token=token), blob, metadata.size, advance, stop)
            _point(pointer, blob)
    except Timeout:
        raise BackendUnavailable(f"Another program is downloading {path}: wait for it to end.") from None
    if metadata.commit_hash != revision:
        named = folder / "refs" / revision
        named.parent.mkdir(parents=True, exist_ok=True)
        named.write_text(metadata.commit_hash)
    return True


def _receive(url: str, headers: dict[str, str], blob: Path, size: int, advance: Advance, stop: Stop) -> None:
    from huggingface_hub.file_download import http_get

    class Bar:
        """The progress bar that the library calls for every piece that arrives."""

        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def update(self, count: int) -> None:
            # Negative if the server starts over.
            if stop():
                raise _Stopped
            advance(count, False)

    partial = blob.with_name(blob.name + _PARTIAL)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
        here = file.tell()
        advance(here, False)
        if stop():
            raise _Stopped
        http_get(url, file, resume_size=here, headers=headers, expected_size=size, tqdm_class=Bar)  # pyright: ignore[reportArgumentType]
    if _checksum(partial, blob.name, advance, stop) != blob.name:
        partial.unlink()
        raise BackendUnavailable(f"{url} arrived damaged and was removed: try again.")
    os.replace(partial, blob)


def _is_wanted(wanted: Wanted, commit: str, etag: str, size: int) -> bool:
    if is_commit(wanted.revision) and commit != wanted.revision:
        return False
    if wanted.sha256:
        return etag == wanted.sha256
    return not wanted.size or abs(size - wanted.size) <= files.TOLERANCE * wanted.size


def _checksum(path: Path, name: str, advance: Advance, stop: Stop) -> str:
    """Returns the checksum of the kind `name` is: SHA-256 of a large file, git's SHA-1 of a small one."""
    if len(name) == _SHA256:
        checksum = hashlib.sha256()
    else:
        checksum = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            if stop():
                raise _Stopped
            checksum.update(piece)
            advance(0, True)
    return checksum.hexdigest()


def _point(pointer: Path, blob: Path) -> None:
    pointer.parent.mkdir(parents=True, exist_ok=True)
    # It may be a copy, or a link to a blob that was lost.
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # a system without links
        if _is_pointed_to(blob.parent.parent, blob):
            shutil.copy2(blob, pointer)
        else:
            os.replace(blob, pointer)


def _holds(root: Path, wanted: Wanted) -> bool:
    """Returns whether a snapshot has the file, complete.

    A file of another commit only needs the same size.
    """
    path = root / wanted.path
    with suppress(OSError, RuntimeError):  # links in a circle
        blob = path.resolve()
        # The cache names a blob by its checksum.
        if blob.parent.name == "blobs" and len(blob.name) == _SHA256 and wanted.sha256 not in ("", blob.name):
            return False
    at_revision = root in snapshots(wanted.repo, wanted.revision)[:1]
    return files.whole(path, wanted.size, exact=bool(wanted.sha256), resized=at_revision)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def _take_back(blob: Path) -> None:
    """Turns a truncated blob back into a partial download, unless a larger one exists."""
    partial = blob.with_name(blob.name + _PARTIAL)
    if blob.is_file():
        longer = not partial.is_file() or partial.stat().st_size < blob.stat().st_size
        os.replace(blob, partial) if longer else blob.unlink()


def _repo_folder(repo: str) -> Path:
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def _partial(folder: Path, sha256: str) -> Path:
    return folder / "blobs" / f"{sha256}{_PARTIAL}"


def _is_pointed_to(folder: Path, blob: Path) -> bool:
    return any(path.resolve() == blob for path in (folder / "snapshots").rglob("*") if path.is_symlink())


def _sentence(error: Exception, repo: str, path: str, token: str | None) -> str:
    """Returns what went wrong and the way out, without the token or a signed address."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

    page, kept = f"https://huggingface.co/{repo}", "what arrived is kept"
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE forbids the download of {path}: unset it, or copy the files into the cache."
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 403 or isinstance(error, GatedRepoError):
            return f"Your account may not read {repo}: open {page}, accept its terms, and try again."
        if status == 401 and not (token or get_token()):
            return f"Hugging Face asks who wants {repo}: set HF_TOKEN to a token, or run `hf auth login`."
        if status == 401:
            return f"Hugging Face refuses this token for {repo}: make one on huggingface.co/settings/tokens."
        if status == 404:
            return f"Hugging Face has no {path} in {repo} at this revision: look at {page}."
        return f"Hugging Face answered {status} for {path} of {repo}: try again later; {kept}."
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"The disk of {cache_folder()} is full: make room and try again; {kept}."
    if isinstance(error, PermissionError):
        return f"{error.filename} may not be written: set HF_HOME to a folder of yours."
    return f"{path} did not arrive ({type(error).__name__}): check the network and try again; {kept}."
