"""Comparisons with plain torch: right ones pass, and wrong or failing ones are sentences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qvg import PRESETS, selfcheck
from qvg.config import KIVI, QVG
from qvg.selfcheck import Check, checks, preset_checks

CPU = torch.device("cpu")


def test_plain_torch_agrees_with_itself() -> None:
    found = list(checks(CPU, (63,)))
    assert all(check.passed and not check.sentence for check in found)
    assert {"rotate", "merge, 63 tokens", "kmeans, 63 tokens"} <= {check.name for check in found}


def test_presets_agree() -> None:
    some = {"BF16": PRESETS["BF16"], "QVG": replace(QVG, clusters=16), "KIVI": KIVI}
    assert [check.name for check in preset_checks(CPU, some, 64, tokens=40) if check.passed] == list(some)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("out of resource: shared memory, Required: 114952, Hardware limit: 101376."),
        ImportError("no ptxas"),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_does_not_run_is_a_sentence_and_the_others_are_compared(monkeypatch, error) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(selfcheck, "kmeans", fail)
    failed = [check for check in checks(CPU, (63,)) if not check.passed]
    assert [check.name for check in failed] == ["kmeans, 63 tokens"]
    words = str(error).rstrip(".")
    expected = f"{type(error).__name__}: {words}" if words else type(error).__name__
    assert failed[0].sentence == f"kmeans, 63 tokens does not run: {expected}."


def test_what_is_wrong_is_a_sentence(monkeypatch) -> None:
    monkeypatch.setattr(selfcheck, "hadamard", lambda x: selfcheck.hadamard_reference(x) * 1.5)
    (failed,) = [check for check in checks(CPU, (63,)) if not check.passed]
    assert failed.sentence.startswith("hadamard, 63 tokens differs from plain torch by 0.5, at most 1e-05")
    assert not Check("x", float("nan"), 1.0).passed


def test_a_preset_that_cannot_be_encoded_is_a_sentence() -> None:
    (found,) = preset_checks(CPU, {"RTN": replace(PRESETS["RTN INT2"], group=48)}, 64, tokens=40)
    assert "RTN does not run: ValueError: head_dim=64 is not whole groups of 48" in found.sentence
