"""ASGI middleware against other web sites: DNS rebinding, cross-site requests, cookies sent along with them.

A browser sends the name under which it reached the page (`Host`) and the site whose script made the request
(`Origin`, `Sec-Fetch-Site`); no script can set these headers. Other programs send no `Origin`, and are
served.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from ui import text
from ui.server.environment import addresses, bare, is_loopback

_ADDRESS = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_][a-z0-9_.-]*))(?::(\d{1,5}))?")
_ORIGIN = re.compile(r"(https?)://([^/]+)")
_PORTS = {"http": 80, "https": 443}
# May embed the page: notebooks and other programs of this machine, and VS Code's windows and sites.
_FRAMES = (
    "http://localhost:*", "https://localhost:*", "http://127.0.0.1:*", "https://127.0.0.1:*",
    "vscode-webview:", "vscode-file:", "https://vscode.dev", "https://*.vscode-cdn.net", "https://*.github.dev",
)  # fmt: skip
_READ_ONLY = ("GET", "HEAD", "OPTIONS")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """Names under which the page is served. Loopback names always are.

    `names` are those of proxies, in lower case and without port; `listens` is the server's own. `others` is
    whether any other name is served, `numbers` any numeric address, `forwarded` any name with a port that is
    not the server's but a proxy's.
    """

    names: frozenset[str] = frozenset()
    listens: str = ""
    others: bool = False
    numbers: bool = False
    forwarded: bool = False


def policy(server_name: str, root_path: str, allowed: Iterable[str], hosted: bool) -> Policy:
    """Returns the policy of a page that listens on `server_name` and is reached at `root_path`, a path or a
    whole URL.

    `allowed` are further names. `hosted` is whether the visitor's browser is known to run on another machine,
    where no name can be bound to this one's loopback. Raises ValueError for anything but host names.
    """
    further = frozenset(map(_host_name, allowed))
    in_front = urlsplit(root_path).hostname
    local = all(map(is_loopback, addresses(server_name))) and not hosted
    return Policy(
        names=further | ({in_front} if in_front else frozenset()),
        listens=bare(server_name).lower(),
        others=not local and not further,
        # DNS can bind a name to another address; it cannot rebind an address.
        numbers=not local,
        forwarded=root_path.startswith("/") and not further,
    )


class Guard:
    """ASGI middleware that answers 403 with a sentence if `policy` does not admit a request to `app`.

    `shared_at` returns the public URL of the page, or None; it may change while the page is served.
    """

    def __init__(self, app: ASGIApp, policy: Policy, shared_at: Callable[[], str | None]) -> None:
        self._app = app
        self._policy = policy
        self._shared_at = shared_at
        # A public page can be embedded anywhere, as Spaces are: inside another site's frame it has none of
        # its visitor's cookies and storage.
        self._framing = () if policy.others else ((b"content-security-policy", _framed_by(policy)),)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        problem = self._problem(scope, headers)
        if problem:
            _log.info("%r was refused: %s", scope["path"], problem)
            refusal = PlainTextResponse(problem, 403) if scope["type"] == "http" else WebSocketClose(1008)
            return await refusal(scope, receive, send)
        secure = "https" in (scope["scheme"], headers.get("x-forwarded-proto", "").partition(",")[0].strip())

        async def with_own_cookies(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = _own_cookies(message.get("headers", ()), secure)
                message = {**message, "headers": [*answered, *self._framing]}
            await send(message)

        return await self._app(scope, receive, with_own_cookies)

    def _problem(self, scope: Scope, headers: Headers) -> str:
        """Returns why a request is refused; empty if it is not."""
        hosts = headers.getlist("host")
        forwarded = [
            host.strip() for named in headers.getlist("x-forwarded-host") for host in named.split(",")
        ]
        for host in (*hosts, *forwarded):
            if not self._serves(host, scope):
                return text.not_served_as(host if _parts(host) else "")
        source = headers.get("origin")
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        changes = scope["type"] == "websocket" or scope["method"] not in _READ_ONLY
        if source is None and site is None and changes:
            # Old browsers send forms without an origin.
            source = "/".join(headers.get("referer", "").split("/")[:3]) or None
        if source is not None:
            # `forwarded` can be trusted where every name is served: a script that sets it triggers a
            # preflight first.
            own = self._is_own(source, site, hosts, forwarded)
        else:
            # A link or a frame: the other site cannot read its contents.
            followed = mode == "navigate" and not changes
            own = site in (None, "same-origin", "none") or followed
        return "" if own else text.asked_by_another_site(source if source and _origin(source) else "")

    def _serves(self, host: str, scope: Scope) -> bool:
        if self._policy.others:
            return True
        parts = _parts(host)
        if parts is None:
            return False
        name, port = parts
        if _is_loopback_name(name) or name == self._policy.listens or self._is_named(name):
            return True
        if self._policy.numbers and _is_number(name):
            return True
        # A browser sends the port that it connects to: a name rebound to loopback comes with the server's own
        # port.
        own_port = (scope.get("server") or (None, None))[1]
        return self._policy.forwarded and own_port not in (port, *(_PORTS.values() if port is None else ()))

    def _is_named(self, name: str) -> bool:
        shared = urlsplit(self._shared_at() or "").hostname
        return name in self._policy.names or name == shared

    def _is_own(self, source: str, site: str | None, hosts: list[str], forwarded: list[str]) -> bool:
        """Returns whether `source` is the page itself, served under one of `hosts`."""
        origin = _origin(source)
        if origin is None:
            return False
        if site is not None:
            # The browser compares with the address that it shows, port and scheme included, however proxies
            # change them on the way.
            return site == "same-origin"
        name, port = origin
        names = [*hosts, *forwarded] if self._policy.others else hosts
        ports = [seen[1] for seen in filter(None, map(_parts, names)) if seen[0] == name]
        if port in ports:
            return True
        # A proxy may omit the port or use a name of its own; it does not send another port.
        named = self._is_named(name)
        return (None in ports and (named or port in _PORTS.values())) or (named and not ports)


def _framed_by(policy: Policy) -> bytes:
    """Returns the header's value that keeps other sites from embedding a local page under their visitor's
    clicks."""
    names = (f"{name}:*" for name in sorted(policy.names))
    return " ".join(("frame-ancestors", "'self'", *_FRAMES, *names)).encode()


def _host_name(written: str) -> str:
    """Returns the name in a host name or URL, in lower case and without a port. Raises ValueError."""
    name = written.strip().lower()
    name = urlsplit(name).netloc if "://" in name else name.strip("/")
    with suppress(UnicodeError):
        name = name.encode("idna").decode()
    parts = _parts(name)
    if parts is None:
        raise ValueError(text.not_a_host(written))
    return parts[0].rstrip(".")


def _parts(host: str) -> tuple[str, int | None] | None:
    """Returns name and port of a Host header, IPv6 without brackets; None for a malformed one."""
    match = _ADDRESS.fullmatch(host.lower())
    if match is None:
        return None
    six, name, port = match.groups()
    return six or name, int(port) if port else None


def _origin(source: str) -> tuple[str, int] | None:
    """Returns name and port of an Origin header; None for `null`, files, extensions, and malformed ones."""
    match = _ORIGIN.fullmatch(source.lower())
    parts = _parts(match[2]) if match else None
    return (parts[0], parts[1] or _PORTS[match[1]]) if match and parts else None


def _is_loopback_name(name: str) -> bool:
    # Browsers never look up names below localhost. With a trailing dot it is another origin.
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


def _is_number(name: str) -> bool:
    with suppress(ValueError):
        return bool(ip_address(name))
    return False


def _own_cookies(headers: Iterable[tuple[bytes, bytes]], secure: bool) -> list[tuple[bytes, bytes]]:
    """Returns headers whose cookies are not sent with requests of other sites, nor over http once set by
    https."""
    return [
        (name, _own_cookie(value, secure)) if name.lower() == b"set-cookie" else (name, value)
        for name, value in headers
    ]


def _own_cookie(cookie: bytes, secure: bool) -> bytes:
    pair, *attributes = (part.strip() for part in cookie.split(b";"))
    kept = [each for each in attributes if not each.lower().startswith((b"samesite", b"secure"))]
    return b"; ".join([pair, *kept, b"SameSite=Lax", *([b"Secure"] if secure else [])])
