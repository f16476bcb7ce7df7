"""The model manager, against a Hugging Face of our own on loopback."""

import dataclasses
import hashlib
import time
from types import SimpleNamespace

import gradio as gr
import pytest
from huggingface_hub import constants

from backends import registry
from backends.hub import artifacts
from backends.hub.artifacts import Artifact, File, Source
from backends.longcat import spec
from tests.backends.hub.fake_hub import COMMIT, FakeHub
from tests.ui.page import widgets
from ui.components import models
from ui.events.models import ModelEvents
from ui.runs.downloads import Models

DATA = b"weights" * 30_000
FILE = File("model.bin", len(DATA), hashlib.sha256(DATA).hexdigest())
OWNED = Artifact(
    id="owned", title="<An owned model>", purpose="Is tested.", license="Not for sale.",
    needs_acceptance=True,
    source=Source(repo="owner/model", revision=COMMIT, files=(FILE,), path="model.bin"),
)  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = FakeHub()
    server.files = {("owner/model", "model.bin"): DATA}
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.delenv(artifacts.FOLDER, raising=False)
    monkeypatch.setattr(spec, "ARTIFACTS", (OWNED,), raising=False)
    monkeypatch.setattr(spec, "missing", lambda: artifacts.missing((OWNED,), "a GPU", "longcat"))
    yield server
    server.close()


def card(stock, backend_id="longcat"):
    return next(each for each in stock.listing()["models"] if each["id"] == backend_id)


def finish(stock):
    deadline = time.monotonic() + 20
    while stock.busy:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_model_is_listed_with_its_size_and_licence(hub):
    listing = Models().listing()
    assert [each["id"] for each in listing["models"]] == list(registry.IDS)
    pocket = listing["models"][0]
    assert (pocket["said"], pocket["size"], pocket["can_download"]) == ("Ready", "included", False)
    owned = card(Models())
    assert (owned["said"], owned["state"], owned["size"]) == ("Not here yet", "absent", "0 MB")
    assert owned["asks"]
    assert "<An owned model>: owner/model" in owned["parts"][0]
    for each in listing["models"]:
        assert each["licence"]


@pytest.mark.parametrize(
    ("revision", "files", "verifiable"),
    [
        (COMMIT, (FILE,), True),
        ("main", (FILE,), False),
        (COMMIT[:12], (FILE,), False),
        (COMMIT, (FILE, File("config.json", 20)), False),
        (COMMIT, (File("model.bin", len(DATA)),), False),
    ],
)
def test_a_download_that_only_the_hub_vouches_for_is_said_so(hub, monkeypatch, revision, files, verifiable):
    source = Source(repo="owner/model", revision=revision, files=files, path="model.bin")
    monkeypatch.setattr(spec, "ARTIFACTS", (dataclasses.replace(OWNED, source=source),))
    said = card(Models())["trusted"]
    if verifiable:
        assert said == ""
    else:
        assert said.startswith("Not every file of <An owned model> has a version and a checksum")
        assert "trusted as Hugging Face serves it" in said


def test_a_licence_is_accepted_then_the_model_comes_and_goes(hub):
    stock = Models()
    stock.download("longcat", False, "")
    finish(stock)
    assert "The licence of <An owned model> has to be accepted first" in card(stock)["problem"]
    stock.download("longcat", True, "")
    finish(stock)
    done = card(stock)
    assert (done["said"], done["problem"]) == ("Ready", "")
    assert done["can_delete"] and not done["can_download"]
    assert "freed" in stock.delete("longcat")
    assert card(stock)["state"] == "absent"


def test_what_goes_wrong_is_a_sentence_with_the_way_out(hub):
    stock = Models()
    hub.token = "hf_right"
    stock.download("longcat", True, "hf_wrong")
    finish(stock)
    problem = card(stock)["problem"]
    assert problem
    assert "Traceback" not in problem
    stock.download("longcat", True, " hf_right ")
    finish(stock)
    assert card(stock)["state"] == "ready"


def test_an_error_of_ours_is_a_sentence(hub, monkeypatch):
    monkeypatch.setattr(artifacts, "download", lambda *_: 1 / 0)
    stock = Models()
    stock.download("longcat", True, "")
    finish(stock)
    assert "the log says where" in card(stock)["problem"]


def test_progress_is_told_and_a_stopped_download_says_so(hub, monkeypatch):
    def slow(what, progress, stop, accepted, token):
        done = 0
        while not stop():
            done += 10
            progress(artifacts.DownloadProgress(OWNED, "model.bin", min(done, 900) * 1_000_000, 10**9))
            time.sleep(0.02)
        return False

    monkeypatch.setattr(artifacts, "download", slow)
    stock = Models()
    stock.download("longcat", True, "")
    stock.download("longcat", True, "")
    time.sleep(0.3)
    shown = card(stock)
    assert 0 < shown["percent"] < 100
    assert shown["progress"].endswith("MB of 1.0 GB, model.bin")
    stock._downloads["longcat"].began -= 10
    assert "left" in card(stock)["progress"]
    assert not shown["can_download"]
    stock.stop("longcat")
    finish(stock)
    assert card(stock)["problem"].startswith("Stopped. What arrived is kept")


def test_strangers_may_only_look(hub):
    stock = Models(lambda: True)
    stock.download("longcat", True, "")
    assert not stock.busy
    assert stock.delete("longcat") == ""
    assert stock.listing()["locked"]


def test_buttons_refresh_the_picker(hub):
    ui, _ = widgets()
    with gr.Blocks():
        shown, timer = models.component({}), gr.Timer()
    stock = Models()
    events = ModelEvents(stock, ui, shown, timer)
    pressed = SimpleNamespace(id="longcat", action="download", accepted=True, token="")
    events.pick(pressed, "longcat")
    finish(stock)
    assert ui.about not in events.look("no such model")
    changes = events.look("longcat")
    assert changes[timer].active is False
    (name,) = (name for name, value in changes[ui.model].choices if value == "longcat")
    assert name == spec.SPEC.title
    assert changes[ui.about]["ready"]
    events.pick(SimpleNamespace(id="longcat", action="delete"), "longcat")
    assert card(stock)["state"] == "absent"
