"""Weights found, downloaded and deleted, against a Hugging Face of our own on loopback."""

import dataclasses
import errno
import hashlib
import logging
import os
import random
import re
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import app
from backends import registry
from backends.base import BackendUnavailable
from backends.hub import artifacts, downloads
from backends.hub.artifacts import Artifact, File, Source
from backends.sizes import file_size
from backends.wan import checkpoint
from tests.backends.hub.fake_hub import COMMIT, FakeHub

BIG = random.Random(0).randbytes(300_000)
SMALL = b"{}" * 20


def source(repo="owner/model", files=(("weights/big.pt", BIG), ("config.json", SMALL)), revision=COMMIT):
    listed = tuple(
        File(path, len(data), hashlib.sha256(data).hexdigest() if len(data) > 1000 else "")
        for path, data in files
    )
    return Source(repo=repo, revision=revision, files=listed, path=files[0][0])


MODEL = Artifact(id="model", title="A model", purpose="Is tested.", license="Apache-2.0", source=source())
OWNED = dataclasses.replace(
    MODEL, id="owned", title="An owned model", license="Not for sale.", needs_acceptance=True
)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The hub and an empty cache; the library is told of both as its own start would."""
    server = FakeHub()
    server.files = {("owner/model", "weights/big.pt"): BIG, ("owner/model", "config.json"): SMALL}
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "home" / "assets"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.delenv(artifacts.FOLDER, raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own attempts
    yield server
    server.close()


def test_absent_then_downloaded_then_present_then_deleted(fake, tmp_path):
    assert artifacts.state(MODEL) == artifacts.State("absent", 0, len(BIG) + len(SMALL), None)
    seen = []
    assert artifacts.download(MODEL, seen.append)
    path = artifacts.locate(MODEL)
    assert path is not None
    assert path.read_bytes() == BIG
    assert path == tmp_path / "home/hub/models--owner--model/snapshots" / COMMIT / "weights/big.pt"
    here = artifacts.state(MODEL)
    assert (here.kind, here.bytes_here, here.path) == ("present", len(BIG) + len(SMALL), path)
    assert seen[-1].done_bytes == seen[-1].total_bytes == len(BIG) + len(SMALL)
    assert [step.done_bytes for step in seen] == sorted(step.done_bytes for step in seen)
    assert {step.file for step in seen} == {"weights/big.pt", "config.json"}
    assert any(step.checking for step in seen)

    count = len(fake.requests)
    assert artifacts.download(MODEL)
    assert len(fake.requests) == count  # nothing is asked for what is here

    assert artifacts.delete(MODEL) == len(BIG) + len(SMALL)
    assert artifacts.state(MODEL).kind == "absent"
    assert not [file for file in (tmp_path / "home/hub/models--owner--model").rglob("*") if file.is_file()]


def test_huggingface_hub_itself_finds_what_was_downloaded(fake):
    from huggingface_hub import try_to_load_from_cache

    artifacts.download(MODEL)
    found = try_to_load_from_cache("owner/model", "weights/big.pt", constants.HF_HUB_CACHE, COMMIT)
    assert found == str(artifacts.locate(MODEL))


def test_a_stopped_download_goes_on_where_it_ended(fake):
    seen = []
    assert artifacts.download(MODEL, seen.append, stop=lambda: len(seen) > 8) is False
    part = artifacts.state(MODEL)
    assert part.kind == "partial"
    assert 0 < part.bytes_here < len(BIG)
    assert part.path is None
    fake.requests.clear()
    seen.clear()
    assert artifacts.download(MODEL, seen.append)
    assert seen[0].done_bytes == part.bytes_here
    (body,) = [request for request in fake.got("/cdn/") if request[0] == "GET"]
    assert body[2] == f"bytes={part.bytes_here}-"
    assert artifacts.locate(MODEL).read_bytes() == BIG


def test_a_connection_that_breaks_is_said_and_what_came_is_kept(fake):
    fake.cut_after = 0
    with pytest.raises(BackendUnavailable, match=r"big\.pt did not arrive .* what arrived is kept"):
        artifacts.download(MODEL)
    fake.cut_after = None
    assert artifacts.download(MODEL)


def test_a_file_that_arrives_damaged_is_not_kept(fake):
    fake.damaged = True
    with pytest.raises(BackendUnavailable, match="arrived damaged and was removed: try again") as caught:
        artifacts.download(MODEL)
    assert "secret" not in str(caught.value)
    assert artifacts.state(MODEL).kind == "absent"
    fake.damaged = False
    assert artifacts.download(MODEL)


def test_a_small_file_that_arrives_damaged_is_not_kept(fake):
    fake.files["owner/model", "config.json"] = b"x" * 900
    fake.damaged = True
    small = source(files=(("config.json", b"x" * 900),))
    with pytest.raises(BackendUnavailable, match="arrived damaged and was removed: try again"):
        artifacts.download(dataclasses.replace(MODEL, source=small))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"commit": "beef" + "0" * 36}, "has another weights/big.pt than the one"),
        (
            {"files": {("owner/model", "weights/big.pt"): BIG[::-1]}},
            "has another weights/big.pt than the one",
        ),
        ({"commit": "../../outside"}, "does not answer as Hugging Face does"),
        ({"etag": "../../../outside"}, "does not answer as Hugging Face does"),
    ],
)
def test_another_file_than_the_pinned_one_is_refused(fake, tmp_path, answer, words):
    for name, value in answer.items():
        setattr(fake, name, value)
    with pytest.raises(BackendUnavailable, match=words):
        artifacts.download(MODEL)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".lock"]


def test_a_licence_is_accepted_before_anything_is_asked(fake):
    with pytest.raises(BackendUnavailable, match=r"An owned model has to be accepted first: Not for sale\."):
        artifacts.download(OWNED)
    assert fake.requests == []
    assert artifacts.download(OWNED, accepted_license=True)


@pytest.mark.parametrize(
    ("fault", "token", "words"),
    [
        ({"token": "right"}, None, r"asks who wants owner/model: set HF_TOKEN"),
        ({"token": "right"}, "wrong", r"refuses this token for owner/model"),
        ({"gated": True}, "right", r"may not read owner/model: open https://huggingface.co/owner/model"),
        ({"status": 403}, None, "may not read owner/model"),
        ({"files": {}}, None, "has no weights/big.pt in owner/model at this revision"),
        ({"status": 503}, None, "answered 503 for weights/big.pt of owner/model: try again later"),
    ],
)
def test_refusals_are_sentences_with_the_way_out(fake, fault, token, words, caplog, capfd):
    for name, value in fault.items():
        setattr(fake, name, value)
    with caplog.at_level(logging.DEBUG), pytest.raises(BackendUnavailable, match=words) as caught:
        artifacts.download(MODEL, token=token)
    said = str(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert not token or token not in said
    assert artifacts.state(MODEL).kind == "absent"


def test_a_token_is_for_hugging_face_and_not_for_the_cdn(fake):
    fake.token = "right"
    assert artifacts.download(MODEL, token="right")
    assert {request[3] for request in fake.got("/resolve/")} == {"Bearer right"}
    assert {request[3] for request in fake.got("/cdn/")} == {""}


def test_offline_is_respected(fake, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackendUnavailable, match="HF_HUB_OFFLINE forbids the download"):
        artifacts.download(MODEL)
    assert fake.requests == []


def test_no_network(fake):
    fake.close()
    with pytest.raises(BackendUnavailable, match="check the network and try again"):
        artifacts.download(MODEL)


def test_a_disk_too_small_is_found_before_anything_is_asked(fake, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(BackendUnavailable, match=r"has 0 MB free, and 0 MB are needed.* set HF_HOME"):
        artifacts.download(MODEL)
    assert fake.requests == []


def test_a_disk_that_fills_up(fake, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(BackendUnavailable, match="is full: make room and try again"):
        artifacts.download(MODEL)


def test_a_branch_is_pinned_to_what_it_was(fake):
    moving = dataclasses.replace(MODEL, source=source(revision="main"))
    assert artifacts.download(moving)
    fake.commit = "beef" + "0" * 36
    path = artifacts.locate(moving)
    assert COMMIT in str(path)
    assert artifacts.delete(moving) == len(BIG) + len(SMALL)
    assert artifacts.locate(moving) is None


@pytest.mark.parametrize("rests", [False, True], ids=["in one go", "after a rest"])
def test_a_branch_that_moves_during_a_download_does_not_mix_versions(fake, rests):
    moving = dataclasses.replace(MODEL, source=source(revision="main"))
    seen = []

    def move(progress):
        seen.append(progress.file)
        fake.main = "beef" + "0" * 36 if progress.done_bytes >= len(BIG) else ""

    if rests:
        assert not artifacts.download(moving, move, stop=lambda: moving.files[1].path in seen)
    assert artifacts.download(moving, move)
    assert downloads.commit_here(artifacts._wanted(moving.source)) == COMMIT
    assert COMMIT in str(artifacts.locate(moving))
    assert len(downloads.snapshots("owner/model", "main")) == 1


def test_another_commit_in_the_cache_will_do(fake):
    artifacts.download(MODEL)
    newer = dataclasses.replace(MODEL, source=source(revision="beef" + "0" * 36))
    assert artifacts.locate(newer) == artifacts.locate(MODEL)


def test_the_same_weights_in_another_layout_are_used_and_not_downloaded(fake):
    other = source("else/where", (("folder/x.safetensors", BIG), ("folder/config.json", SMALL)))
    other = dataclasses.replace(other, path="folder")
    either = dataclasses.replace(MODEL, others=(other,))
    root = downloads.cache_folder() / "models--else--where/snapshots/abc/folder"
    root.mkdir(parents=True)
    (root / "x.safetensors").write_bytes(BIG)
    assert artifacts.locate(either) is None
    (root / "config.json").write_bytes(SMALL)
    assert artifacts.locate(either) == root
    assert artifacts.state(either).bytes_here == len(BIG) + len(SMALL)
    assert artifacts.download(either)
    assert fake.requests == []


@pytest.mark.parametrize("place", ["owner/model", "model", "."])
def test_a_folder_of_ones_own_comes_first_and_is_never_touched(fake, monkeypatch, tmp_path, place):
    artifacts.download(MODEL)
    root = tmp_path / "weights" / place
    (root / "weights").mkdir(parents=True)
    (root / "weights/big.pt").write_bytes(BIG)
    (root / "config.json").write_bytes(SMALL)
    monkeypatch.setenv(artifacts.FOLDER, str(tmp_path / "weights"))
    assert artifacts.locate(MODEL) == root / "weights/big.pt"
    artifacts.delete(MODEL)
    assert artifacts.locate(MODEL) == root / "weights/big.pt"
    (root / "weights/big.pt").write_bytes(BIG[:-20_000])  # a copy that was cut off
    assert artifacts.locate(MODEL) is None


def cached(folder, commit, data, linked=True):
    """A file of the model in the cache, by a link to a blob or, as on Windows, without."""
    repo = folder / "home/hub/models--owner--model"
    path = repo / "snapshots" / commit / "weights/big.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    blob = repo / "blobs" / hashlib.sha256(data).hexdigest()
    blob.parent.mkdir(exist_ok=True)
    if linked:
        path.symlink_to(os.path.relpath(blob, path.parent))
    else:
        blob = path
    blob.write_bytes(data)
    return path, blob


BIG_ONLY = dataclasses.replace(MODEL, source=source(files=(("weights/big.pt", BIG),)))
OTHER = "beef" + "0" * 36


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("commit", [COMMIT, OTHER])
@pytest.mark.parametrize(
    "data",
    [b"", BIG[:1000], BIG[:-1], BIG + b"x", b"version https://git-lfs.github.com/spec/v1\n", BIG[::-1][1:]],
    ids=["empty", "cut short", "a byte short", "a byte long", "pointer", "other"],
)
def test_what_is_not_all_of_a_file_is_not_taken_for_it(fake, tmp_path, linked, commit, data):
    path, _ = cached(tmp_path, commit, data, linked)
    assert artifacts.locate(BIG_ONLY) is None
    assert artifacts.state(BIG_ONLY).kind == "absent"
    assert artifacts.download(BIG_ONLY)
    assert artifacts.locate(BIG_ONLY).read_bytes() == BIG
    assert artifacts.locate(BIG_ONLY) == path or commit == OTHER


def test_another_revisions_file_of_the_same_size_is_known_by_its_blob(fake, tmp_path):
    path, _ = cached(tmp_path, OTHER, BIG[::-1])
    assert artifacts.locate(BIG_ONLY) is None
    cached(tmp_path, OTHER, BIG)
    assert artifacts.locate(BIG_ONLY) == path


@pytest.mark.parametrize("linked", [True, False])
def test_a_blob_that_is_cut_off_is_gone_on_with(fake, tmp_path, linked):
    path, blob = cached(tmp_path, COMMIT, BIG, linked)
    os.truncate(blob, 200_000)
    assert artifacts.locate(BIG_ONLY) is None
    assert artifacts.download(BIG_ONLY)
    assert path.read_bytes() == BIG and path.is_symlink()
    (body,) = [request for request in fake.got("/cdn/") if request[0] == "GET"]
    assert body[2] == ("bytes=200000-" if linked else "")


@pytest.mark.parametrize("kind", ["lost blob", "in a circle", "a folder"])
def test_links_that_lead_nowhere(fake, tmp_path, kind):
    path, blob = cached(tmp_path, COMMIT, BIG)
    elsewhere, _ = cached(tmp_path, OTHER, BIG)
    blob.unlink()
    if kind == "in a circle":
        path.unlink()
        path.symlink_to(path.name)
    elif kind == "a folder":
        elsewhere.unlink()
        elsewhere.mkdir()
    assert artifacts.state(BIG_ONLY).kind == "absent"
    assert artifacts.download(BIG_ONLY)
    assert path.read_bytes() == BIG
    assert kind == "a folder" or elsewhere.read_bytes() == BIG


def test_a_system_without_links_keeps_one_file_a_snapshot(fake, tmp_path, monkeypatch):
    elsewhere, blob = cached(tmp_path, OTHER, BIG)
    blob.unlink()

    def refuse(*args, **kwargs):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    assert artifacts.download(BIG_ONLY)
    assert artifacts.locate(BIG_ONLY).read_bytes() == elsewhere.read_bytes() == BIG
    assert not artifacts.locate(BIG_ONLY).is_symlink()


def test_a_dangling_link_can_be_deleted(fake, tmp_path):
    path, blob = cached(tmp_path, COMMIT, BIG)
    blob.unlink()
    assert artifacts.delete(BIG_ONLY) == 0
    assert not os.path.lexists(path)


def stored(path, count=8):
    """A safetensors file, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.zeros(count)}, path)
    return path


class TestOwnFiles:
    """Names decide in a user's own folder, and what is whole is taken in any type."""

    @pytest.fixture
    def own(self, fake, monkeypatch, tmp_path):
        monkeypatch.setenv(artifacts.FOLDER, str(tmp_path / "own"))
        (tmp_path / "own").mkdir()
        return tmp_path / "own"

    @pytest.mark.parametrize(
        "name",
        [
            "owner/model/weights/big.pt",
            "model/weights/big.safetensors",
            "weights/big.pth",
            "big.safetensors",
            "model/big.pt",
        ],
    )
    def test_a_copy_in_another_type(self, own, name):
        path = own / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"a": torch.zeros(3)}, path) if path.suffix != ".safetensors" else stored(path)
        assert artifacts.locate(BIG_ONLY) == path
        os.truncate(path, path.stat().st_size - 3)
        assert artifacts.locate(BIG_ONLY) is None

    def test_shards_of_another_number(self, own):
        sharded = source(files=(("dit/x-00001-of-00001.safetensors", BIG), ("dit/config.json", SMALL)))
        artifact = dataclasses.replace(MODEL, source=dataclasses.replace(sharded, path="dit"))
        for number in (1, 2):
            stored(own / f"model/dit/m-0000{number}-of-00002.safetensors")
        assert artifacts.locate(artifact) is None
        (own / "model/dit/config.json").write_bytes(SMALL)
        assert artifacts.locate(artifact) == own / "model/dit"
        (own / "model/dit/m-00001-of-00002.safetensors").unlink()
        assert artifacts.locate(artifact) is None

    @pytest.mark.parametrize(
        ("name", "data", "words"),
        [
            ("weights/big.pt", BIG[:9000], r"big\.pt is not used: it is another file, of 0 MB and not 0 MB"),
            ("weights/big.pt", b"<html>", r"big\.pt is not used: it is a web page"),
            ("weights/big.pt", b"", r"big\.pt is not used: it is empty"),
            ("large.safetensors", BIG, r"large\.safetensors \(0 MB\) has a name .* call it weights/big\.pt"),
        ],
    )
    def test_what_is_passed_over_is_said(self, own, name, data, words):
        path = own / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        assert re.search(words, artifacts.missing((BIG_ONLY,), "a GPU", "model"))

    def test_a_link_that_leads_nowhere_is_said(self, own):
        (own / "weights").mkdir()
        (own / "weights/big.pt").symlink_to("gone")
        assert "it is a link to a file that is gone" in artifacts.missing((BIG_ONLY,), "a GPU", "model")

    def test_its_conversion_is_its_own(self, own):
        made = dataclasses.replace(BIG_ONLY, converted="model-bf16.safetensors", converted_size=1000)
        published = artifacts.converted_path(made)
        first = stored(own / "big.safetensors")
        mine = artifacts.converted_path(made)
        assert mine != published
        stored(mine)
        assert artifacts.locate(made) == mine
        stored(first, 9)
        assert artifacts.converted_path(made) not in (mine, published)
        assert artifacts.locate(made) == first


def test_a_conversion_in_shards_is_found_whole_counted_and_deleted(fake):
    made = dataclasses.replace(BIG_ONLY, converted="model-bf16.safetensors", converted_size=1000)
    target = artifacts.converted_path(made)
    index = checkpoint.convert({name: torch.zeros(40) for name in "abc"}, target, most=100)
    assert artifacts.locate(made) == index != target
    size = sum(path.stat().st_size for path in target.parent.iterdir())
    assert artifacts.state(made).bytes_here == size
    os.truncate(target.with_name("model-bf16-00002-of-00003.safetensors"), 30)
    assert artifacts.locate(made) is None
    assert 0 < artifacts.delete(made) < size
    assert list(target.parent.iterdir()) == []


def test_a_conversion_is_loaded_instead_and_survives_its_source(fake):
    made = dataclasses.replace(MODEL, converted="model-bf16.safetensors", converted_size=1000)
    artifacts.download(made)
    path = artifacts.converted_path(made)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 1000)
    assert artifacts.locate(made) == path
    assert artifacts.state(made).bytes_here == len(BIG) + len(SMALL) + 1000
    artifacts.delete(MODEL)
    assert artifacts.state(made).kind == "present"
    assert artifacts.delete(made) == 1000
    assert artifacts.state(made).kind == "absent"


def test_two_at_once_do_not_write_one_file(fake):
    from huggingface_hub.utils import WeakFileLock

    lock = (
        downloads.cache_folder() / ".locks/models--owner--model" / f"{hashlib.sha256(BIG).hexdigest()}.lock"
    )
    lock.parent.mkdir(parents=True)
    with WeakFileLock(lock), pytest.raises(BackendUnavailable, match="Another program is downloading"):
        artifacts.download(MODEL)
    assert artifacts.download(MODEL)


def test_blobs_that_another_commit_uses_stay(fake):
    artifacts.download(MODEL)
    fake.commit = "beef" + "0" * 36
    newer = dataclasses.replace(MODEL, source=source(revision=fake.commit))
    (downloads.cache_folder() / "models--owner--model/refs").mkdir(exist_ok=True)
    assert downloads.fetch(
        downloads.Wanted("owner/model", fake.commit, "weights/big.pt"),
        None,
        lambda *args: None,
        lambda: False,
    )
    assert artifacts.delete(MODEL) == len(SMALL)
    assert artifacts.locate(newer) is None  # its config.json never came
    assert (downloads.snapshots("owner/model", fake.commit)[0] / "weights/big.pt").read_bytes() == BIG


class TestDeclared:
    """What the generators' specs say."""

    def test_every_generator_lists_its_files(self):
        assert artifacts.of("pocket") == ()
        assert [artifact.id for artifact in artifacts.of("self_forcing")] == [
            "self-forcing-dmd",
            "umt5-xxl",
            "umt5-tokenizer",
            "wan21-vae",
            "taew21",
        ]
        with pytest.raises(registry.UnknownBackend):
            artifacts.of("sora")
        with pytest.raises(LookupError, match=r"There is no 'x': choose one of pocket, .*umt5-xxl"):
            artifacts.find("x")

    @pytest.mark.parametrize("backend_id", registry.IDS)
    def test_what_only_the_hub_vouches_for_is_said(self, backend_id):
        said = artifacts.trusted(backend_id)
        for artifact in artifacts.of(backend_id):
            known = len(artifact.revision) == 40 and all(file.sha256 for file in artifact.files)
            assert (artifact.title in said) is not known
            assert (artifacts.trusted(artifact) == "") is known
        assert said == "" or said.endswith("and that version is kept until it is deleted.")

    @pytest.mark.parametrize("backend_id", registry.IDS)
    def test_they_say_what_the_page_shows(self, backend_id):
        spec = registry.find(backend_id)
        for artifact in artifacts.of(backend_id):
            assert artifacts.find(artifact.id) == (artifact,)
            assert artifact.purpose.endswith(".")
            assert artifact.license
            assert artifact.size > 0
            assert artifact.revision
        if artifacts.of(backend_id):
            total = sum(artifact.size for artifact in artifacts.of(backend_id))
            assert spec.weights_bytes == pytest.approx(total, rel=0.02)
            assert file_size(spec.weights_bytes) in spec.needs

    def test_self_forcing_is_missing_in_one_sentence(self, fake):
        entry = next(entry for entry in registry.entries() if entry.spec.id == "self_forcing")
        assert entry.missing == (
            "Not downloaded: needs 17.6 GB of weights and a 24 GB GPU "
            "(python app.py --download self-forcing)."
        )
        vae = downloads.cache_folder() / "models--Wan-AI--Wan2.1-T2V-1.3B/snapshots/x/Wan2.1_VAE.pth"
        vae.parent.mkdir(parents=True)
        vae.write_bytes(b"")
        os.truncate(vae, 507_609_880)
        entry = next(entry for entry in registry.entries() if entry.spec.id == "self_forcing")
        assert entry.missing == (
            "Partly downloaded: of its 17.6 GB of weights for a 24 GB GPU it lacks Self-Forcing transformer, "
            "UMT5-XXL text encoder, UMT5 tokenizer (python app.py --download self-forcing)."
        )

    def test_deleting_a_generator_keeps_what_another_one_that_is_here_needs(self, fake, monkeypatch):
        shared, own = (
            MODEL,
            dataclasses.replace(MODEL, id="own", source=source("owner/own", (("own.pt", BIG),))),
        )
        fake.files["owner/own", "own.pt"] = BIG
        listed = {"self_forcing": (own, shared), "longcat": (shared,)}
        monkeypatch.setattr(artifacts, "of", lambda backend_id: listed.get(backend_id, ()))
        assert artifacts.download("self_forcing")
        assert artifacts.delete("self_forcing") == len(BIG)
        assert artifacts.state("longcat").kind == "present"
        assert artifacts.delete("model") == len(BIG) + len(SMALL)
        assert artifacts.state("longcat").kind == "absent"

    def test_optional_parts_are_not_needed(self, fake, monkeypatch):
        extra = dataclasses.replace(MODEL, id="extra", optional=True)
        monkeypatch.setattr(artifacts, "of", lambda backend_id: (extra,) if backend_id == "longcat" else ())
        assert artifacts.missing((extra,), "a GPU", "longcat") is None
        assert artifacts.state(extra).kind == "absent"


def test_nothing_is_written_by_looking(fake, tmp_path):
    artifacts.state("self_forcing")
    registry.entries()
    assert os.listdir(tmp_path) == []


class TestCommand:
    """`python app.py --download MODEL`."""

    def test_tells_size_licence_and_progress(self, fake, monkeypatch, capsys):
        listed = {"self_forcing": (OWNED,)}
        monkeypatch.setattr(artifacts, "of", lambda backend_id: listed.get(backend_id, ()))
        problem = app.download("self-forcing", accepted_license=False)
        assert problem == (
            "The licence of An owned model has to be accepted first: Not for sale. "
            "Add --accept-licence to accept it."
        )
        said = capsys.readouterr().out
        assert "An owned model: 0 MB. Is tested. Licence: Not for sale." in said
        assert str(downloads.cache_folder()) in said
        assert app.download("self-forcing", accepted_license=True) is None
        said = capsys.readouterr().out
        assert "0 MB of 0 MB, " in said
        assert said.endswith("All here.\n")
        assert app.download("owned", accepted_license=False) is None
        assert "An owned model: here." in capsys.readouterr().out

    def test_an_unknown_model(self):
        assert "There is no 'sora': choose one of pocket, self_forcing" in (app.download("sora", True) or "")

    @pytest.mark.parametrize(
        ("environment", "words"),
        [
            ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids the download"),
            ({"HF_TOKEN": "hf_secret"}, "refuses this token for gdhe17/Self-Forcing"),
        ],
    )
    def test_a_failure_is_one_sentence(self, fake, tmp_path, environment, words):
        """In a process of its own, told of the hub as users tell theirs."""
        fake.token = "another"
        command = [sys.executable, "app.py", "--download", "self-forcing", "--accept-licence"]
        ran = subprocess.run(
            command,
            cwd=registry.__file__.rpartition("/backends/")[0],
            env={**os.environ, "HF_ENDPOINT": fake.endpoint, "HF_HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 1
        assert words in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
        assert "hf_secret" not in ran.stdout + ran.stderr
        assert f"Into {tmp_path}/hub" in ran.stdout
        assert "Self-Forcing transformer: 5.7 GB." in ran.stdout
        assert "CC BY-NC-SA 4.0" in ran.stdout
