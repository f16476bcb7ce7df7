"""Which files a generator needs, whether they are here, how they get here and how they go.

The page asks this at every look: no torch, and Hugging Face's library only when something is asked of it.
A generator declares its files as `ARTIFACTS` in its `spec.py`; what several share is declared once.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backends import hub, registry
from backends.base import BackendUnavailable
from backends.hub import TOLERANCE, Stop, Wanted

FOLDER = "QVG_STUDIO_WEIGHTS"  # names a folder of repositories to look in before the cache


@dataclass(frozen=True, slots=True)
class File:
    """Of a repository. `size` in bytes is 0, and `sha256` empty, where they are not known.

    An `estimated` size serves to plan a download, and not to tell whether the file is complete.
    """

    path: str
    size: int = 0
    sha256: str = ""
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Files of one Hugging Face repository at one commit. `path` of them is what a loader opens."""

    repo: str
    revision: str
    files: tuple[File, ...]
    path: str

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One thing a generator loads. `source` is downloaded; `others` hold the same and are used when here.

    `converted` names the file of our own that is made of it once, and then loaded instead.
    """

    id: str
    title: str
    purpose: str  # one sentence
    licence: str
    source: Source
    others: tuple[Source, ...] = ()
    needs_acceptance: bool = False  # of the licence, before it is downloaded
    gated: bool = False  # Hugging Face asks for an account that was let in
    optional: bool = False  # the generator runs without
    converted: str = ""
    converted_size: int = 0

    @property
    def repo(self) -> str:
        return self.source.repo

    @property
    def revision(self) -> str:
        return self.source.revision

    @property
    def files(self) -> tuple[File, ...]:
        return self.source.files

    @property
    def size(self) -> int:
        """Bytes to download."""
        return self.source.size


@dataclass(frozen=True, slots=True)
class State:
    """`path` is what a loader opens, of the first artifact; None unless everything is `present`."""

    kind: Literal["absent", "partial", "present"]
    bytes_here: int
    bytes_needed: int  # to download when nothing is here
    path: Path | None


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """Bytes of everything asked for, what was here before included."""

    artifact: Artifact
    file: str
    done_bytes: int
    total_bytes: int
    checking: bool = False  # the file has arrived and is compared with its checksum


class LicenceNotAccepted(BackendUnavailable):
    """A licence that asks to be accepted was not; the message names it."""


What = Artifact | str  # an artifact, its id, or a generator's id


def of(backend_id: str) -> tuple[Artifact, ...]:
    """What a generator loads; nothing for one whose files travel with the program. Raises UnknownBackend."""
    registry.find(backend_id)
    return getattr(importlib.import_module(f"backends.{backend_id}.spec"), "ARTIFACTS", ())


def ids() -> tuple[str, ...]:
    """Of generators, then of single artifacts."""
    artifacts = (artifact.id for backend_id in registry.IDS for artifact in of(backend_id))
    return (*registry.IDS, *dict.fromkeys(artifacts))


def find(what: What) -> tuple[Artifact, ...]:
    """Raises LookupError for an id that neither an artifact nor a generator has."""
    if isinstance(what, Artifact):
        return (what,)
    if what in registry.IDS:
        return of(what)
    for backend_id in registry.IDS:
        for artifact in of(backend_id):
            if artifact.id == what:
                return (artifact,)
    raise LookupError(f"There is no {what!r}: choose one of {', '.join(ids())}")


def state(what: What) -> State:
    """What is here. Of a generator, optional parts count for their bytes only."""
    artifacts = find(what)
    needed = [artifact for artifact in artifacts if not artifact.optional or len(artifacts) == 1]
    paths = [locate(artifact) for artifact in needed]
    here = sum(_bytes_here(artifact) for artifact in artifacts)
    size = sum(artifact.size for artifact in needed)
    if all(path is not None for path in paths):
        return State("present", here, size, paths[0] if paths else None)
    return State("partial" if here else "absent", here, size, None)


def locate(artifact: Artifact) -> Path | None:
    """What a loader opens: our own conversion, or the file or folder as published. None: not all is here."""
    if artifact.converted and (made := converted_path(artifact)).is_file():
        return made
    for source in (artifact.source, *artifact.others):
        for root in _own_roots(source):
            if all(_complete(root / file.path, 0 if file.estimated else file.size) for file in source.files):
                return root / source.path
        for root in hub.snapshots(source.repo, source.revision):
            # The cache gives a file its name once all of it is there.
            if all((root / file.path).is_file() for file in source.files):
                return root / source.path
    return None


def converted_path(artifact: Artifact) -> Path:
    """Where our own conversion is, or will be. Made anew for another revision."""
    return hub.own_folder() / artifact.source.revision[:12] / artifact.converted


def missing(artifacts: tuple[Artifact, ...], gpu: str, command: str) -> str | None:
    """Why a generator cannot run, as a sentence for its picker; None when all it needs is here."""
    needed = [artifact for artifact in artifacts if not artifact.optional]
    absent = [artifact for artifact in needed if locate(artifact) is None]
    if not absent:
        return None
    total = gigabytes(sum(artifact.size for artifact in needed))
    if len(absent) == len(needed):
        return f"Not downloaded: needs {total} of weights and {gpu} (python app.py --download {command})."
    rest = ", ".join(artifact.title for artifact in absent)
    return (
        f"Partly downloaded: of its {total} of weights for {gpu} it lacks {rest} "
        f"(python app.py --download {command})."
    )


def download(
    what: What,
    progress: Callable[[DownloadProgress], None] = lambda progress: None,
    stop: Stop = lambda: False,
    accepted_licence: bool = False,
    token: str | None = None,
) -> bool:
    """Fetches what is not here into Hugging Face's cache. False when stopped; what arrived is kept.

    Raises LicenceNotAccepted, and BackendUnavailable, with a sentence and the way out, for too small a disk,
    a refused or missing token, and a network or server that fails.
    """
    wanted = [artifact for artifact in find(what) if locate(artifact) is None]
    if not wanted:
        return True
    unaccepted = [artifact for artifact in wanted if artifact.needs_acceptance]
    if unaccepted and not accepted_licence:
        raise LicenceNotAccepted(
            f"The licence of {unaccepted[0].title} has to be accepted first: {unaccepted[0].licence}"
        )
    total = sum(artifact.size for artifact in wanted)
    done = sum(_bytes_here(artifact) for artifact in wanted)
    _check_room(total - done + sum(artifact.converted_size for artifact in wanted))
    done = 0
    for artifact in wanted:
        for file in artifact.files:

            def advance(count: int, checking: bool, artifact: Artifact = artifact, file: File = file) -> None:
                nonlocal done
                done += count
                progress(DownloadProgress(artifact, file.path, done, total, checking))

            source = artifact.source
            size = 0 if file.estimated else file.size
            wanted = Wanted(source.repo, source.revision, file.path, size, file.sha256)
            if not hub.fetch(wanted, token, advance, stop):
                return False
    return True


def delete(what: What) -> int:
    """Removes files from Hugging Face's cache, and conversions; returns the bytes freed.

    What another generator needs and has is kept when a generator is named, and goes when it is named itself.
    What other programs brought stays: other commits, other layouts, and a folder of the user's own.
    """
    going = find(what)
    if isinstance(what, str) and what in registry.IDS:
        others = [backend_id for backend_id in registry.IDS if backend_id != what]
        kept = {artifact for other in others if state(other).kind == "present" for artifact in of(other)}
        going = tuple(artifact for artifact in going if artifact not in kept)
    freed = 0
    for artifact in going:
        source = artifact.source
        for file in source.files:
            freed += hub.remove(source.repo, source.revision, file.path, file.sha256)
        if artifact.converted and (made := converted_path(artifact)).is_file():
            freed += made.stat().st_size
            made.unlink()
    return freed


def gigabytes(count: int) -> str:
    """`17.5 GB` or `23 MB`, as download pages count."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _own_roots(source: Source) -> list[Path]:
    """Where the user's folder of weights may hold the repository."""
    if not (folder := os.environ.get(FOLDER)):
        return []
    own = Path(folder).expanduser()
    return [own / source.repo, own / source.repo.rpartition("/")[2], own]


def _complete(path: Path, size: int) -> bool:
    try:
        found = path.stat().st_size
    except OSError:
        return False
    return abs(found - size) <= TOLERANCE * size if size else found > 0


def _bytes_here(artifact: Artifact) -> int:
    """Of the files to download, whole or in part; of everything when they are found elsewhere."""
    source = artifact.source
    own = sum(hub.bytes_here(source.repo, source.revision, file.path, file.sha256) for file in source.files)
    if artifact.converted and (made := converted_path(artifact)).is_file():
        own += made.stat().st_size
    if own or (path := locate(artifact)) is None:
        return own
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _check_room(needed: int) -> None:
    folder = hub.cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BackendUnavailable(
            f"The disk of {hub.cache_folder()} has {gigabytes(free)} free, and {gigabytes(needed)} are "
            "needed: make room, or set HF_HOME to a folder on a larger disk."
        )
