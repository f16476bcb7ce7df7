"""Environment variables that would keep Gradio from starting: proxies, certificates, folders, addresses.

Gradio and its HTTP client read them when they are imported, so this module imports neither at its top.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import ssl
import tempfile
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.request import getproxies

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NUMBERS = ("GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS", "GRADIO_NUM_WORKERS", "GRADIO_DEBUG")
_PAGE = bytes(4096)  # written as a test, because a full disk may still take an empty file


class CannotStart(ValueError):
    """Error that keeps the page from starting; the message is a sentence."""


def prepare() -> list[str]:
    """Corrects the environment where possible, and returns the changes as sentences.

    Call it before Gradio is imported. Raises CannotStart for what it cannot correct.
    """
    for name in _NUMBERS:
        value = os.environ.get(name, "").strip()
        if not value:
            os.environ.pop(name, None)
        elif not value.isdecimal():
            raise CannotStart(f"{name} is {value!r}, which is not a number: correct it, or unset it.")
    _check_certificates()
    return [*_check_proxies(), *_check_temporary_folder()]


def bypass_proxies(host: str) -> None:
    """Excludes `host` from the proxies in the environment, if there are any."""
    if not getproxies():
        return
    excepted = [name.strip() for name in getproxies().get("no", "").split(",")]
    if host not in excepted:
        # Lower case wins where both are read; some programs read only one of them.
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, [*excepted, host]))


def bare(host: str) -> str:
    """Returns the address without the brackets of a URL."""
    host = host.strip()
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def addresses(host: str) -> list[str]:
    """Returns the numeric addresses of `host`, empty if it has none."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(bare(host), None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def is_loopback(address: str) -> bool:
    """Returns whether a numeric address is this machine's own, in either version of IP."""
    try:
        number = ip_address(address)
    except ValueError:
        return False
    mapped = number.ipv4_mapped if isinstance(number, IPv6Address) else None
    return (mapped or number).is_loopback


def server_name(host: str | None) -> str:
    """Returns the address for Gradio to listen on, IPv6 in brackets; None for `host` is the default one.

    Excludes the address from proxies, because Gradio sends a request to itself to see whether it has started.
    """
    host = bare(host or os.environ.get("GRADIO_SERVER_NAME", "")) or "127.0.0.1"
    if "GRADIO_SERVER_NAME" in os.environ and not _is_ipv4(os.environ["GRADIO_SERVER_NAME"]):
        # Gradio tests for a free port on an IPv4 socket with this address, whatever it will listen on.
        os.environ["GRADIO_SERVER_NAME"] = "127.0.0.1"
    try:
        number = ip_address(host)
    except ValueError:
        bypass_proxies(host)
        return host
    bypass_proxies(str(number))
    return f"[{number}]" if number.version == 6 else host


def root_path(path: str | None) -> str:
    """Returns the path or URL in front of the page as Gradio expects it: with a slash or a scheme first, none
    at the end.

    Raises CannotStart for a URL other than http and https.
    """
    path = (os.environ.get("GRADIO_ROOT_PATH", "") if path is None else path).strip()
    scheme, separator, rest = path.partition("://")
    if separator:
        if scheme.lower() not in ("http", "https") or not rest.partition("/")[0]:
            raise CannotStart(f"{path!r} is no root path: write /a/path or https://a.host/a/path.")
        return f"{scheme.lower()}://{rest}".rstrip("/")
    return "/" + path.strip("/") if path.strip("/") else ""


def _is_ipv4(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None, socket.AF_INET))
    except (OSError, UnicodeError):
        return False


def _check_proxies() -> list[str]:
    """Leaves only proxies that the HTTP client can use, and none for loopback; returns the changes as
    sentences."""
    # Includes the system's settings on Windows and macOS, which variables override.
    found = getproxies()
    changes = []
    for scheme in ("http", "https", "all"):
        url = found.get(scheme, "").strip()
        problem = _proxy_problem(url) if url else ""
        if problem:
            changes.append(f"The proxy in {scheme}_proxy is not used: {problem}.")
        for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
            os.environ.pop(name, None)
            if url and not problem:
                os.environ[name] = url
    if not found:
        return changes
    kept = []
    for name in filter(None, map(str.strip, found.get("no", "").split(","))):
        os.environ["no_proxy"] = name
        if _client_problem():
            changes.append(f"{name!r} in no_proxy is ignored: it is not a host name or an address.")
        else:
            kept.append(name)
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(kept)
    for host in _LOOPBACK:
        bypass_proxies(host)
    return changes


def _proxy_problem(url: str) -> str:
    """Returns why a proxy cannot be used; empty if it can. Omits the address: it may contain a password."""
    import httpx

    try:
        httpx.Client(proxy=url if "://" in url else f"http://{url}", trust_env=False, verify=False).close()
    except ImportError:
        return "SOCKS needs one more package: pip install socksio"
    except (ValueError, httpx.InvalidURL):
        return "it is not the address of a proxy, such as http://127.0.0.1:3128"
    return ""


def _client_problem() -> bool:
    """Returns whether the HTTP client fails to read the environment as it is."""
    import httpx

    try:
        httpx.Client(verify=False).close()
    except (ValueError, httpx.InvalidURL):
        return True
    return False


def _check_certificates() -> None:
    """Raises CannotStart if the HTTP client would fail to load its certificates."""
    path = os.environ.get("SSL_CERT_FILE")
    if not path:
        return
    try:
        ssl.create_default_context(cafile=path)
    except OSError:
        raise CannotStart(
            f"SSL_CERT_FILE is {path!r}, which cannot be read as certificates: correct it, or unset it."
        ) from None


def _check_temporary_folder() -> list[str]:
    """Gives Gradio another folder for uploads if it cannot write to its default one; returns the change as a
    sentence."""
    configured = os.environ.get("GRADIO_TEMP_DIR")
    try:
        folder = Path(configured) if configured else Path(tempfile.gettempdir()) / "gradio"
        if _can_write_to(folder):
            return []
        other = tempfile.mkdtemp(prefix="qvg-studio-")
    except OSError:
        raise CannotStart(
            "No folder for temporary files can be written to: set TMPDIR to one with room in it."
        ) from None
    atexit.register(shutil.rmtree, other, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = other
    return [f"{folder} cannot be written to: uploads go to {other}."]


def _can_write_to(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PAGE)
    except OSError:
        return False
    return True
