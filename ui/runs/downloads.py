"""Downloads of models: which ones are on this machine, their sizes and licenses; downloading and deleting
them.

A download belongs to the program, not to a page: every visitor sees its progress.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from backends import registry
from backends.base import BackendUnavailable
from backends.hub import artifacts
from backends.registry import Entry
from backends.sizes import file_size
from ui import text
from ui.format import left

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Download:
    """A download that is active, or has ended with a `problem`."""

    stopping: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)
    first_bytes: int | None = None  # on disk at the first report
    last: artifacts.DownloadProgress | None = None
    problem: str = ""
    running: bool = True


class Models:
    """The program's models. `locked` returns whether visitors may only look."""

    def __init__(self, locked: Callable[[], bool] = lambda: False) -> None:
        self._locked = locked
        self._downloads: dict[str, _Download] = {}
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return any(download.running for download in self._downloads.values())

    def listing(self) -> dict[str, Any]:
        """Returns the value of the component."""
        return {
            "busy": self.busy,
            "locked": self._locked(),
            "models": [self._card(entry) for entry in registry.entries()],
        }

    def download(self, backend_id: str, accepted: bool, token: str) -> None:
        """Starts a download in the background, unless one of this model is active."""
        with self._lock:
            running = self._downloads.get(backend_id)
            if self._locked() or (running is not None and running.running):
                return
            begun = self._downloads[backend_id] = _Download()
        threading.Thread(
            target=self._fetch, args=(backend_id, begun, accepted, token.strip() or None), daemon=True
        ).start()

    def stop(self, backend_id: str) -> None:
        download = self._downloads.get(backend_id)
        if download is not None:
            download.stopping.set()

    def delete(self, backend_id: str) -> str:
        """Deletes a model's files; returns the outcome as a sentence."""
        if self._locked():
            return ""
        try:
            freed = artifacts.delete(backend_id)
        except (OSError, BackendUnavailable) as error:
            return text.not_deleted(str(error))
        with self._lock:
            self._downloads.pop(backend_id, None)
        return text.freed(file_size(freed))

    def _fetch(self, backend_id: str, download: _Download, accepted: bool, token: str | None) -> None:
        def show(progress: artifacts.DownloadProgress) -> None:
            if download.first_bytes is None:
                download.first_bytes = progress.done_bytes
            download.last = progress

        try:
            whole = artifacts.download(backend_id, show, download.stopping.is_set, accepted, token)
            download.problem = "" if whole else text.DOWNLOAD_STOPPED
        except BackendUnavailable as error:
            download.problem = str(error)
        except Exception:
            _log.exception("the download of %s failed", backend_id)
            download.problem = text.DOWNLOAD_FAILED
        finally:
            download.running = False

    def _card(self, entry: Entry) -> dict[str, Any]:
        spec = entry.spec
        parts, state = artifacts.of(spec.id), artifacts.state(spec.id)
        download = self._downloads.get(spec.id)
        running = download is not None and download.running
        # A model without files of its own is as complete as its registry entry says.
        kind = ("present" if entry.missing is None else "absent") if not parts else state.kind
        size = file_size(state.bytes_needed) if parts else text.INCLUDED
        if kind == "partial":
            size = text.part_of(file_size(state.bytes_here), size)
        return {
            "id": spec.id,
            "title": spec.title,
            "state": {"present": "ready", "partial": "part", "absent": "absent"}[kind],
            "said": {"present": text.READY, "partial": text.PARTLY_HERE, "absent": text.NOT_HERE}[kind],
            "size": size,
            "licence": spec.license,
            "parts": [text.part(each.title, each.repo, file_size(each.size), each.purpose) for each in parts],
            "trusted": artifacts.trusted(spec.id),
            "asks": any(each.needs_acceptance for each in parts),
            "gated": any(each.gated for each in parts),
            "progress": _progress(download) if running else "",
            "percent": _percent(download) if running else 0,
            "problem": download.problem if download is not None else "",
            "can_download": bool(parts) and kind != "present" and not running,
            "can_delete": bool(parts) and state.bytes_here > 0 and not running,
        }


def _percent(download: _Download | None) -> int:
    if download is None or download.last is None:
        return 0
    return round(100 * download.last.done_bytes / max(download.last.total_bytes, 1))


def _progress(download: _Download | None) -> str:
    """Returns a download's progress as text: `3.2 GB of 17.6 GB, model.safetensors, about 4 min left`."""
    if download is None or download.last is None:
        return text.DOWNLOAD_BEGINS
    last = download.last
    parts = [
        text.part_of(file_size(last.done_bytes), file_size(last.total_bytes)),
        text.checking(last.file) if last.checking else last.file,
    ]
    came = last.done_bytes - (download.first_bytes or 0)
    seconds = time.monotonic() - download.began
    if came > 0 and seconds > 2 and not last.checking:
        parts.append(left(seconds * (last.total_bytes - last.done_bytes) / came))
    return ", ".join(parts)
