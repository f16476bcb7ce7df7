"""The published layout, name by name, and files that are not it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backends.base import BackendUnavailable, Request
from backends.hub import artifacts, downloads
from backends.wan import text, vae
from backends.worldplay import load, spec, weights
from backends.worldplay.model import ModelConfig
from qvg import BF16, KVCache
from tests.backends.wan.samples import UMT5, VAE22, VAE22_PUBLISHED, randomise, save_tokenizer
from tests.backends.worldplay.parity import GEOMETRY, layout, model
from tests.backends.worldplay.tiny import CONFIG

CPU = torch.device("cpu")


def published(generator: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """As in the original's file: training's wrappers are in the names, and an averaged copy is beside it."""
    wrapped = {
        f"model.{name.replace('blocks.1.', 'blocks.1._fsdp_wrapped_module.')}": w
        for name, w in generator.items()
    }
    averaged = {
        f"model._fsdp_wrapped_module.{name}": torch.full_like(w, torch.nan) for name, w in generator.items()
    }
    return {"generator": wrapped, "generator_ema": averaged}


def test_the_full_size_has_the_published_889_tensors() -> None:
    built = weights.build(ModelConfig()).state_dict()
    expected = {}
    for name, shape in layout().items():
        for layer in range(30) if ".N." in name else (0,):
            expected[name.replace(".N.", f".{layer}.")] = shape
    assert len(expected) == 889
    assert {name: list(value.shape) for name, value in built.items()} == expected
    assert sum(value.numel() for value in built.values()) == 5_293_225_152


def test_a_published_file_is_read_and_converted(tmp_path: Path) -> None:
    expected = model().state_dict()
    torch.save(published(expected), tmp_path / "model.pt")
    loaded = weights.load(tmp_path / "model.pt", CONFIG, CPU, torch.float32)
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    weights.convert(tmp_path / "model.pt", tmp_path / "own" / "transformer.safetensors", CONFIG)
    (tmp_path / "model.pt").unlink()
    again = weights.load(tmp_path / "own" / "transformer.safetensors", CONFIG, CPU, torch.bfloat16)
    # Recorded weights are BF16 numbers.
    assert all(torch.equal(value.float(), expected[name]) for name, value in again.state_dict().items())
    assert not any(parameter.requires_grad for parameter in again.parameters())
    size = (tmp_path / "own" / "transformer.safetensors").stat().st_size
    assert size < 2.5 * sum(value.numel() for value in expected.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda saved: saved["generator"].pop("model.proj_out.bias"), r"they lack proj_out\.bias"),
        (lambda saved: saved["generator"].update({"model.extra": torch.zeros(1)}), "have extra too many"),
        (
            lambda saved: saved["generator"].update({"model.proj_out.bias": torch.zeros(3)}),
            r"proj_out\.bias is \(3,\)",
        ),
        (lambda saved: saved.pop("generator"), "holds no 'generator', but generator_ema"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, change, words: str) -> None:
    saved = published(model().state_dict())
    change(saved)
    torch.save(saved, tmp_path / "model.pt")
    with pytest.raises(BackendUnavailable, match=words):
        weights.load(tmp_path / "model.pt", CONFIG, CPU, torch.float32)


@pytest.mark.parametrize("kind", ["cut off", "a list", "absent"])
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.pt"
    torch.save([1, 2] if kind == "a list" else published(model().state_dict()), path)
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "absent":
        path.unlink()
    words = "holds no 'generator', but list" if kind == "a list" else "cannot be read .*download it again"
    with pytest.raises(BackendUnavailable, match=words):
        weights.load(path, CONFIG, CPU, torch.float32)


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"generator": Trap()}, tmp_path / "model.pt")
    with pytest.raises(BackendUnavailable, match="cannot be read"):
        weights.load(tmp_path / "model.pt", CONFIG, CPU, torch.float32)
    assert not (tmp_path / "sprung").exists()


def test_loading_finds_converts_and_reads_the_prompt_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file as it is published, but tiny; the text encoder is opened for a new prompt only."""
    from transformers import UMT5Config

    places = {artifact.id: tmp_path / artifact.id for artifact in spec.ARTIFACTS}
    places[spec.TRANSFORMER.id] = tmp_path / "model.pt"
    torch.save(published(model().state_dict()), places[spec.TRANSFORMER.id])
    randomise(vae.build(VAE22, "cpu"), 0).save_pretrained(places[spec.VAE22.id])
    described = places[spec.VAE22.id] / "config.json"
    described.write_text(json.dumps({**VAE22_PUBLISHED, **json.loads(described.read_text())}))
    encoder = text.build(UMT5Config(**{**UMT5, "d_model": CONFIG.text_width})).to_empty(device="cpu")
    randomise(encoder, 1).save_pretrained(places[spec.UMT5.id])
    save_tokenizer(places[spec.UMT5_TOKENIZER.id])
    converted = tmp_path / "converted.safetensors"

    def locate(artifact: artifacts.Artifact) -> Path:
        own = artifact is spec.TRANSFORMER and converted.is_file()
        return converted if own else places[artifact.id]

    described = replace(
        spec.TINY, width=96, height=64, geometry=replace(GEOMETRY, tokens_per_frame=6), latents_per_block=4
    )
    monkeypatch.setattr(artifacts, "locate", locate)
    monkeypatch.setattr(artifacts, "converted_path", lambda artifact: converted)
    monkeypatch.setattr(downloads, "own_folder", lambda: tmp_path / "own")
    monkeypatch.setattr(spec, "SPEC", described)
    monkeypatch.setattr(weights, "ModelConfig", lambda: CONFIG)
    opened, said = [], []
    load_encoder = text.load
    monkeypatch.setattr(
        text, "load", lambda *args, **kept: opened.append(args) or load_encoder(*args, **kept)
    )

    backend = load.load(CPU, said.append)
    assert [line.partition(" ")[0] for line in said] == ["Converting", "Loading", "Loading"]
    expected = model().state_dict()
    for name, value in backend.models.transformer.state_dict().items():
        assert torch.equal(value.float(), expected[name])
    for prompt in ("stone bridge", "snow", "stone bridge"):
        cache = KVCache(described.geometry, BF16, described.policy, frames_per_block=4)
        video = backend.open(Request(prompt=prompt, blocks=1), cache, lambda step, steps: None)
        segment = video.step()
        assert segment is not None and segment.frames.shape == (13, 64, 96, 3)
    assert len(opened) == 2
    said.clear()
    load.load(CPU, said.append)
    assert [line.partition(" ")[0] for line in said] == ["Loading", "Loading"]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "locate", lambda artifact: None)
    assert spec.missing() == (
        "Not downloaded: needs 56.5 GB of weights and a 32 GB GPU (python app.py --download worldplay)."
    )
    assert "56.5 GB" in spec.SPEC.needs
    monkeypatch.setattr(artifacts, "locate", lambda each: None if each is spec.VAE22 else Path("here"))
    assert "it lacks Wan 2.2 video autoencoder (" in str(spec.missing())
    with pytest.raises(BackendUnavailable, match="Partly downloaded"):
        load.load(CPU, print)
    monkeypatch.setattr(artifacts, "locate", lambda artifact: Path("here"))
    assert spec.missing() is None


def test_the_licence_is_asked_for_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "locate", lambda artifact: None)
    with pytest.raises(BackendUnavailable, match=r"has to be accepted first: .*South Korea"):
        artifacts.download("worldplay")
    assert {artifact.id: artifact.needs_acceptance for artifact in spec.ARTIFACTS}["worldplay-5b"]


def test_a_size_that_is_an_estimate_does_not_hide_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(artifacts.FOLDER, str(tmp_path))
    monkeypatch.setattr(downloads, "own_folder", lambda: tmp_path / "own")
    monkeypatch.setattr(downloads, "snapshots", lambda repo, revision: [])
    path = tmp_path / spec.TRANSFORMER.source.path
    path.parent.mkdir()
    path.write_bytes(b"")
    assert artifacts.locate(spec.TRANSFORMER) is None
    path.write_bytes(b"much less than 42 GB")
    assert artifacts.locate(spec.TRANSFORMER) == path
