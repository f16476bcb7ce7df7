"""Exception handlers: malformed API requests get a 400 instead of Gradio's 500."""

from __future__ import annotations

import logging
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio.route_utils import FnIndexInferError
from starlette.requests import Request
from starlette.responses import JSONResponse

from ui import text

# Raised while Gradio reads a request, and while the page reads its contents.
_ERRORS: tuple[type[Exception], ...] = (FnIndexInferError, AttributeError, LookupError, TypeError, ValueError)
OF_INPUT = (AttributeError, LookupError, OSError, TypeError, ValueError)
_LONGEST = 300  # characters of a line in the log
_log = logging.getLogger(__name__)


def handlers() -> dict[type[Exception], Any]:
    """Returns the handlers for the web application, by exception."""
    return dict.fromkeys(_ERRORS, _refuse)


def of_input(error: Exception) -> gr.Error:
    """Returns the exception to raise in place of `error`, raised while a function's input was read; logs one
    line.

    Gradio would print a traceback for every request that names another visitor's file.
    """
    _log.warning("Input was refused: %.*r", _LONGEST, error)
    if isinstance(error, gr.Error):
        # Its message is a sentence already.
        error.print_exception = False
        return error
    gone = isinstance(error, (InvalidPathError, OSError))
    return gr.Error(text.NO_SUCH_FILE if gone else text.REFUSED, print_exception=False)


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """Answers a malformed request with 400."""
    # At info level, off by default: requests from outside must not fill a log.
    _log.info("%s %s was refused", request.method, request.url.path, exc_info=error)
    return JSONResponse({"detail": text.REFUSED}, status_code=400)
