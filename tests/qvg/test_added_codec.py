"""A codec added as the README says, by edits of two files, in a copy of the library."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADDED = Path(__file__).with_name("added_codec")
BEFORE_CONSTANTS = "BF16 = BF16Config()\n"
LAST_PRESET = '        "QuaRot INT4": QUAROT_INT4,\n'


def test_a_codec_is_added_by_edits_of_two_files(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "qvg", tmp_path / "qvg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("backends", "ui", "assets"):
        (tmp_path / name).symlink_to(ROOT / name)
    config = tmp_path / "qvg" / "config.py"
    text = config.read_text()
    assert text.count(BEFORE_CONSTANTS) == text.count(LAST_PRESET) == 1
    text = text.replace(BEFORE_CONSTANTS, (ADDED / "config.py.txt").read_text() + BEFORE_CONSTANTS)
    config.write_text(text.replace(LAST_PRESET, LAST_PRESET + '        "FP8": FP8Config(),\n'))
    shutil.copy(ADDED / "fp8.py", tmp_path / "qvg" / "codecs")
    program = (ADDED / "use.py").read_text()
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.strip() == "added", ran.stderr
