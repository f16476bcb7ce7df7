"""Commands, code and links of every README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("assets", "backends", "qvg", "tests", "ui")
READMES = [ROOT / "README.md", *sorted(file for name in FOLDERS for file in (ROOT / name).rglob("README.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_example_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(import torch\n.*?)```", README, re.DOTALL)
    assert code is not None
    exec(code[1].replace("blocks=10", "blocks=1"), {})
    assert "(4, 128, 224, 3) 1.00x smaller than BF16" in capsys.readouterr().out


def test_every_command_of_the_readmes_exists() -> None:
    texts = [path.read_text(encoding="utf-8") for path in READMES]
    modules = {name for text in texts for name in re.findall(r"python -m ((?:backends|qvg)[\w.]*)", text)}
    modules |= {name for text in texts for name in re.findall(r" -m (backends[\w.]*)", text)}
    assert modules
    for module in sorted(modules):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def test_every_flag_of_app_in_the_readmes_exists() -> None:
    usage = subprocess.run([sys.executable, "app.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert usage.returncode == 0, usage.stderr
    for path in READMES:
        for command in re.findall(r"python app\.py((?: [^`\n]*)?)", path.read_text(encoding="utf-8")):
            for flag in re.findall(r"--[\w-]+", command):
                assert flag in usage.stdout, f"{path}: {flag}"


@pytest.mark.parametrize("readme", READMES, ids=[str(path.relative_to(ROOT)) for path in READMES])
def test_every_file_that_a_readme_links_to_exists(readme: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", readme.read_text(encoding="utf-8")):
        assert (readme.parent / link).exists(), link


def test_the_front_page_is_short() -> None:
    assert len(README.splitlines()) <= 180
