"""Behind jupyter-server-proxy, as on a pod or a hub: the page is under a path that is taken off."""

import pytest

from tests.browser.conftest import free_port, serve

BASE = "/user/me"


@pytest.fixture
def proxied(browser, tmp_path):
    """The page's address behind a Jupyter server of our own."""
    pytest.importorskip("jupyter_server_proxy")
    port, front = free_port(), free_port()
    prefix = f"{BASE}/proxy/{port}"
    page = serve(
        ["-m", "tests.browser.fake_app", str(port), str(tmp_path / "outputs")],
        port,
        tmp_path / "page.txt",
        ROOT_PATH=prefix,
    )
    command = ["-m", "jupyter", "server", "--no-browser", "--allow-root", f"--port={front}"]
    settings = {"base_url": BASE, "port_retries": 0, "root_dir": tmp_path, "disable_check_xsrf": True}
    settings["quit_button"] = False
    command += [f"--ServerApp.{name}={value}" for name, value in settings.items()]
    jupyter = serve(
        [*command, "--IdentityProvider.token="],
        front,
        tmp_path / "jupyter.txt",
        JUPYTER_CONFIG_DIR=str(tmp_path / "config"),
        JUPYTER_RUNTIME_DIR=str(tmp_path / "runtime"),
    )
    next(page)
    yield next(jupyter).rstrip("/") + prefix + "/"
    jupyter.close()
    page.close()


def test_a_run_behind_a_path(proxied, open_page, desktop):
    # Asked for by habit, outside of the path.
    desktop.route("**/favicon.ico", lambda route: route.fulfill(status=204))
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
