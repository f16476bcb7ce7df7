"""A generator added as the README says, by a folder and a line, in a copy of `backends`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.test_architecture import violations

ROOT = Path(__file__).parents[2]
ADDED = Path(__file__).with_name("added_generator")
FIRST_IDS = '\nIDS = ("pocket", '
FILES = ("spec.py", "load.py", "rollout.py")


def test_a_generator_is_added_by_a_folder_and_a_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "backends", tmp_path / "backends", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("qvg", "ui", "assets"):
        (tmp_path / name).symlink_to(ROOT / name)
    registry = tmp_path / "backends" / "registry.py"
    text = registry.read_text()
    assert text.count(FIRST_IDS) == 1
    registry.write_text(text.replace(FIRST_IDS, FIRST_IDS + '"mosaic", '))
    (tmp_path / "backends" / "mosaic").mkdir()
    for name in FILES:
        shutil.copy(ADDED / name, tmp_path / "backends" / "mosaic")
    program = (ADDED / "use.py").read_text()
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.strip() == "added", ran.stderr


def test_the_added_generator_imports_what_generators_may() -> None:
    sources = {f"backends.mosaic.{Path(name).stem}": (ADDED / name).read_text() for name in FILES}
    assert violations(sources) == []
