"""ASGI middleware that decides which files of the outputs folder are served; none of them may be an input.

Gradio serves everything in an allowed folder. The address of a video contains its folder, and may be shared:
beside the video lie the prompt, the picture and the clip it was made from, and its owner.
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
    """ASGI middleware that refuses requests for files of `outputs` that the page does not show; all others go
    to `app`."""

    def __init__(self, app: ASGIApp, outputs: Path) -> None:
        self._app = app
        self._outputs = os.path.realpath(outputs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_kept_back(scope["path"]):
            await PlainTextResponse(text.NOT_SERVED, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_kept_back(self, path: str) -> bool:
        """Returns whether a request's path, however it is parsed, names a file of the outputs folder that is
        not served."""
        return any(self._hides(path[match.end() :]) for match in _ROUTE.finditer(path))

    def _hides(self, path: str) -> bool:
        # With and without the first slash: Gradio has a route for each.
        for named in (path, f"/{path}"):
            try:
                # Resolved as Gradio does: "..", then links. A link may lead here from anywhere, as
                # /proc/self/cwd.
                file = os.path.realpath(os.path.abspath(named))
            except (OSError, ValueError):
                continue  # no file has such a name
            # In lower case for file systems that ignore case.
            inside = os.path.normcase(file).lower().startswith(self._outputs.lower() + os.sep)
            if inside and not is_served(Path(file[len(self._outputs) + 1 :])):
                return True
        return False


def is_served(file: Path) -> bool:
    """Returns whether the page shows `file`, relative to the outputs folder: videos and their blocks,
    thumbnails, and exports."""
    if any(part.startswith(".") for part in file.parts):
        return False
    match file.parts:
        case (_, name):
            return file.suffix == ".mp4" or name == THUMBNAIL
        case (_, folder, _):
            return folder == _EXPORTS
    return False


def is_of(outputs: Path, given: Any) -> bool:
    """Returns whether an input, as Gradio receives it, names a file of the outputs folder.

    Gradio accepts files in its folder of uploads, which may contain the outputs folder, as the system's
    temporary folder does. Other visitors' videos and start pictures must not become inputs.
    """
    match given:
        case {"path": str(path)}:
            return os.path.realpath(path).startswith(os.path.realpath(outputs) + os.sep)
        case list():
            return any(is_of(outputs, each) for each in given if isinstance(each, dict))
    return False
