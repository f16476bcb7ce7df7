"""Hugging Face on loopback: repositories in memory, signed addresses on another host, faults on request."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """`files[(repo, path)]` are bytes. Large ones are redirected to a CDN, as there."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.commit = COMMIT
        self.main = ""  # the commit of the branch, when not `commit`
        self.etag = ""  # said instead of the checksum when not empty
        self.token = ""  # asked for when not empty
        self.status = 0  # answered instead
        self.gated = False
        self.cut_after: int | None = None  # bytes of an answer's body, then the connection ends
        self.damaged = False
        self.requests: list[tuple[str, str, str, str]] = []  # method, path, range, authorization
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def cdn(self) -> str:
        """Another name of this machine, and so another host to a client."""
        return f"http://localhost:{self._server.server_port}/cdn"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def got(self, what: str) -> list[tuple[str, str, str, str]]:
        return [request for request in self.requests if what in request[1]]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub = self.hub
        authorization = self.headers.get("authorization", "")
        hub.requests.append((self.command, self.path, self.headers.get("range", ""), authorization))
        if self.path.startswith("/cdn/"):
            owner, name, path = self.path.removeprefix("/cdn/").partition("?")[0].split("/", 2)
            self._send(hub.files[f"{owner}/{name}", path], body)
            return
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, path = rest.partition("/")
        if hub.status:
            self._refuse(hub.status)
        elif hub.gated:
            self._refuse(403, "GatedRepo")
        elif hub.token and authorization != f"Bearer {hub.token}":
            self._refuse(401)
        elif (repo, path) not in hub.files:
            self._refuse(404, "EntryNotFound")
        else:
            content = hub.files[repo, path]
            large = len(content) > 1000
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content)  # as git names a small one
            etag = hub.etag or (hashlib.sha256(content) if large else blob).hexdigest()
            commit = hub.main if hub.main and revision == "main" else hub.commit
            common = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
            if large:
                common["X-Linked-ETag"], common["X-Linked-Size"] = f'"{etag}"', str(len(content))
                self.send_response(302)
                self.send_header("Location", f"{hub.cdn}/{repo}/{path}?signed=secret")
                self.send_header("Content-Length", "0")
                for name, value in common.items():
                    self.send_header(name, value)
                self.end_headers()
            else:
                self._send(content, body, common)

    def _send(self, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        asked = self.headers.get("range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        self.wfile.write(content[start:][: self.hub.cut_after])
        if self.hub.cut_after is not None:
            self.close_connection = True

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
