"""Commands, code, names and links of every README."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from backends import registry
from backends.hub import artifacts

ROOT = Path(__file__).parents[1]
FOLDERS = ("assets", "backends", "qvg", "tests", "ui")
READMES = [ROOT / "README.md", *sorted(file for name in FOLDERS for file in (ROOT / name).rglob("README.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
IDS = [str(path.relative_to(ROOT)) for path in READMES]

# Reads [[program, argument, ...], ...] and prints what each writes; a program is a module or a file.
HELP = """
import contextlib, io, json, runpy, sys
shown = []
for program, *arguments in json.load(sys.stdin):
    sys.argv = [program, *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        run = runpy.run_path if program.endswith(".py") else runpy.run_module
        run(program, run_name="__main__")
    shown.append(out.getvalue())
print(json.dumps(shown))
"""


def commands(readme: Path) -> Iterator[list[str]]:
    """Yields the commands in the blocks and code spans of a README, as words without their environment."""
    text = readme.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in [*lines, *(span.replace("\n", " ") for span in spans)]:
        if re.match(r"(\w+=\S+ )*(nice |python |pip |torchrun |tests/)", line):
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                while re.match(r"\w+=|nice$", words[0]):
                    words.pop(0)
                yield words


def programs(readme: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yields our programs that a README runs, with the words up to the first flag, and the flags."""
    for words in commands(readme):
        if words[0] == "python" and words[1].endswith(".py"):
            program = words[1:]
        elif words[0] in ("python", "torchrun") and "-m" in words:
            program = words[words.index("-m") + 1 :]
        else:
            continue
        if program[0].startswith(("pytest", "tests.")):
            continue
        flags = [word for word in program if word.startswith("--")]
        first = program.index(flags[0]) if flags else len(program)
        yield [word for word in program[:first] if not word.isupper()], flags


@pytest.fixture(scope="module")
def usages() -> dict[tuple[str, ...], str]:
    """The help of every program in the READMEs, from one process: torch takes seconds to import."""
    known = list({tuple(program): None for readme in READMES for program, _ in programs(readme)})
    text = json.dumps([[*program, "--help"] for program in known])
    done = subprocess.run([sys.executable, "-c", HELP], input=text, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(known, json.loads(done.stdout), strict=True))


def test_every_program_and_flag_exists(usages: dict[tuple[str, ...], str]) -> None:
    assert {program[0] for program in usages} >= {"app.py", "qvg.bench", "backends.bench", "backends.report"}
    for readme in READMES:
        for program, flags in programs(readme):
            usage = usages[tuple(program)]
            assert "usage" in usage, (readme, program)
            assert [flag for flag in flags if flag not in usage] == [], (readme, program)


@pytest.mark.parametrize("readme", READMES, ids=IDS)
def test_every_download_exists(readme: Path) -> None:
    for words in commands(readme):
        if "--download" in words:
            assert artifacts.find(words[words.index("--download") + 1].replace("-", "_"))


@pytest.mark.parametrize("readme", READMES, ids=IDS)
def test_every_test_command_runs_something(readme: Path) -> None:
    for words in commands(readme):
        if words[0].endswith(".sh"):
            assert (ROOT / words[0]).exists()
        if words[:2] == ["python", "-m"] and words[2].startswith("tests."):
            assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").exists()
        if words[:3] != ["python", "-m", "pytest"]:
            continue
        paths = [word for word in words[3:] if word.startswith("tests")]
        assert all((ROOT / path).exists() for path in paths), words
        if any(name in path for path in paths for name in ("soak", "browser")):
            # By default neither is run.
            assert words[3:5] == ["-m", ""], words


@pytest.mark.parametrize("readme", READMES, ids=IDS)
def test_every_installation_can_be_made(readme: Path) -> None:
    for words in commands(readme):
        if words[:2] != ["pip", "install"]:
            continue
        files = [after for word, after in pairwise(words) if word == "-r"]
        assert all((ROOT / file).exists() for file in files), words
        for extra in re.findall(r"\.\[(\w+)\]", " ".join(words)):
            assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


def python_of(readme: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_library_example_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = python_of(ROOT / "README.md")
    exec(code, {})
    assert capsys.readouterr().out == "4.31x smaller than BF16\n"


def test_the_example_of_a_model_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    _, code = python_of(ROOT / "ui" / "README.md")
    assert "blocks=10" in code
    exec(code.replace("blocks=10", "blocks=1"), {})
    assert re.search(
        r"^\(4, 128, 224, 3\) \d\.\d\dx smaller than BF16$", capsys.readouterr().out, re.MULTILINE
    )


@pytest.mark.parametrize("readme", READMES, ids=IDS)
def test_every_file_that_a_readme_links_to_exists(readme: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", readme.read_text(encoding="utf-8")):
        assert (readme.parent / link).exists(), link


def tree() -> Iterator[Path]:
    """Yields the paths that the front page's tree names."""
    (block,) = re.findall(r"^```\n(app\.py .*?)^```", README, re.DOTALL | re.MULTILINE)
    top = ROOT
    for line in block.splitlines():
        names = re.split(r" {2,}", line.strip())[0].split()
        if not line.startswith(" "):
            top = ROOT / names[0]
        yield from (top / name if line.startswith(" ") else ROOT / name for name in names)


def test_every_path_of_the_tree_exists() -> None:
    paths = list(tree())
    assert [str(path.relative_to(ROOT)) for path in paths if not path.exists()] == []
    assert {path.name for path in paths} >= {spec.id for spec in registry.specs()} | {"qvg", "ui", "runs"}


def test_every_name_of_the_architecture_exists() -> None:
    (section,) = re.findall(r"^## Architecture\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```.*?^```", "", section, flags=re.DOTALL | re.MULTILINE)
    names = {name for span in re.findall(r"`([\w.]+)`", text) for name in span.split(".")}
    files = [path for name in ("qvg", "backends", "ui") for path in (ROOT / name).rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert names >= {"RunManager", "RunPresenter", "Session", "attend"}
    assert [name for name in sorted(names) if not re.search(rf"(?:class|def) {name}\b", code)] == []


def test_the_front_page_is_short() -> None:
    assert len(README.splitlines()) <= 180
