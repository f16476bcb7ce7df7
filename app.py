"""Command line of QVG Studio: `python app.py` opens the page. `from app import demo` is the same page, for a
notebook.

Heavy imports are deferred: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from backends.runtime.hardware import not_writable
from ui.server import environment

if TYPE_CHECKING:
    from ui.page import Studio


def make_page(
    device: str = "auto",
    outputs: Path | None = None,
    runs_per_visitor: int = 2,
    keep_hours: int = 24,
    keep_gib: int = 8,
) -> Studio:
    """Returns the page with its worker; neither starts a process before the first visitor.

    On a public page a visitor may have `runs_per_visitor` active videos, and videos are deleted once they are
    `keep_hours` old or all of them take more than `keep_gib`; 0 is no limit. Raises ValueError with a
    sentence if Gradio cannot start in this environment.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    _prepare()
    from backends.runtime import warmup

    # Set here, because all processes started later inherit the kernels' folder.
    warmup.keep_kernels(outputs or _default_outputs())
    if os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"):
        # Must be imported before torch.
        from backends.runtime.zerogpu import ZeroWorker

        models = os.environ.get("QVG_STUDIO_PRELOAD", "pocket")
        worker = ZeroWorker(preload=filter(None, models.split(",")))
    else:
        from backends.runtime.worker import Worker

        worker = Worker(device)
    from ui.page import Limits, build

    limits = Limits(keep_hours, keep_gib)
    return build(worker, outputs or _default_outputs(), runs_per_visitor, limits)


def __getattr__(name: str) -> Studio:
    if name != "demo":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    page = globals()["demo"] = make_page()
    return page


def main() -> None:
    """Runs the command line."""
    options = _parser().parse_args()
    if options.weights:
        # The worker process reads it, too.
        os.environ["QVG_STUDIO_WEIGHTS"] = str(options.weights)
    if options.check:
        from backends import checkup

        outputs = options.outputs or _default_outputs()
        raise SystemExit(checkup.run(options.device, outputs, options.card, options.json))
    try:
        _prepare()
    except environment.CannotStart as error:
        raise SystemExit(str(error)) from None
    if options.download:
        raise SystemExit(download(options.download, options.accept_licence))
    mcp = options.mcp or os.environ.get("GRADIO_MCP_SERVER", "").lower() == "true"
    if mcp and find_spec("mcp") is None:
        raise SystemExit('--mcp needs one more package: pip install "gradio[mcp]"')
    problem = _port_problem(options.host, options.port)
    if problem:
        raise SystemExit(problem)
    # Docker, systemd and Spaces end a program by SIGTERM: it cleans up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        page = make_page(
            options.device, options.outputs, options.runs_per_visitor, options.keep_hours, options.keep_gib
        )
    except KeyboardInterrupt:
        raise SystemExit(0) from None
    outputs = page.outputs
    if problem := not_writable(outputs):
        print(f"{problem}: videos play, but are not kept. Choose another folder with --outputs.")
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if prefix and not options.root_path:
        path = f"{prefix.rstrip('/')}/proxy/{options.port}"
        print(f"Behind JupyterLab's proxy, start with --root-path {path} and open that path in the browser.")
    try:
        page.launch(
            allowed_hosts=options.allow_host,
            server_name=options.host,
            server_port=options.port,
            share=options.share or None,  # None: GRADIO_SHARE decides
            auth=options.auth,
            root_path=options.root_path,
            mcp_server=mcp,
        )
    except KeyboardInterrupt:
        raise SystemExit(0) from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    except OSError as error:
        raise SystemExit(f"The page could not be opened on {options.host}:{options.port}: {error}") from None


def _prepare() -> None:
    """Corrects the environment and prints what was changed."""
    for change in environment.prepare():
        print(change, flush=True)


def download(name: str, accepted_license: bool) -> str | None:
    """Downloads a model's files and prints the progress. Returns an error as a sentence."""
    from backends.base import BackendUnavailable
    from backends.hub import artifacts
    from backends.hub.downloads import cache_folder
    from backends.sizes import file_size

    try:
        what = name if name in artifacts.ids() else name.replace("-", "_")
        found = artifacts.find(what)
    except LookupError as error:
        return f"{error}."
    for artifact in found:
        state = "here" if artifacts.locate(artifact) else file_size(artifact.size)
        print(f"{artifact.title}: {state}. {artifact.purpose} Licence: {artifact.license}")
    if trusted := artifacts.trusted(what):
        print(trusted)
    print(f"Into {cache_folder()}", flush=True)
    shown = 0.0

    def show(progress: artifacts.DownloadProgress) -> None:
        nonlocal shown
        last = progress.done_bytes == progress.total_bytes
        # A log would grow by a line a second.
        if time.monotonic() - shown < (1 if sys.stdout.isatty() else 15) and not last:
            return
        shown = time.monotonic()
        done, total = file_size(progress.done_bytes), file_size(progress.total_bytes)
        doing = "checking" if progress.checking else "receiving"
        print(f"{done} of {total}, {doing} {progress.file}", flush=True)

    try:
        artifacts.download(what, show, accepted_license=accepted_license)
    except artifacts.LicenceNotAccepted as error:
        return f"{error} Add --accept-licence to accept it."
    except BackendUnavailable as error:
        return str(error)
    except KeyboardInterrupt:
        return "Stopped. What arrived is kept: the same command goes on from there."
    print("All here.")
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app.py", description="QVG Studio: long video from a 2-bit KV cache."
    )
    parser.add_argument(
        "--host",
        type=environment.bare,
        default=os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1",
        help="address to listen on (%(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=os.environ.get("GRADIO_SERVER_PORT") or "7860", help="port (%(default)s)"
    )
    parser.add_argument("--share", action="store_true", help="also open a public gradio.live address")
    parser.add_argument(
        "--auth",
        type=_login,
        default=os.environ.get("QVG_STUDIO_AUTH") or None,
        metavar="USER:PASSWORD",
        help="ask visitors to log in; QVG_STUDIO_AUTH says it unseen by others on this machine",
    )
    parser.add_argument(
        "--root-path",
        help="path or URL in front of the page behind a proxy, such as /user/me/proxy/7860 or "
        "https://hub.example/user/me/proxy/7860",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="serve the page under this name, too, which a proxy in front of it has; may be repeated, and "
        "QVG_STUDIO_ALLOW_HOST names several",
    )
    parser.add_argument(
        "--mcp", action="store_true", help="also serve what programs can ask for as tools of an MCP server"
    )
    parser.add_argument("--outputs", type=Path, metavar="DIR", help="where videos are kept (./outputs)")
    parser.add_argument(
        "--runs-per-visitor",
        type=_count,
        default=os.environ.get("QVG_STUDIO_RUNS_PER_VISITOR", "2"),
        metavar="N",
        help="videos a visitor to a public page may have running or waiting (%(default)s)",
    )
    parser.add_argument(
        "--keep-hours",
        type=_limit,
        default=os.environ.get("QVG_STUDIO_KEEP_HOURS", "24"),
        metavar="N",
        help="age at which a public page deletes videos; 0 keeps them (%(default)s)",
    )
    parser.add_argument(
        "--keep-gib",
        type=_limit,
        default=os.environ.get("QVG_STUDIO_KEEP_GIB", "8"),
        metavar="N",
        help="room for the videos of a public page, which deletes the oldest beyond it; 0 is no limit "
        "(%(default)s)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="what to compute on (%(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="say what works on this machine, and leave")
    parser.add_argument("--json", action="store_true", help="with --check: as JSON")
    parser.add_argument(
        "--card",
        default="",
        metavar="SM",
        help="with --check: also compile the kernels for this card, such as sm_120, which need not be here",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help="a folder of models to look in before Hugging Face's cache",
    )
    parser.add_argument(
        "--download", metavar="MODEL", help="fetch a model's files, such as self-forcing, and leave"
    )
    parser.add_argument(
        "--accept-licence",
        "--accept-license",
        action="store_true",
        help="of the model to download, once you have read it",
    )
    return parser


def _login(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("write user:password, both not empty")
    return user, password


def _count(text: str, least: int = 1) -> int:
    if not (len(text) < 10 and text.isascii() and text.isdigit() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"write a whole number from {least}")
    return int(text)


def _limit(text: str) -> int:
    return _count(text, least=0)


def _default_outputs() -> Path:
    # The program's folder on a Space may be read-only.
    return Path(tempfile.gettempdir()) / "qvg-studio" if os.environ.get("SPACE_ID") else Path("outputs")


def _port_problem(host: str, port: int) -> str:
    """Returns why the page cannot listen on the address, before anything is loaded; empty if it can."""
    if not 0 < port < 65536:
        return f"Port {port} does not exist: choose one from 1 to 65535 with --port."
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError:
        return f"Port {port} is reserved by the system: choose one above 1023 with --port."
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            return f"Port {port} is taken on {host}: stop what runs there, or choose another with --port."
        return f"There is no address {host!r} on this machine: choose another with --host, such as 127.0.0.1."
    return ""


if __name__ == "__main__":
    main()
