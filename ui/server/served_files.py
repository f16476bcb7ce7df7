"""ASGI middleware: which files of the outputs folder the web server may hand out, and that none is an input.

Gradio serves all of an allowed folder. The address of a video names its folder, and may be handed on: beside
the video lie the prompt, the picture and the clip it was made from, and whose it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ui import text
from ui.runs.folder import THUMBNAIL

_ROUTE = re.compile("/file[=/]")
_EXPORTS = "export"


class ServedFiles:
    """Refuses requests for files of `outputs` that the page does not show; all others go to `app`."""

    def __init__(self, app: ASGIApp, outputs: Path) -> None:
        self._app = app
        self._outputs = os.path.realpath(outputs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_kept_back(scope["path"]):
            await PlainTextResponse(text.NOT_SERVED, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_kept_back(self, path: str) -> bool:
        """Whether an address, in any reading, names a file of the outputs folder that is not for the page."""
        return any(self._hides(path[match.end() :]) for match in _ROUTE.finditer(path))

    def _hides(self, asked: str) -> bool:
        # With and without the first slash: Gradio has a route for each.
        for named in (asked, f"/{asked}"):
            try:
                # As Gradio does: "..", then links. One may lead here from anywhere, as /proc/self/cwd.
                file = os.path.realpath(os.path.abspath(named))
            except (OSError, ValueError):
                continue  # no file has such a name
            # On a file system that ignores case, too.
            inside = os.path.normcase(file).lower().startswith(self._outputs.lower() + os.sep)
            if inside and not is_served(Path(file[len(self._outputs) + 1 :])):
                return True
        return False


def is_served(file: Path) -> bool:
    """Whether the page shows `file`, relative to the outputs folder: videos and their blocks, thumbnails, and
    what was exported."""
    if any(part.startswith(".") for part in file.parts):
        return False
    match file.parts:
        case (_, name):
            return file.suffix == ".mp4" or name == THUMBNAIL
        case (_, folder, _):
            return folder == _EXPORTS
    return False


def is_of(outputs: Path, given: Any) -> bool:
    """Returns whether an input, as Gradio gets it, names a file of the outputs folder.

    Gradio takes what lies in its folder of uploads, and that may be around this one, as the folder of all
    temporary files is. What another visitor made, or started from, is not for everyone to make a video of.
    """
    match given:
        case {"path": str(path)}:
            return os.path.realpath(path).startswith(os.path.realpath(outputs) + os.sep)
        case list():
            return any(is_of(outputs, each) for each in given if isinstance(each, dict))
    return False
