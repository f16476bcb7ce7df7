"""The choice of an attention on a GPU, with attentions that fail, disagree, or find no memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qvg import device as choosing
from qvg.ops.attention import Partial, fastest, partial_attention_reference
from qvg.ops.attention.names import cudnn_refused

DEVICE = torch.device("cpu")
NO_PLAN = "cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph."
Attention = Callable[[Tensor, Tensor, Tensor], Partial]


def raising(error: Exception) -> Attention:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Partial:
        raise error

    return attention


def wrong_output(q: Tensor, k: Tensor, v: Tensor) -> Partial:
    out, lse = partial_attention_reference(q, k, v)
    return Partial(out * 1.1, lse)


def wrong_sum(q: Tensor, k: Tensor, v: Tensor) -> Partial:
    out, lse = partial_attention_reference(q, k, v)
    return Partial(out, lse / 0.6931)


def not_numbers(q: Tensor, k: Tensor, v: Tensor) -> Partial:
    out, lse = partial_attention_reference(q, k, v)
    return Partial(out * torch.nan, lse)


def only_whole_tiles(q: Tensor, k: Tensor, v: Tensor) -> Partial:
    if k.shape[2] % 64:
        raise RuntimeError(NO_PLAN)
    return partial_attention_reference(q, k, v)


def short_of_memory(most: int) -> Attention:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Partial:
        if k.shape[2] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return partial_attention_reference(q, k, v)

    return attention


works = partial_attention_reference
no_plan = raising(RuntimeError(NO_PLAN))
no_kernel = raising(RuntimeError("CUDA error: no kernel image is available for execution on the device\n..."))
not_built = raising(ImportError("libcudart.so.12: cannot open shared object file"))
other_package = raising(TypeError("flash_attn_func() got an unexpected keyword argument"))


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch):
    """Chooses among attentions given by name, each with a function and its milliseconds, the usual first."""

    def choose(
        usual: str, attentions: dict[str, tuple[Attention, float]], keys: int = 128
    ) -> tuple[str, str]:
        current = ""

        def attention(q: Tensor, k: Tensor, v: Tensor, name: str) -> Partial:
            nonlocal current
            current = name
            return attentions[name][0](q, k, v)

        def milliseconds(call: Callable[[], object]) -> float:
            call()
            return attentions[current][1]

        monkeypatch.setattr(fastest, "partial_attention", attention)
        monkeypatch.setattr(fastest, "_milliseconds", milliseconds)
        monkeypatch.setattr(fastest, "fused_names", lambda: [name for name in attentions if name != usual])
        for name, value in {"HEADS": 2, "QUERIES": 64, "KEYS": keys}.items():
            monkeypatch.setattr(fastest, name, value)
        return fastest.fastest.__wrapped__(DEVICE, 64, usual)

    return choose


@pytest.mark.parametrize(
    ("usual", "attentions", "expected"),
    [
        ("cudnn", {"cudnn": (works, 1.0), "cuda-flash": (works, 1.7)}, "cudnn"),
        ("cuda-flash", {"cuda-flash": (works, 1.7), "cudnn": (works, 1.0)}, "cudnn"),
        ("cuda-flash", {"cuda-flash": (works, 1.0), "cudnn": (works, 0.97)}, "cuda-flash"),
        ("cudnn", {"cudnn": (no_plan, 1.0), "cuda-flash": (works, 9.0)}, "cuda-flash"),
        ("cudnn", {"cudnn": (only_whole_tiles, 1.0), "cuda-flash": (works, 9.0)}, "cuda-flash"),
        ("cuda-flash", {"cuda-flash": (no_kernel, 1.0), "cudnn": (works, 2.0)}, "cudnn"),
        (
            "cudnn",
            {"cudnn": (no_plan, 1.0), "cuda-flash": (no_kernel, 1.0), "flash-attn-2": (works, 3.0)},
            "flash-attn-2",
        ),
        ("cuda-flash", {"cuda-flash": (works, 2.0), "flash-attn-3": (not_built, 1.0)}, "cuda-flash"),
        ("cuda-flash", {"cuda-flash": (works, 2.0), "flash-attn-3": (other_package, 1.0)}, "cuda-flash"),
        ("cuda-flash", {"cuda-flash": (works, 2.0), "flash-attn-3": (wrong_sum, 1.0)}, "cuda-flash"),
        # It is the usual one that is wrong.
        ("cudnn", {"cudnn": (wrong_output, 1.0), "cuda-flash": (works, 2.0)}, "cuda-flash"),
        ("cudnn", {"cudnn": (not_numbers, 1.0), "cuda-flash": (works, 2.0)}, "cuda-flash"),
        ("cudnn", {"cudnn": (no_plan, 1.0), "cuda-flash": (no_kernel, 1.0)}, "math"),
        ("cudnn", {"cudnn": (wrong_output, 1.0), "cuda-flash": (wrong_sum, 1.0)}, "math"),
        ("cuda-flash", {"cuda-flash": (not_numbers, 1.0)}, "math"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_fastest_that_runs_and_is_right(choose, usual, attentions, expected) -> None:
    name, reason = choose(usual, attentions)
    assert name == expected
    assert reason.endswith(".") and "\n" not in reason
    unusable = [each for each, (attention, _) in attentions.items() if attention is not works]
    assert all(f"{each} attention cannot be used: " in reason for each in unusable)
    if expected == "math":
        assert reason.startswith("No fused attention runs here")
    else:
        assert reason.startswith(f"{expected} was chosen by times measured here")


def test_the_reason_says_what_failed_and_how(choose) -> None:
    _, reason = choose("cudnn", {"cudnn": (no_plan, 1.0), "cuda-flash": (works, 0.614)})
    assert "cuda-flash 0.61 ms." in reason
    assert "cudnn attention cannot be used: cuDNN Frontend error" in reason
    _, reason = choose("cudnn", {"cudnn": (raising(RuntimeError("words " * 999)), 1.0)})
    assert len(reason) < 400


def test_memory_that_is_short_makes_the_trial_smaller(choose) -> None:
    name, reason = choose(
        "cudnn", {"cudnn": (no_plan, 1.0), "cuda-flash": (short_of_memory(500), 1.0)}, keys=1000
    )
    assert name == "cuda-flash"
    assert "16 queries and 250 keys" in reason


@pytest.mark.parametrize("usual", ["cudnn", "cuda-flash"])
def test_without_any_memory_the_usual_one_is_kept(choose, usual) -> None:
    name, reason = choose(usual, {usual: (short_of_memory(0), 1.0)})
    assert name == usual
    assert "no free memory" in reason


def test_an_allocation_of_the_trial_itself_may_fail(choose, monkeypatch: pytest.MonkeyPatch) -> None:
    def randn(*_: object, **__: object) -> Tensor:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "randn", randn)
    assert choose("cuda-flash", {"cuda-flash": (works, 1.0)})[0] == "cuda-flash"


@pytest.fixture
def torch_for(monkeypatch: pytest.MonkeyPatch):
    def torch_for(cuda: str | None, cudnn: bool = True, enabled: bool | None = True) -> None:
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: cudnn)
        if enabled is None:
            monkeypatch.delattr(torch.backends.cuda, "cudnn_sdp_enabled")
        else:
            monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: enabled)

    return torch_for


@pytest.mark.parametrize(
    ("cuda", "cudnn", "enabled", "words"),
    [
        ("12.9", True, True, None),
        ("13.0", True, None, None),
        ("13.0", True, False, "turned off in torch"),
        ("12.8", True, True, "torch for CUDA 12.8 has it off, below 12.9"),
        ("12.8", True, None, "torch for CUDA 12.8"),
        ("12.6", True, False, "torch for CUDA 12.6"),
        ("11.8", True, True, "torch for CUDA 11.8"),
        ("13.0", False, True, "has no cuDNN"),
        (None, True, True, "torch for CUDA None"),
        (None, False, True, "has no cuDNN"),
    ],
)
def test_cudnn_is_used_only_where_torch_would(torch_for, cuda, cudnn, enabled, words) -> None:
    torch_for(cuda, cudnn, enabled)
    why = cudnn_refused()
    usual = choosing._choose_cuda((9, 0), 128)
    if words is None:
        assert why is None
        assert usual.attention == "cudnn"
        assert "cudnn" in fastest.fused_names()
    else:
        assert why is not None and words in why
        assert usual.attention == "cuda-flash"
        assert "cudnn" not in fastest.fused_names()


def test_the_reason_says_that_cudnn_was_not_tried(choose, torch_for) -> None:
    torch_for("12.8")
    _, reason = choose("cuda-flash", {"cuda-flash": (works, 1.0)})
    assert "cuDNN attention is not used" in reason


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_each_card_has_a_usual_attention(torch_for, capability: tuple[int, int]) -> None:
    torch_for("13.0")
    choice = choosing._choose_cuda(capability, 128)
    assert choice.dtype == torch.bfloat16
    assert choice.attention == ("cudnn" if capability == (9, 0) else "cuda-flash")
