"""Who is served under which name, and whose scripts may ask: the middleware alone, as a web application."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ui.coroutines import run
from ui.server.guard import Guard, Policy, policy

PORT = 7860
LOCAL = policy("127.0.0.1", "", [], hosted=False)
OPEN = policy("0.0.0.0", "", [], hosted=False)
Headers = dict[str, str]


def ask(
    served: Policy,
    headers: Headers,
    method: str = "POST",
    kind: str = "http",
    shared_at: str | None = None,
    cookie: bytes = b"",
) -> tuple[int, str, list[tuple[bytes, bytes]]]:
    """Status, body and headers of the answer; 200 is the application's, 1008 a socket that is not opened."""
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        cookies = [(b"set-cookie", cookie)] if cookie else []
        await send({"type": "http.response.start", "status": 200, "headers": cookies})
        await send({"type": "http.response.body", "body": b"served"})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": kind, "method": method, "path": "/", "scheme": "http", "server": ("127.0.0.1", PORT),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    guard = Guard(application, served, lambda: shared_at)
    run(guard(scope, None, send))  # type: ignore[arg-type]
    first = sent[0]
    if first["type"] == "websocket.close":
        return first["code"], "", []
    return first["status"], sent[1]["body"].decode(), first["headers"]


def status(served: Policy, headers: Headers, method: str = "POST", **how: Any) -> int:
    return ask(served, headers, method, **how)[0]


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:7860", "LOCALHOST:1", "127.0.0.1:7860", "127.8.8.8", "[::1]", "[::1]:7860",
        "studio.localhost:7860", "[::ffff:127.0.0.1]:7860",
    ],
)  # fmt: skip
def test_loopback_names_are_served_with_any_port(host):
    """A tunnel or another proxy on this machine has a port of its own."""
    for method in ("GET", "POST"):
        assert status(LOCAL, {"host": host, "origin": f"http://{host}"}, method) == 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost.", "localhost.:7860", "127.0.0.1.", "evil.example:7860", "rebound.example",
        "localhost.evil",
        "127.0.0.1.nip.io:7860", "notlocalhost", "evil.localhost.", "10.0.0.7:7860", "0.0.0.0:7860", "[::]",
        "[fe80::1]", "user@localhost", "localhost:7860@evil.example", "localhost, evil.example", "",
        "127.1", "2130706433", "0x7f.1", "localhost:port", "[::1", "ｌocalhost",
    ],
)  # fmt: skip
def test_any_other_name_is_refused_on_loopback(host):
    for headers in ({"host": host}, {"host": host, "origin": f"http://{host}"}):
        for method in ("GET", "POST"):
            code, said, _ = ask(LOCAL, headers, method)
            assert (code, "--allow-host" in said) == (403, True)


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "http://localhost.:7860"},
    {"origin": "http://localhost:3000"},
    {"origin": "http://127.0.0.1:7860"},
    {"origin": "http://localhost"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "file://"},
    {"origin": "chrome-extension://abcdefgh"},
    {"origin": "https://localhost:7860.evil.example"},
    {"origin": "http://localhost:7860@evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    {"referer": "https://evil.example/a/page"},
    {"origin": "https://evil.example", "x-forwarded-host": "evil.example"},
]


@pytest.mark.parametrize("marks", FOREIGN, ids=lambda marks: " ".join(marks.values()) or "empty")
@pytest.mark.parametrize("served", [LOCAL, policy("127.0.0.1", "/proxy/7860", [], False)], ids=["", "path"])
def test_other_sites_change_nothing(served, marks):
    headers = {"host": "localhost:7860", **marks}
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        code, said, _ = ask(served, headers, method)
        assert (code, "--allow-host" in said) == (403, True)
    assert status(served, headers, kind="websocket") == 1008


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_other_sites_read_nothing(method):
    """No answer allows them to, not even that to a preflight request."""
    for marks in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        for served in (LOCAL, OPEN):
            code, _, headers = ask(served, {"host": "localhost:7860", **marks}, method)
            assert code == 403
            assert not [name for name, _ in headers if name.startswith(b"access-control")]


def test_links_and_frames_of_other_sites_open_the_page():
    framed = {"host": "localhost:7860", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert status(LOCAL, framed, "GET") == 200
    assert status(LOCAL, {"host": "localhost:7860", "referer": "https://friend.example/"}, "GET") == 200


@pytest.mark.parametrize(
    "marks",
    [
        {},
        {"cookie": "access-token-unsecure-x=y"},
        {"origin": "http://localhost:7860"},
        {"origin": "http://localhost:7860", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"referer": "http://localhost:7860/?view=api"},
    ],
)
def test_the_page_and_programs_ask_for_what_they_want(marks):
    headers = {"host": "localhost:7860", **marks}
    assert status(LOCAL, headers) == status(LOCAL, headers, "GET") == 200
    assert status(LOCAL, headers, kind="websocket") == 200


def test_a_browser_that_names_no_host_is_none():
    assert status(LOCAL, {}, "GET") == 200
    assert status(LOCAL, {"origin": "http://localhost"}) == 403


@pytest.mark.parametrize(
    ("host", "origin", "code"),
    [
        ("pod-7860.proxy.example", "https://pod-7860.proxy.example", 200),
        ("10.0.0.7:7860", "http://10.0.0.7:7860", 200),
        ("box.lan:8080", "http://box.lan:8080", 200),
        ("owner-space.hf.space", "https://owner-space.hf.space", 200),
        ("owner-space.hf.space", "https://other-space.hf.space", 403),
        ("owner-space.hf.space", "https://huggingface.co", 403),
        ("pod-7860.proxy.example", "https://evil.example", 403),
        ("pod.example", "https://pod.example:8443", 403),
        ("pod.example:7860", "https://pod.example", 403),
        ("pod.example", "null", 403),
    ],
)
def test_on_an_open_address_the_page_asks_from_where_it_is(host, origin, code):
    assert status(OPEN, {"host": host, "origin": origin}) == code
    assert status(OPEN, {"host": host}) == 200, "a program"
    framed = {"host": host, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert status(OPEN, framed, "GET") == 200, "as huggingface.co frames a Space"


def test_behind_a_proxy_that_renames_the_host_the_browser_knows_best():
    asked = {"host": "10.1.2.3:7860", "origin": "https://pod.example"}
    assert status(OPEN, asked) == 403
    assert status(OPEN, {**asked, "sec-fetch-site": "same-origin"}) == 200
    assert status(OPEN, {**asked, "x-forwarded-host": "pod.example"}) == 200


@pytest.mark.parametrize(
    "served",
    [
        policy("127.0.0.1", "", ["Studio.Example:8443", "other.example"], False),
        policy("127.0.0.1", "https://studio.example/x", [], False),
        policy("::1", "", ["https://studio.example/"], False),
        policy("localhost", "", ["studio.example."], False),
    ],
    ids=["name", "root path", "address", "dot"],
)
def test_names_that_were_given_are_served(served):
    at = {"host": "studio.example", "origin": "https://studio.example"}
    assert status(served, at) == status(served, at, "GET") == 200
    # A proxy on this machine may say who it asks, not who it is.
    assert status(served, {"host": "127.0.0.1:7860", "origin": "https://studio.example"}) == 200
    forwarded = {"host": "127.0.0.1:7860", "x-forwarded-host": "studio.example"}
    assert status(served, forwarded, "GET") == 200
    assert status(served, {**at, "origin": "https://evil.example"}) == 403
    assert status(served, {"host": "evil.example"}, "GET") == 403
    assert status(served, {"host": "127.0.0.1:7860"}, "GET") == 200
    assert status(served, {"host": "127.0.0.1:7860", "x-forwarded-host": "evil.example"}, "GET") == 403


@pytest.mark.parametrize(
    ("marks", "code"),
    [
        ({"origin": "https://studio.example:8443"}, 403),
        ({"origin": "http://studio.example:3000", "host": "studio.example:8080"}, 403),
        ({"origin": "http://studio.example:8080", "host": "studio.example:8080"}, 200),
        ({"origin": "https://studio.example", "sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://studio.example", "sec-fetch-site": "cross-site"}, 403),
        # Proxies that leave the port out, end https, or ask under another name.
        ({"origin": "https://studio.example:8443", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "https://studio.example:8443", "host": "127.0.0.1:7860"}, 200),
        ({"origin": "https://studio.example", "host": "studio.example"}, 200),
    ],
)
def test_another_service_on_a_named_host_is_another_site(marks, code):
    """Where the browser says so, or the port that it connected to is known."""
    served = policy("127.0.0.1", "", ["studio.example"], False)
    host = "studio.example:443" if marks["origin"].endswith(":8443") else "studio.example"
    assert status(served, {"host": host, **marks}) == code


def test_a_local_page_is_framed_by_programs_of_this_machine_only():
    for served in (LOCAL, policy("127.0.0.1", "/proxy/7860", [], False)):
        _, _, headers = ask(served, {"host": "localhost:7860"}, "GET")
        (value,) = (value.decode() for name, value in headers if name == b"content-security-policy")
        assert value.startswith("frame-ancestors 'self' http://localhost:* ")
        assert " * " not in value and " https: " not in value
    _, _, headers = ask(policy("::1", "", ["hub.example"], False), {"host": "hub.example"}, "GET")
    assert b"hub.example:*" in dict(headers)[b"content-security-policy"]


def test_a_page_for_all_is_framed_by_all():
    """As huggingface.co does, and everyone who embeds a Space."""
    for served in (OPEN, policy("127.0.0.1", "", [], hosted=True)):
        _, _, headers = ask(served, {"host": "owner-space.hf.space"}, "GET")
        assert headers == []


def test_names_close_an_open_address_to_others():
    served = policy("0.0.0.0", "", ["studio.example"], False)
    assert status(served, {"host": "studio.example"}, "GET") == 200
    assert status(served, {"host": "10.0.0.7:7860"}, "GET") == 200, "no name can be bound to another address"
    assert status(served, {"host": "rebound.example:7860"}, "GET") == 403


def test_behind_a_path_the_proxys_name_is_not_known():
    """As of JupyterHub, whose port is not the page's: a name bound to loopback has the page's own."""
    served = policy("127.0.0.1", "/user/me/proxy/7860", [], False)
    for host in ("hub.example", "hub.example:8000"):
        scheme = "http" if ":" in host else "https"
        assert status(served, {"host": host, "origin": f"{scheme}://{host}"}) == 200
        assert status(served, {"host": host, "origin": "https://evil.example"}) == 403
    assert status(served, {"host": f"rebound.example:{PORT}"}, "GET") == 403


def test_a_shared_page_is_served_at_its_public_address():
    at = {"host": "1a2b3c.gradio.live", "origin": "https://1a2b3c.gradio.live"}
    assert status(LOCAL, at) == 403
    assert status(LOCAL, at, shared_at="https://1a2b3c.gradio.live") == 200
    assert (
        status(LOCAL, {**at, "origin": "https://evil.gradio.live"}, shared_at="https://1a2b3c.gradio.live")
        == 403
    )


def test_a_hosted_notebook_is_seen_through_names_of_its_own():
    served = policy("127.0.0.1", "", [], hosted=True)
    at = {"host": "abc-colab.example", "origin": "https://abc-colab.example"}
    assert status(served, at) == 200
    assert status(served, {**at, "origin": "https://evil.example"}) == 403


@pytest.mark.parametrize(
    "written", ["", "*", "a b", "https://", "studio.example/path", "a:b:c", "[::1", "*.example"]
)
def test_what_is_no_name_is_a_sentence(written):
    with pytest.raises(ValueError, match="is not a host name"):
        policy("127.0.0.1", "", [written], False)


@pytest.mark.parametrize(
    ("marks", "cookie", "kept"),
    [
        ({}, b"a=b; HttpOnly; Path=/; SameSite=none; Secure", b"a=b; HttpOnly; Path=/; SameSite=Lax"),
        ({}, b"secure=samesite; Path=/", b"secure=samesite; Path=/; SameSite=Lax"),
        ({"x-forwarded-proto": "https,http"}, b"a=b", b"a=b; SameSite=Lax; Secure"),
    ],
)
def test_cookies_are_not_for_other_sites(marks, cookie, kept):
    _, _, headers = ask(OPEN, {"host": "pod.example", **marks}, cookie=cookie)
    assert headers == [(b"set-cookie", kept)]
