"""Loads a generator's published files in a process of its own, within the memory that is given to it.

    python load_published.py GENERATOR (parts | convert) BYTES

`parts` reads every file by its loader, to a device that takes no memory; `convert` is the transformer's
whole way, its copy in BF16 included. Prints one line of JSON: the seconds it took, and the most anonymous
memory and address space meanwhile.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from backends import registry
from backends.base import BackendUnavailable
from backends.hub import artifacts
from backends.wan import checkpoint, taehv, text, vae
from backends.wan import spec as wan

NOWHERE: Any = torch.device("meta")


def status(name: str) -> int:
    """Returns the bytes in one line of what Linux says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def main(backend_id: str, what: str, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    ended, anonymous = threading.Event(), [status("RssAnon")]

    def watch() -> None:
        while not ended.wait(0.02):
            anonymous[0] = max(anonymous[0], status("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.monotonic()
    said: list[str] = []
    try:
        entry = next(entry for entry in registry.entries() if entry.spec.id == backend_id)
        if entry.missing is not None:
            raise BackendUnavailable(entry.missing)
        load_parts(backend_id) if what == "parts" else convert(backend_id, said)
    except BackendUnavailable as error:
        said.append(str(error))
    finally:
        ended.set()
        watching.join()
    result = {
        "said": said,
        "seconds": round(time.monotonic() - began, 1),
        "anonymous_bytes": anonymous[0],
        "address_bytes": status("VmPeak"),
    }
    print(json.dumps(result))


def load_parts(backend_id: str) -> None:
    spec = import_module(f"backends.{backend_id}.spec")
    weights = import_module(f"backends.{backend_id}.weights")
    for artifact in spec.ARTIFACTS:
        path = artifacts.locate(artifact)
        assert path is not None, artifact.title
        if artifact.converted:
            load_transformer(backend_id, weights, path)
        elif artifact.id.endswith("-vae"):
            vae.load(path, NOWHERE, torch.bfloat16)
        elif artifact is wan.UMT5:
            tokenizer = artifacts.locate(wan.UMT5_TOKENIZER)
            assert tokenizer is not None
            text.load(path, tokenizer, NOWHERE)
        elif artifact is wan.TAEHV21:
            taehv.load(path, NOWHERE, torch.bfloat16)
        elif artifact.id == "longcat-distilled":
            assert len(weights.load_adapter() or {}) == 48 * 7


def load_transformer(backend_id: str, weights: ModuleType, path: Path) -> None:
    if backend_id == "self_forcing":
        weights.load(path, NOWHERE, torch.bfloat16)
    elif backend_id == "worldplay":
        weights.load(path, weights.ModelConfig(), NOWHERE, torch.bfloat16)
    else:
        tensors = checkpoint.bare(checkpoint.scan(path))
        weights.load(tensors, weights.read_config(path), [NOWHERE], torch.bfloat16)


def convert(backend_id: str, said: list[str]) -> None:
    weights = import_module(f"backends.{backend_id}.weights")
    if backend_id == "longcat":
        weights.load_published([NOWHERE], torch.bfloat16, "bf16", said.append)
    else:
        weights.load_published(NOWHERE, torch.bfloat16, said.append)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
