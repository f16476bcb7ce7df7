"""Files that a generator needs: which they are, whether they are here, downloading and deleting them.

The page calls this on every refresh: no torch, and Hugging Face's library is imported only when needed. A
generator declares its files as `ARTIFACTS` in its `spec.py`; files that several share are declared once.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from backends import registry
from backends.base import BackendUnavailable
from backends.hub import downloads, files
from backends.hub.downloads import Stop, Wanted
from backends.sizes import file_size

FOLDER = "QVG_STUDIO_WEIGHTS"  # environment: a folder of repositories to search before the cache

_COMMON_NAMES = ("model.", "diffusion_pytorch_model.")  # do not say which model a file is of


@dataclass(frozen=True, slots=True)
class File:
    """A file of a repository. `size` in bytes is 0, and `sha256` empty, if unknown.

    An `estimated` size is for planning a download, not for checking that the file is complete.
    """

    path: str
    size: int = 0
    sha256: str = ""
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Files of one Hugging Face repository at one commit. A loader opens `path` of them."""

    repo: str
    revision: str
    files: tuple[File, ...]
    path: str

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One thing a generator loads. `source` is downloaded; `others`, of the same content, are used if here.

    `converted` names our own file, written from it once and loaded from then on.
    """

    id: str
    title: str
    purpose: str  # one sentence
    license: str
    source: Source
    others: tuple[Source, ...] = ()
    needs_acceptance: bool = False  # of the licence, before it is downloaded
    gated: bool = False  # Hugging Face may require the token of an account with access
    optional: bool = False  # the generator runs without
    converted: str = ""
    converted_size: int = 0

    @property
    def licence(self) -> str:
        """Returns `license`, under its former name."""
        return self.license

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
        """Returns the bytes to download."""
        return self.source.size

    @property
    def verifiable(self) -> bool:
        """Returns whether the program has the commit and the SHA-256 of every file that it downloads."""
        return downloads.is_commit(self.revision) and all(file.sha256 for file in self.files)


@dataclass(frozen=True, slots=True)
class State:
    """Presence of an artifact or a generator. A loader opens `path`; it is None unless all is `present`."""

    kind: Literal["absent", "partial", "present"]
    bytes_here: int
    bytes_needed: int  # to download if nothing is here
    path: Path | None


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """Bytes of everything requested, including those that were here before."""

    artifact: Artifact
    file: str
    done_bytes: int
    total_bytes: int
    checking: bool = False  # the file has arrived and its checksum is being computed


class LicenceNotAccepted(BackendUnavailable):
    """Raised for a license that must be accepted first; the message names it."""


What = Artifact | str  # an artifact, its id, or a generator's id


def of(backend_id: str) -> tuple[Artifact, ...]:
    """Returns what a generator loads; nothing if its files travel with the program. Raises UnknownBackend."""
    registry.find(backend_id)
    return getattr(importlib.import_module(f"backends.{backend_id}.spec"), "ARTIFACTS", ())


def ids() -> tuple[str, ...]:
    """Returns the ids of generators, then of single artifacts."""
    artifacts = (artifact.id for backend_id in registry.IDS for artifact in of(backend_id))
    return (*registry.IDS, *dict.fromkeys(artifacts))


def find(what: What) -> tuple[Artifact, ...]:
    """Returns the artifacts that `what` names. Raises LookupError for an unknown id."""
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
    """Returns what is here. For a generator, optional parts count for their bytes only."""
    artifacts = find(what)
    needed = [artifact for artifact in artifacts if not artifact.optional or len(artifacts) == 1]
    paths = [locate(artifact) for artifact in needed]
    here = sum(_bytes_here(artifact) for artifact in artifacts)
    size = sum(artifact.size for artifact in needed)
    if all(path is not None for path in paths):
        return State("present", here, size, paths[0] if paths else None)
    return State("partial" if here else "absent", here, size, None)


def locate(artifact: Artifact) -> Path | None:
    """Returns the path to load: our conversion, or the file or folder as published; None if incomplete."""
    if (made := _converted(artifact)) is not None:
        return made
    if (own := _own(artifact)) is not None:
        return own
    for source in (artifact.source, *artifact.others):
        if (root := downloads.holder(source.repo, source.revision, _wanted(source))) is not None:
            return root / source.path
    return None


def converted_path(artifact: Artifact) -> Path:
    """Returns the path of our conversion, here or not: one for each revision and each file of the user's."""
    made_of = artifact.source.revision[:12]
    if (own := _own(artifact)) is not None:
        found = own.stat()
        known = f"{own} {found.st_size} {found.st_mtime_ns}"
        made_of = f"own-{hashlib.sha256(known.encode()).hexdigest()[:12]}"
    return downloads.own_folder() / made_of / artifact.converted


def missing(artifacts: tuple[Artifact, ...], gpu: str, command: str) -> str | None:
    """Returns a sentence for the picker, why a generator cannot run; None if everything it needs is here."""
    needed = [artifact for artifact in artifacts if not artifact.optional]
    absent = [artifact for artifact in needed if locate(artifact) is None]
    if not absent:
        return None
    total = file_size(sum(artifact.size for artifact in needed))
    passed_over = "".join(_passed_over(artifact) for artifact in absent)
    if len(absent) == len(needed):
        lacking = f"Not downloaded: needs {total} of weights and {gpu} (python app.py --download {command})."
        return lacking + passed_over
    rest = ", ".join(artifact.title for artifact in absent)
    return (
        f"Partly downloaded: of its {total} of weights for {gpu} it lacks {rest} "
        f"(python app.py --download {command}).{passed_over}"
    )


def trusted(what: What) -> str:
    """Returns a sentence naming the parts that only Hugging Face vouches for; empty if there are none."""
    titles = [artifact.title for artifact in find(what) if not artifact.verifiable]
    if not titles:
        return ""
    return (
        f"Not every file of {', '.join(titles)} has a version and a checksum recorded here: the first "
        "download is trusted as Hugging Face serves it, and that version is kept until it is deleted."
    )


def download(
    what: What,
    progress: Callable[[DownloadProgress], None] = lambda progress: None,
    stop: Stop = lambda: False,
    accepted_license: bool = False,
    token: str | None = None,
) -> bool:
    """Downloads missing files into Hugging Face's cache. Returns False if stopped; what arrived is kept.

    Raises LicenceNotAccepted, and BackendUnavailable with a sentence and the way out if the disk is too
    small, a token is refused or missing, or a network or server fails.
    """
    wanted = [artifact for artifact in find(what) if locate(artifact) is None]
    if not wanted:
        return True
    unaccepted = [artifact for artifact in wanted if artifact.needs_acceptance]
    if unaccepted and not accepted_license:
        raise LicenceNotAccepted(
            f"The licence of {unaccepted[0].title} has to be accepted first: {unaccepted[0].license}"
        )
    total = sum(artifact.size for artifact in wanted)
    done = sum(_bytes_here(artifact) for artifact in wanted)
    _check_room(total - done + sum(artifact.converted_size for artifact in wanted))
    done = 0
    for artifact in wanted:
        for file in artifact.files:
            # One commit for all files: a branch that moves between two files, or during a pause, must not mix
            # versions.
            commit = downloads.commit_here(_wanted(artifact.source))
            source = replace(artifact.source, revision=commit or artifact.revision)

            def advance(count: int, checking: bool, artifact: Artifact = artifact, file: File = file) -> None:
                nonlocal done
                done += count
                progress(DownloadProgress(artifact, file.path, done, total, checking))

            if not downloads.fetch(_as_wanted(source, file), token, advance, stop):
                return False
    return True


def delete(what: What) -> int:
    """Deletes files from Hugging Face's cache, and conversions. Returns the bytes freed.

    When a generator is named, files that another generator needs and has are kept; they are deleted when
    named themselves. Files of other programs stay: other commits, other layouts, and the user's own folder.
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
            freed += downloads.remove(source.repo, source.revision, file.path, file.sha256)
        for made in _converted_files(artifact):
            freed += made.stat().st_size
            made.unlink()
    return freed


def _as_wanted(source: Source, file: File) -> Wanted:
    size = 0 if file.estimated else file.size
    return Wanted(source.repo, source.revision, file.path, size, file.sha256)


def _wanted(source: Source) -> list[Wanted]:
    return [_as_wanted(source, file) for file in source.files]


def _own_roots(source: Source) -> list[Path]:
    """Returns the places in the user's folder of weights where the repository may be."""
    if not (folder := os.environ.get(FOLDER)):
        return []
    own = Path(folder).expanduser()
    return [own / source.repo, own / source.repo.rpartition("/")[2], own]


def _own(artifact: Artifact) -> Path | None:
    """Returns the path to load from the user's folder: files count by name, of any size if complete."""
    for source in (artifact.source, *artifact.others):
        for root in _own_roots(source):
            if all(files.whole(root / each.path, each.size, bool(each.sha256)) for each in _wanted(source)):
                return root / source.path
            if any(file.path == source.path for file in source.files):
                for path in _other_names(root, source):
                    if files.inspect(path).kind != "unknown" and files.whole(path):
                        return path
            elif _is_own_folder(root, source):
                return root / source.path
    return None


def _other_names(root: Path, source: Source) -> list[Path]:
    """Returns paths of a file copied out of its repository's folders, or saved in another format."""
    places = [root / source.path]
    name = PurePosixPath(source.path).name
    if not name.startswith(_COMMON_NAMES) or root != _own_roots(source)[-1]:
        places.append(root / name)
    return [place.with_suffix(suffix) for place in places for suffix in files.WEIGHTS]


def _is_own_folder(root: Path, source: Source) -> bool:
    """Returns whether a folder of shards is there, in shards of any number and size."""
    shards = [file for file in source.files if file.path.endswith(".safetensors")]
    rest = [root / file.path for file in source.files if file not in shards]
    return bool(shards) and all(map(files.whole, rest)) and files.all_whole(root / source.path)


def _passed_over(artifact: Artifact) -> str:
    """Returns why files in the user's folder are not used: a space and a sentence, or nothing."""
    sources = (artifact.source, *artifact.others)
    for source in sources:
        for root in _own_roots(source):
            for file in source.files:
                if os.path.lexists(path := root / file.path) and not files.whole(path, 0):
                    return f" {path} is not used: it {files.inspect(path).fault}."
                if path.is_file() and not files.whole(path, file.size, bool(file.sha256)):
                    here, there = file_size(path.stat().st_size), file_size(file.size)
                    return f" {path} is not used: it is another file, of {here} and not {there}."
    known = {PurePosixPath(file.path).name for each in _declared() for file in each}
    for root in dict.fromkeys(root for source in sources for root in _own_roots(source)):
        with suppress(OSError):
            for path in sorted(root.iterdir()):
                strange = path.suffix in files.WEIGHTS and not path.name.startswith(".")
                if strange and path.name not in known and path.is_file():
                    size = file_size(path.stat().st_size)
                    return (
                        f" {path} ({size}) has a name that this program does not know: if it is "
                        f"{artifact.title}, call it {artifact.source.path}."
                    )
    return ""


def _declared() -> list[tuple[File, ...]]:
    """Returns the files of every known source."""
    found = [artifact for backend_id in registry.IDS for artifact in of(backend_id)]
    return [source.files for artifact in found for source in (artifact.source, *artifact.others)]


def _converted(artifact: Artifact) -> Path | None:
    """Returns our own conversion as a loader opens it: one file, or the list of its shards."""
    if not artifact.converted:
        return None
    made = converted_path(artifact)
    if files.whole(made):
        return made
    index = files.index_of(made)
    return index if index.is_file() and files.all_whole(index) else None


def _converted_files(artifact: Artifact) -> list[Path]:
    """Returns the existing files of a conversion, complete or not."""
    if not artifact.converted:
        return []
    made = converted_path(artifact)
    shards = made.parent.glob(f"{made.stem}-?????-of-?????.safetensors")
    return [path for path in (made, files.index_of(made), *sorted(shards)) if path.is_file()]


def _bytes_here(artifact: Artifact) -> int:
    """Returns the bytes here of the files to download, partial ones included; all if found elsewhere."""
    own = sum(downloads.bytes_here(wanted) for wanted in _wanted(artifact.source))
    own += sum(path.stat().st_size for path in _converted_files(artifact))
    if own or (path := locate(artifact)) is None:
        return own
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in found)


def _check_room(needed: int) -> None:
    folder = downloads.cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BackendUnavailable(
            f"The disk of {downloads.cache_folder()} has {file_size(free)} free, and {file_size(needed)} are "
            "needed: make room, or set HF_HOME to a folder on a larger disk."
        )
