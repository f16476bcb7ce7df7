"""What files are by their first bytes and their own headers, and whether they are whole."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from backends.base import BackendUnavailable
from backends.hub import files
from backends.wan import checkpoint

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}


class Trap:
    """Pickled as a call that would run when it is read."""

    def __reduce__(self):
        return (os.mkdir, ("sprung",))


def legacy(path):
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)


def packed(path):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not weights")


def program(path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a Git LFS pointer"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("w.pt", b"\n\n<!DOCTYPE html><html>Sign in", "a web page"),
        ("w.safetensors", b"<html><head>404", "a web page"),
        ("w.pt", b'<?xml version="1.0"?><Error><Code>AccessDenied', "a web page"),
        ("w.pth", b'{"error": "Repository not found"}', "a JSON text, perhaps a server's answer"),
        ("w.safetensors", b'{"error":"Invalid username or password."}', "a JSON text"),
        ("w.gguf", b"GGUF" + bytes(100), "a GGUF file"),
        ("w.safetensors", b"GGUF" + bytes(100), "a GGUF file"),
        ("w.pt", b"", "is empty"),
        ("w.safetensors", b"", "is empty"),
        ("w.safetensors", bytes(100), "no safetensors file"),
        ("w.safetensors", b"some text", "no safetensors file"),
        ("w.safetensors", (50).to_bytes(8, "little") + b'{"a', "is cut off"),
        ("w.safetensors", (4).to_bytes(8, "little") + b"{xy}", "damaged in its header"),
        ("w.pt", b"\x1f\x8b" + bytes(100), "a packed archive"),
        ("w.pt", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ", "what macOS leaves"),
        ("w.pt", b"PK\x03\x04" + bytes(1000), "is cut off"),
        ("w.pt", packed, "a zip archive, but not one that PyTorch wrote"),
        ("w.pt", program, "a TorchScript program"),
        ("w.pt", b"garbage", "no file of weights, or damaged"),
        ("w.pt", bytes(1000), "no file of weights, or damaged"),
        ("w.pt", pickle.dumps(Trap()), "more than tensors, such as a program"),
        ("w.pt", lambda path: torch.save({"generator": Trap()}, path), "more than tensors"),
        (
            "w.pt",
            lambda path: torch.save({"x": Trap()}, path, _use_new_zipfile_serialization=False),
            "more than tensors",
        ),
        ("w.pt", lambda path: torch.save([1, 2], path), "holds no 'generator_ema', but list"),
        ("w.pt", lambda path: torch.save(None, path), "holds no 'generator_ema', but NoneType"),
        ("w.pt", lambda path: torch.save(torch.ones(2), path), "holds no 'generator_ema', but"),
        ("w.pt", lambda path: torch.save({}, path), "holds no 'generator_ema', but nothing"),
        ("w.pt", lambda path: torch.save({"epoch": 3}, path), "holds no 'generator_ema', but epoch"),
        ("w.pt", lambda path: None, "it is not there"),
        ("w.safetensors", lambda path: path.symlink_to("gone"), "a link to a file that is gone"),
    ],
)
def test_what_is_no_weights_is_named(tmp_path, name, content, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(BackendUnavailable) as caught:
        checkpoint.read(path)
    said = str(caught.value)
    assert words in said and str(path) in said
    assert "weights_only" not in said and "\x1b" not in said and len(said) < 400
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("w.pt", torch.save),
        ("w.safetensors", save_file),
        ("w.safetensors", torch.save),  # the name is wrong, and the bytes say what it is
        ("w.pt", save_file),
        ("w.pth", lambda tensors, path: legacy(path)),
    ],
)
def test_weights_are_read_and_their_loss_is_seen(tmp_path, name, save):
    path = tmp_path / name
    save(TENSORS, path)
    for found in (checkpoint.read(path), checkpoint.scan(path)):
        assert all(torch.equal(found[name].to("cpu"), tensor) for name, tensor in TENSORS.items())
    assert files.whole(path)
    path.chmod(0o444)  # in a cache that several share
    assert torch.equal(checkpoint.read(path)["a"], TENSORS["a"])
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(BackendUnavailable, match=r"cannot be read .*: delete it and download it again"):
        checkpoint.read(path)


def test_whole_by_size_or_by_its_own_account(tmp_path):
    weights, other, pointer = tmp_path / "w.safetensors", tmp_path / "x.pt", tmp_path / "y.pt"
    save_file(TENSORS, weights)
    other.write_bytes(bytes(1000))
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    size = weights.stat().st_size
    assert files.whole(weights, size, exact=True)
    assert files.whole(weights, 2 * size)  # in another type
    assert not files.whole(weights, 2 * size, resized=False)
    assert files.whole(other, 1000, exact=True) and files.whole(other, 1005) and files.whole(other)
    assert not files.whole(other, 1005, exact=True) and not files.whole(other, 1100)
    assert not files.whole(pointer) and not files.whole(tmp_path) and not files.whole(tmp_path / "gone")
    weights.write_bytes(weights.read_bytes() + b"more")
    assert files.inspect(weights).fault == "is longer than its header says"


def sharded(folder, **changes):
    """Two shards and their index, with changes to what the index says."""
    save_file({"a": TENSORS["a"]}, folder / "m-00001-of-00002.safetensors")
    save_file({"b": TENSORS["b"]}, folder / "m-00002-of-00002.safetensors")
    listed = {"a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors", **changes}
    (folder / f"m{files.INDEX}").write_text(json.dumps({"metadata": {}, "weight_map": listed}))


def test_an_index_decides_what_is_read(tmp_path):
    sharded(tmp_path)
    save_file({"a": torch.zeros(2, 3), "c": torch.zeros(1)}, tmp_path / "m-00001-of-00009.safetensors")
    (tmp_path / "._m-00001-of-00002.safetensors").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / f"._m{files.INDEX}").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".DS_Store").write_bytes(b"Bud1")
    for path in (tmp_path, tmp_path / f"m{files.INDEX}"):
        found = checkpoint.read(path)
        assert found.keys() == {"a", "b"} and torch.equal(found["a"], TENSORS["a"])
        assert files.all_whole(path)
    os.truncate(tmp_path / "m-00002-of-00002.safetensors", 60)
    assert not files.all_whole(tmp_path)
    (tmp_path / "m-00002-of-00002.safetensors").unlink()
    assert not files.all_whole(tmp_path)
    with pytest.raises(BackendUnavailable, match=r"names m-00002-of-00002\.safetensors, which is not there"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../m.safetensors", "x/../../m", "C:\\m", "\\\\host\\m", "", 3, None]
)
def test_an_index_leads_nowhere_else(tmp_path, name):
    sharded(tmp_path, a=name)
    with pytest.raises(BackendUnavailable, match="which is not a file beside it"):
        checkpoint.scan(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"weight_map": {}}', '{"weight_map": []}', "<html>"]
)
def test_an_index_that_is_none(tmp_path, text):
    sharded(tmp_path)
    (tmp_path / f"m{files.INDEX}").write_text(text)
    with pytest.raises(BackendUnavailable, match=r"m\.safetensors\.index\.json cannot be read"):
        checkpoint.scan(tmp_path)


def test_shards_without_an_index(tmp_path):
    sharded(tmp_path)
    (tmp_path / f"m{files.INDEX}").unlink()
    assert checkpoint.read(tmp_path).keys() == {"a", "b"}
    save_file({"a": TENSORS["b"]}, tmp_path / "other.safetensors")
    with pytest.raises(BackendUnavailable, match=r"holds a in m-00001-of-00002\.safetensors and in other"):
        checkpoint.scan(tmp_path)
    (tmp_path / "other.safetensors").unlink()
    (tmp_path / "m-00001-of-00002.safetensors").unlink()
    with pytest.raises(BackendUnavailable, match=r"lacks m-00001-of-00002\.safetensors"):
        checkpoint.scan(tmp_path)


def test_an_index_and_a_shard_that_disagree(tmp_path):
    sharded(tmp_path, c="m-00001-of-00002.safetensors")
    with pytest.raises(BackendUnavailable, match="its list says that it holds c, and it does not"):
        checkpoint.scan(tmp_path)
    (tmp_path / f"n{files.INDEX}").write_text("{}")
    with pytest.raises(BackendUnavailable, match="several lists of shards"):
        checkpoint.scan(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"<html>", "a web page"),
        (b"", "is empty"),
        (b"{", "is not JSON"),
        (b"[1]", "holds a list"),
        (b"\xff\xfe\x00\x00", "is no text"),
        (b'{"error": "Entry not found"}', "a server's answer"),
    ],
)
def test_a_description_that_is_none(tmp_path, content, words):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BackendUnavailable, match=words):
        files.read_json(path)
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert files.read_json(path) == {"a": 1}


def test_the_embedded_models_files_are_named_too(tmp_path, monkeypatch):
    """A clone without Git LFS has pointers in their places."""
    from backends.pocket import spec, weights

    for name in spec.FILES:
        (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(
        BackendUnavailable, match=r"autoencoder\.safetensors cannot be read \(it is a Git LFS"
    ):
        weights.load(tmp_path, torch.device("cpu"), torch.float32)
    monkeypatch.setattr(spec, "WEIGHTS", tmp_path)
    assert "autoencoder.safetensors" in str(spec.missing())
    monkeypatch.undo()
    assert spec.missing() is None
