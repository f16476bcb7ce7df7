"""Behind a proxy that strips a path, as JupyterLab's does."""

import threading

import pytest

from tests.browser.conftest import free_port, serve

PREFIX = "/user/me/proxy/7860"


@pytest.fixture
def proxied(browser, tmp_path):
    """The page behind PREFIX; nothing else is there."""
    httpx = pytest.importorskip("httpx")
    uvicorn = pytest.importorskip("uvicorn")
    from starlette.applications import Starlette
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    port = free_port()
    command = ["-m", "tests.browser.fake_app", str(port), str(tmp_path / "outputs")]
    upstream = serve(command, port, tmp_path / "log.txt", ROOT_PATH=PREFIX)
    address = next(upstream)

    async def forward(request):
        client = httpx.AsyncClient(base_url=address, timeout=None)
        onward = client.build_request(
            request.method,
            f"/{request.path_params['path']}?{request.url.query}",
            headers=request.headers.items(),
            content=await request.body(),
        )
        answer = await client.send(onward, stream=True)
        headers = {key: value for key, value in answer.headers.items() if key != "transfer-encoding"}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, headers)

    async def nothing(_):
        return Response(status_code=204)

    routes = [
        Route(PREFIX + "/{path:path}", forward, methods=["GET", "POST", "HEAD"]),
        Route("/favicon.ico", nothing),  # asked for by habit
    ]
    proxy = Starlette(routes=routes)
    server = uvicorn.Server(uvicorn.Config(proxy, port=free_port(), log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.config.port}{PREFIX}/"
    server.should_exit = server.force_exit = True
    thread.join(10)
    upstream.close()


def test_a_run_behind_a_path(proxied, open_page):
    page = open_page(proxied)
    page.fill("#prompt textarea", "a red box")
    field = page.locator("#blocks input[type=number]")
    field.fill("3")
    field.blur()
    page.click("#generate")
    page.wait_for_selector(".screen[data-state=final] video")
    page.wait_for_function("shown.some(frame => frame.loop && frame.number === 11)")
    live = page.evaluate("shown.filter(frame => !frame.loop).map(frame => frame.number)")
    assert live == sorted(live)
    assert live
    with page.expect_download() as download:
        page.click("a.download")
    assert download.value.suggested_filename.endswith(".mp4")
