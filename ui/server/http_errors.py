"""What a program is told that asks for something the page has not: Gradio alone would answer with a 500."""

from __future__ import annotations

import logging
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio.route_utils import FnIndexInferError
from starlette.requests import Request
from starlette.responses import JSONResponse

from ui import text

# What Gradio's own reading of a request raises, and ours of what is in it.
_ERRORS: tuple[type[Exception], ...] = (FnIndexInferError, AttributeError, LookupError, TypeError, ValueError)
OF_INPUT = (AttributeError, LookupError, OSError, TypeError, ValueError)
_LONGEST = 300  # characters of a line in the log
_log = logging.getLogger(__name__)


def handlers() -> dict[type[Exception], Any]:
    """For the web application, by what was raised."""
    return dict.fromkeys(_ERRORS, _refuse)


def of_input(error: Exception) -> gr.Error:
    """Returns what to raise in place of `error`, which came of reading a function's input; writes one line.

    Gradio would print a traceback for every request that names a file of someone else.
    """
    _log.warning("Input was refused: %.*r", _LONGEST, error)
    if isinstance(error, gr.Error):
        # A sentence already.
        error.print_exception = False
        return error
    gone = isinstance(error, (InvalidPathError, OSError))
    return gr.Error(text.NO_SUCH_FILE if gone else text.REFUSED, print_exception=False)


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    # At a level that is shown when someone looks for it: nobody should fill a log from outside.
    _log.info("%s %s was refused", request.method, request.url.path, exc_info=error)
    return JSONResponse({"detail": text.REFUSED}, status_code=400)
