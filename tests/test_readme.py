"""What the README promises runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_example_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(import torch\n.*?)```", README, re.DOTALL)
    assert code is not None
    exec(code[1].replace("blocks=10", "blocks=1"), {})
    assert "(4, 128, 224, 3) 1.00x smaller than BF16" in capsys.readouterr().out


def test_every_command_of_the_readme_exists() -> None:
    modules = set(re.findall(r"python -m ((?:backends|qvg)[\w.]*)", README))
    assert modules
    for module in modules:
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def test_every_file_the_readme_shows_is_there() -> None:
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
