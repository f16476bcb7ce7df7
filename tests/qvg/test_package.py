"""The wheel: what it holds, what it needs, and that it works where nothing else of this repository is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest

import qvg

ROOT = Path(__file__).parents[2]
SKIPPED = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built without the network, from a copy: setuptools writes beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("qvg", "backends", "ui"):
        shutil.copytree(ROOT / name, folder / name, ignore=SKIPPED)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", folder / "out", folder], check=True)
    (built,) = (folder / "out").iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(files.read(name))


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as files:
        found = {name for name in files.namelist() if ".dist-info/" not in name}
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "qvg").rglob("*.py")}
    assert found == expected | {"qvg/py.typed"}


def test_the_wheel_says_what_it_is_and_needs(metadata: Message) -> None:
    assert metadata["Name"] == "qvg"
    assert metadata["Version"] == qvg.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    needed = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert needed == {"torch>=2.8", "numpy>=1.26"}


def test_the_studio_extra_is_the_requirements_file(metadata: Message) -> None:
    lines = [line.split(";") for line in metadata.get_all("Requires-Dist", [])]
    studio = {_sorted(line[0]) for line in lines if line[1:] == [' extra == "studio"']}
    needed = {_sorted(line[0]) for line in lines if len(line) == 1}
    assert studio | needed == {_sorted(line) for line in (ROOT / "requirements.txt").read_text().split()}


def test_a_cache_works_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    ZipFile(wheel).extractall(tmp_path)
    code = (
        "import sys, torch, qvg\n"
        f"assert qvg.__file__.startswith({str(tmp_path)!r}), qvg.__file__\n"
        "geometry = qvg.CacheGeometry(layers=1, heads=2, head_dim=64, tokens_per_frame=12)\n"
        "cache = qvg.KVCache(geometry, qvg.QVG, qvg.CachePolicy(every=1), frames_per_block=4)\n"
        "for _ in range(2):\n"
        "    cache.layer(0).stage(*torch.randn(2, 1, 2, 48, 64))\n"
        "    out = qvg.attend(torch.randn(1, 2, 48, 64), cache.layer(0))\n"
        "    cache.commit()\n"
        "print(tuple(out.shape), cache.stats().spans, sorted({'backends', 'ui'} & {*sys.modules}))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.strip() == "(1, 2, 48, 64) 2 []", ran.stderr


def _sorted(requirement: str) -> str:
    """`requirement` with its version clauses in order, as builders may reorder them."""
    name = requirement.strip().replace(" ", "").lower()
    start = next((at for at, letter in enumerate(name) if letter in "<>=!~"), len(name))
    return name[:start] + ",".join(sorted(name[start:].split(",")))
