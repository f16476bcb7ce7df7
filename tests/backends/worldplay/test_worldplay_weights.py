"""The published layout, name by name, and files that are not it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from backends.base import BackendUnavailable
from backends.wan import checkpoint
from backends.worldplay import weights
from backends.worldplay.model import ModelConfig
from tests.backends.worldplay.parity import layout, model
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
    assert sum((tmp_path / "own" / "transformer.safetensors").stat().st_size for _ in (0,)) < 3 * sum(
        value.numel() for value in expected.values()
    )


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


def test_random_weights_are_the_same_again_and_finite() -> None:
    one, other = weights.build(CONFIG), weights.build(CONFIG)
    weights.randomise(one, CPU, torch.float32)
    weights.randomise(other, CPU, torch.float32)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
        assert value.abs().max() > 0
    assert checkpoint.names(one.state_dict()).endswith("more")
