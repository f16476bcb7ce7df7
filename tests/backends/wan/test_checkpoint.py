"""Weights on their way from files into models: names, numbers, copies, and memory that does not suffice."""

import errno
import json
import mmap
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from backends.base import BackendUnavailable
from backends.hub import files
from backends.wan import checkpoint


def model():
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def numbers(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tensor.shape, generator=generator).to(dtype)
        for name, tensor in model().state_dict().items()
    }


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "model.diffusion_model.",
        "diffusion_model.",
        "_orig_mod.",
        "_fsdp_wrapped_module.",
        "model._fsdp_wrapped_module._checkpoint_wrapped_module.",
        "generator.model.module._orig_mod.",
        "module.module.",
    ],
)
def test_what_others_put_around_names_is_taken_off(prefix):
    named = checkpoint.bare({prefix + name: tensor for name, tensor in numbers().items()})
    assert named.keys() == numbers().keys()
    inside = checkpoint.bare({"0._fsdp_wrapped_module._orig_mod.weight": 1})
    assert inside == {"0.weight": 1}


def test_two_names_that_become_one():
    with pytest.raises(BackendUnavailable, match=r"hold 0\.weight twice, once as model\.0\.weight"):
        checkpoint.bare({"0.weight": 1, "model.0.weight": 2})


@pytest.mark.parametrize(
    "saved",
    [
        lambda state: {"generator_ema": {}, "generator": state},
        lambda state: {"generator_ema": state, "generator": {"x": torch.zeros(1)}},
        lambda state: {"state_dict": {"model": state}, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"state": {0: torch.zeros(1)}}},
        lambda state: state,
    ],
)
def test_the_tensors_of_a_training_checkpoint(tmp_path, saved):
    torch.save(saved(numbers()), tmp_path / "x.pt")
    filled = model()
    checkpoint.fill(filled, checkpoint.scan(tmp_path / "x.pt"), "cpu", torch.float32)
    assert all(torch.equal(tensor, numbers()[name]) for name, tensor in filled.state_dict().items())


def test_tensors_of_every_form_are_read_from_their_places(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    forms = {
        "turned": base.t(),
        "part": base[1:3, 2:5],
        "scalar": torch.tensor(7.0),
        "empty": torch.empty(0, 3),
        "half": base.bfloat16(),
        "parameter": nn.Parameter(torch.ones(3)),
        "one": base,
        "again": base,
    }
    torch.save(forms, tmp_path / "x.pt")
    stored = checkpoint.scan(tmp_path / "x.pt")
    assert stored["one"] is stored["again"]
    for name, tensor in forms.items():
        for dtype in (tensor.dtype, torch.float64):
            assert torch.equal(stored[name].to("cpu", dtype), tensor.detach().to(dtype)), name
        assert torch.equal(
            torch.cat([torch.empty(0), *stored[name].pieces()]), tensor.detach().flatten().float()
        )


def test_what_is_changed_in_memory_is_not_changed_in_the_file(tmp_path):
    save_file(numbers(), tmp_path / "x.safetensors")
    filled = model()
    checkpoint.fill(filled, checkpoint.scan(tmp_path / "x.safetensors"), "cpu", torch.float32)
    for tensor in filled.state_dict().values():
        tensor.zero_()
    assert torch.equal(checkpoint.read(tmp_path / "x.safetensors")["0.weight"], numbers()["0.weight"])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("0.weight", lambda x: x.index_fill(0, torch.tensor(2), float("nan")), "0.weight holds numbers that"),
        ("1.bias", lambda x: x / 0, "1.bias holds numbers that are not finite"),
        (
            "1.bias",
            lambda x: x.to(torch.float8_e4m3fn),
            r"1\.bias is stored as 8-bit floats \(FP8, float8_e4m3fn",
        ),
        ("1.bias", lambda x: x.to(torch.float8_e5m2), "FP8"),
        ("1.bias", lambda x: x.to(torch.int8), "1.bias is stored as int8: use the file in BF16"),
    ],
)
@pytest.mark.parametrize("converting", [True, False])
def test_numbers_that_are_no_weights(tmp_path, name, change, words, converting):
    state = numbers()
    path, target = tmp_path / "x.safetensors", tmp_path / "own" / "y.safetensors"
    save_file({**state, name: change(state[name])}, path)

    def convert():
        checkpoint.check(model(), checkpoint.scan(path))
        checkpoint.convert(checkpoint.scan(path), target)

    def fill():
        checkpoint.fill(model(), checkpoint.scan(path), "cpu", torch.bfloat16)

    with pytest.raises(BackendUnavailable, match=words) as caught:
        (convert if converting else fill)()
    assert str(path) in str(caught.value)
    assert not target.parent.exists() or not list(target.parent.iterdir())


def test_large_numbers_are_finite(tmp_path):
    large = {name: torch.full_like(tensor, 3e38) for name, tensor in numbers().items()}
    checkpoint.fill(model(), large, "cpu", torch.float32)


def test_a_large_copy_is_cut_into_shards(tmp_path):
    target = tmp_path / "own" / "copy.safetensors"
    whole = checkpoint.convert(numbers(), target, {"config": "x"})
    assert whole == target and files.whole(target)
    cut = checkpoint.convert(numbers(), target, {"config": "x"}, most=20)
    assert cut.name == f"copy{files.INDEX}" and files.all_whole(cut)
    assert not target.exists()
    names = sorted(path.name for path in target.parent.iterdir())
    assert names == [*(f"copy-0000{n}-of-00003.safetensors" for n in (1, 2, 3)), f"copy{files.INDEX}"]
    assert json.loads(cut.read_text())["metadata"] == {"config": "x"}
    for name, tensor in checkpoint.read(cut).items():
        assert torch.equal(tensor, numbers()[name].bfloat16())
    # By the library itself, too.
    assert load_file(target.parent / names[0]).keys() <= numbers().keys()


def test_an_adapter_is_named(tmp_path):
    save_file({"blocks.0.lora_A.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(BackendUnavailable, match=r"x\.safetensors: this is an adapter \(LoRA\)"):
        checkpoint.fill(model(), checkpoint.scan(tmp_path / "x.safetensors"), "cpu", torch.float32)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
        RuntimeError("unable to mmap 42346367069 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_too_little_memory_is_no_fault_of_the_file(tmp_path, monkeypatch, error, kind):
    path = tmp_path / f"x.{kind}"
    (torch.save if kind == "pt" else save_file)(numbers(), path)

    def fail(*args, **kwargs):
        raise error

    def said(action):
        with pytest.raises(BackendUnavailable, match=r"Not enough memory \(RAM\).*add swap") as caught:
            action()
        assert "delete" not in str(caught.value)

    weights, built = checkpoint.scan(path), model()
    with monkeypatch.context() as patched:
        patched.setattr(mmap, "mmap", fail)
        said(lambda: checkpoint.read(path))
        said(lambda: checkpoint.fill(built, weights, "cpu", torch.float32))
    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", fail)
        said(lambda: checkpoint.fill(built, weights, "cpu", torch.bfloat16))
        said(lambda: checkpoint.convert(weights, tmp_path / "copy.safetensors"))
    if kind == "pt":
        monkeypatch.setattr(torch, "load", fail)
        said(lambda: checkpoint.scan(path))
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name]


def test_a_disk_that_fails_is_no_fault_of_the_file_either(tmp_path, monkeypatch):
    save_file(numbers(), tmp_path / "x.safetensors")
    weights = checkpoint.scan(tmp_path / "x.safetensors")

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint.Stored, "pieces", fail)
    with pytest.raises(BackendUnavailable, match="Input/output error") as caught:
        checkpoint.fill(model(), weights, "cpu", torch.bfloat16)
    assert "delete" not in str(caught.value)


def repacked(path: Path, compressed: bool = False, order: bytes | None = None) -> Path:
    """A PyTorch file as another program's zip, where records are not aligned."""
    state = {"a": torch.arange(12.0).view(3, 4), "b": torch.arange(5.0)}
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in parts.items():
            archive.writestr(name, order if order and name.endswith("/byteorder") else data)
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "packed again by another program"),
        ({"compressed": True}, "compressed by another program"),
        ({"order": b"big"}, "other byte order"),
    ],
)
def test_a_pytorch_file_that_was_packed_again_is_no_file_of_other_numbers(tmp_path, options, words):
    path, problem, read = repacked(tmp_path / "model.pt", **options), "", {}
    try:
        read = checkpoint.read(path)
    except BackendUnavailable as error:
        problem = str(error)
    if options or problem:
        assert words in problem and "model.pt" in problem
    else:  # a torch that looks where records are
        assert torch.equal(read["a"], torch.arange(12.0).view(3, 4))
        assert torch.equal(read["b"], torch.arange(5.0))


def test_what_is_too_deep_or_has_its_sign_elsewhere_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    nested: object = {"a": torch.ones(2)}
    for _ in range(6):
        nested = {"module": nested}
    for saved, words in ((nested, "dictionaries deep"), ({"a": torch._neg_view(torch.ones(2))}, "sign")):
        torch.save(saved, path)
        with pytest.raises(BackendUnavailable, match=words):
            checkpoint.read(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": None, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 70], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 5]},
        {"dtype": "F32", "shape": [1], "data_offsets": [None, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        [],
        None,
        "F32",
    ],
    ids=str,
)
def test_a_header_of_safetensors_that_makes_no_sense_is_a_sentence(tmp_path, entry):
    head = json.dumps({"a": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(8))
    with pytest.raises(BackendUnavailable, match=r"model\.safetensors cannot be read"):
        checkpoint.read(path)


def test_two_tensors_of_the_same_bytes_are_no_safetensors_file(tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    head = json.dumps({"a": entry, "b": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    with pytest.raises(BackendUnavailable, match="damaged in its header"):
        checkpoint.read(path)
