"""Who imports whom, read from the source; and what importing must not do, tried in fresh processes."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("qvg", "backends", "ui")

PAGE_SIDE = tuple(
    f"backends.{name}"
    for name in [
        "base",
        "camera",
        "checkup",
        "events",
        "hub.artifacts",
        "memory_plan",
        "plain_text",
        "registry",
        "runtime.hardware",
        "runtime.jobs",
        "runtime.warmup",
        "runtime.worker",
        "sizes",
        "validation",
    ]
)
PLAIN_QVG = ("qvg.config", "qvg.policy", "qvg.stats")
MODEL_LIBRARIES = (
    "torch",
    "numpy",
    "PIL",
    "einops",
    "safetensors",
    "diffusers",
    "transformers",
    "huggingface_hub",
    "ftfy",
)
# What a module of a generator's folder may import.
MODEL_FOLDER = (
    "backends",
    "backends.base",
    "backends.camera",
    "backends.hub.*",
    "backends.plain_text",
    "backends.sizes",
    "backends.runtime.errors",
    "backends.media*",
    "backends.wan*",
    "{own}*",
    "qvg",
    *PLAIN_QVG,
)


@dataclass(frozen=True)
class Rule:
    """What the modules matching `modules` may import: of ours (patterns), and of others (top-level names)."""

    modules: str
    ours: tuple[str, ...]
    others: tuple[str, ...] = ()
    lazily: tuple[str, ...] = ()  # of others, inside functions only


FLASH_ATTENTION = ("flash_attn", "flash_attn_interface")

PLAIN_UI = ("ui", "ui.text", "ui.format", "ui.safe_json", "ui.form", "ui.form.*")
PAGE_BACKENDS = ("backends", "backends.media*", *PAGE_SIDE, *PLAIN_QVG, "qvg.metrics")

# The first rule that matches a module holds. `{own}` is its first two names, such as backends.pocket.
RULES = (
    Rule(
        "app",
        (
            "ui",
            "ui.page",
            "ui.server.environment",
            "backends",
            "backends.base",
            "backends.hub.downloads",
            "backends.runtime.zerogpu",
            *PAGE_SIDE,
        ),
    ),
    Rule(
        "ui.notebook",
        ("backends", *PAGE_SIDE),
        (),
        # Of the notebook that it is used in.
        ("IPython", "jupyter_core", "google"),
    ),
    Rule("ui.format", ("backends.sizes",)),
    Rule("ui.text", ("ui.format",)),
    Rule("ui.theme", (), ("gradio",)),
    # What is seen knows words, and nothing of runs and generators.
    Rule("ui.components*", ("ui", "ui.text", "ui.components", "ui.components.*"), ("gradio",)),
    # What is made and how it went, without the library that shows it.
    Rule("ui.form*", (*PLAIN_UI, *PAGE_BACKENDS), ("numpy", "PIL")),
    Rule("ui.runs*", (*PLAIN_UI, "ui.runs", "ui.runs.*", *PAGE_BACKENDS), ("numpy", "PIL", "av", "imageio")),
    Rule(
        "ui.widgets*",
        (*PLAIN_UI, "ui.runs", "ui.runs.*", "ui.components*", "ui.widgets", "ui.widgets.*", *PAGE_BACKENDS),
        ("gradio", "numpy"),
    ),
    Rule(
        "ui*",
        ("ui", "ui.*", "backends", "backends.media*", *PAGE_SIDE, *PLAIN_QVG, "qvg.metrics"),
        ("gradio", "starlette", "httpx", "numpy", "PIL", "imageio", "av"),
    ),
    Rule("qvg.config", ()),
    Rule("qvg.policy", PLAIN_QVG),
    Rule("qvg.stats", PLAIN_QVG),
    Rule("qvg.payload", ("qvg.config", "qvg.ops.e4m3"), ("torch",)),
    Rule("qvg.device", ("qvg.ops.attention.*",), ("torch",)),
    Rule("qvg.rope", (), ("torch",)),
    Rule("qvg.codecs*", ("qvg.codecs*", "qvg.config", "qvg.payload", "qvg.rope", "qvg.ops*"), ("torch",)),
    Rule("qvg.ops.attention.flash", ("qvg.ops*",), ("torch",), FLASH_ATTENTION),
    Rule("qvg.ops*.triton", ("qvg.ops*", "qvg.rope"), ("torch", "triton")),
    Rule("qvg.ops.ahead", ("qvg.ops.card",), ("torch",), ("triton",)),
    Rule("qvg.ops*", ("qvg.ops*", "qvg.rope"), ("torch",)),
    Rule("qvg.bench*", ("qvg", "qvg.*"), ("torch",), ("matplotlib",)),
    Rule("qvg*", ("qvg", "qvg.*"), ("torch", "numpy"), ("triton",)),
    Rule("backends", ()),
    Rule("backends.plain_text", ()),
    Rule("backends.sizes", ()),
    Rule("backends.camera", ("backends.plain_text",)),
    Rule("backends.base", ("backends.camera", "qvg", *PLAIN_QVG), ("numpy",)),
    Rule("backends.events", ("backends.base", "backends.camera", *PLAIN_QVG)),
    Rule(
        "backends.*.spec",
        (
            "backends",
            "backends.hub.artifacts",
            "backends.base",
            "backends.camera",
            "backends.hub.files",
            "backends.plain_text",
            "backends.wan.spec",
            "{own}.*",
            *PLAIN_QVG,
        ),
    ),
    Rule("backends.media*", ("backends.media", "backends.media.*"), ("numpy", "PIL", "av", "imageio")),
    Rule("backends.runtime.session", ("backends.*", "qvg", *PLAIN_QVG), ("torch",)),
    Rule("backends.runtime.hardware", ("qvg",), (), ("torch",)),
    Rule("backends.runtime.peak_memory", (), (), ("torch",)),
    Rule("backends.runtime.warmup", ("backends", "backends.*", "qvg", "qvg.*"), (), ("torch",)),
    Rule("backends.checkup", ("backends", "backends.*", "qvg", "qvg.*"), (), ("torch", "av")),
    Rule(
        "backends.runtime.generator_process",
        (*PAGE_SIDE, "backends.runtime.errors", "backends.runtime.session"),
        (),
        ("torch",),
    ),
    Rule("backends.runtime.errors", ("backends.base", "backends.events")),
    Rule("backends.registry", ("backends.base", "backends.plain_text")),
    Rule("backends.validation", ("backends.base", "backends.camera", "backends.plain_text"), ("numpy",)),
    Rule("backends.runtime.jobs", ("backends.base", "backends.camera", "backends.events", *PLAIN_QVG)),
    Rule(
        "backends.memory_plan",
        (
            "backends",
            "backends.base",
            "backends.sizes",
            "backends.runtime.hardware",
            "backends.runtime.jobs",
            *PLAIN_QVG,
        ),
    ),
    Rule(
        "backends.runtime.worker",
        ("backends", "backends.runtime.generator_process", "backends.runtime.errors", *PAGE_SIDE),
    ),
    Rule(
        "backends.runtime.zerogpu",
        ("backends", "backends.runtime.generator_process", "backends.runtime.worker", *PAGE_SIDE),
        ("spaces",),
        ("torch",),
    ),
    Rule("backends.hub.files", ("backends.base",)),
    Rule(
        "backends.hub.artifacts",
        (
            "backends",
            "backends.base",
            "backends.hub.files",
            "backends.hub.downloads",
            "backends.registry",
            "backends.sizes",
        ),
    ),
    Rule(
        "backends.hub.downloads",
        ("backends", "backends.base", "backends.hub.files"),
        (),
        ("huggingface_hub", "filelock"),
    ),
    Rule("backends.bench", ("backends.*", "qvg", "qvg.*"), ("torch", "numpy")),
    Rule("backends.kernels", ("backends", "backends.*", "qvg", "qvg.*"), ("torch",)),
    Rule(
        "backends.report*",
        ("backends", "backends.*", "qvg", "qvg.*"),
        ("torch", "numpy", "PIL", "av", "imageio", "jinja2"),
    ),
    Rule("backends.longcat.bench", ("backends", "backends.*", "qvg", "qvg.*"), MODEL_LIBRARIES),
    # Tools: they list kernels, or measure as `qvg.bench` does.
    Rule("backends.*.launches", (*MODEL_FOLDER, "qvg.launches", "qvg.ops.*"), MODEL_LIBRARIES),
    Rule("backends.*.evaluation.*", (*MODEL_FOLDER, "qvg.bench.*", "qvg.metrics"), MODEL_LIBRARIES),
    Rule("backends.*.training.*", (*MODEL_FOLDER, "qvg.metrics"), MODEL_LIBRARIES),
    # Kernels of a generator's own.
    Rule("backends.pocket.render*", (*MODEL_FOLDER, "qvg.ops.*"), (*MODEL_LIBRARIES, "triton")),
    Rule("backends.worldplay.cameras*", (*MODEL_FOLDER, "qvg.ops.*"), (*MODEL_LIBRARIES, "triton")),
    Rule("backends.lingbot*", (*MODEL_FOLDER, "backends.self_forcing.transformer"), MODEL_LIBRARIES),
    Rule("backends.*", MODEL_FOLDER, MODEL_LIBRARIES, ("torchao", "accelerate")),
)


@dataclass(frozen=True)
class Import:
    name: str  # of ours the module, of others the top-level name
    ours: bool
    line: int
    at_import: bool  # run when the module is imported
    for_types: bool  # never run


def imports(module: str, source: str, known: frozenset[str]) -> Iterator[Import]:
    """Every import statement of a module."""

    def visit(node: ast.AST, at_import: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                for name in imported_names(child, module, known):
                    top = name.partition(".")[0]
                    ours = top in (*PACKAGES, "app", "tests")
                    yield Import(name if ours else top, ours, child.lineno, at_import, for_types)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    yield from visit(ast.Module([part], []), at_import, True)
                for part in child.orelse:
                    yield from visit(ast.Module([part], []), at_import, for_types)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from visit(child, at_import and not inside, for_types)

    yield from visit(ast.parse(source), True, False)


def imported_names(node: ast.Import | ast.ImportFrom, module: str, known: frozenset[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = module.split(".") if f"{module}.__init__" in known else module.split(".")[:-1]
        kept = package[: len(package) - node.level + 1]
        base = ".".join([*kept, base] if base else kept)
    # `from qvg import device` is an import of qvg.device.
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]


def violations(sources: Mapping[str, str]) -> list[str]:
    """What the modules of `sources` (name to text) import against the rules, as sentences."""
    known = frozenset(sources)
    found = []
    for module, source in sorted(sources.items()):
        module = module.removesuffix(".__init__")
        rule = next((rule for rule in RULES if fnmatchcase(module, rule.modules)), None)
        if rule is None:
            found.append(f"{module}: no rule says what it may import")
            continue
        own = ".".join(module.split(".")[:2])
        ours = [pattern.format(own=own) for pattern in rule.ours]
        for item in imports(module, source, known | {name.removesuffix(".__init__") for name in known}):
            if item.ours:
                allowed = item.name == module or any(fnmatchcase(item.name, pattern) for pattern in ours)
            elif item.name in sys.stdlib_module_names or item.for_types or item.name in rule.others:
                allowed = True
            else:
                allowed = item.name in rule.lazily and not item.at_import
            if not allowed:
                when = "when it is imported" if item.at_import and item.name in rule.lazily else "at all"
                found.append(f"{module}, line {item.line}: may not import {item.name} {when}")
            eager = item.at_import and not item.for_types and not module.endswith("triton")
            if item.ours and item.name.endswith("triton") and eager:
                found.append(f"{module}, line {item.line}: imports {item.name} before its first use")
    return found


def ours() -> dict[str, str]:
    """The text of every module of ours that exists, by name."""
    files = [ROOT / "app.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
        for path in files
        if path.exists()
    }


def circles(sources: Mapping[str, str]) -> set[frozenset[str]]:
    """Returns the sets of modules that import each other, in functions and for types included."""
    plain = {name.removesuffix(".__init__"): text for name, text in sources.items()}
    known = frozenset(sources) | frozenset(plain)
    imported = {
        name: {item.name for item in imports(name, text, known) if item.ours and item.name != name}
        for name, text in plain.items()
    }

    def reached(module: str) -> set[str]:
        found: set[str] = set()
        left = [module]
        while left:
            new = imported.get(left.pop(), set()) - found
            found |= new
            left += new
        return found

    reach = {name: reached(name) for name in plain}
    return {
        frozenset(other for other in reach[name] if name in reach.get(other, ()))
        for name in plain
        if name in reach[name]
    }


def test_no_modules_import_each_other():
    assert circles(ours()) == set()


def test_only_one_module_makes_html_components():
    made = [
        name
        for name, source in ours().items()
        if name.startswith("ui.") and re.search(r"\bHTML\(", source) and name != "ui.notebook"
    ]
    assert made == ["ui.components.base"]


def test_a_circle_is_noticed():
    sources = {"a": "from qvg import b", "qvg.b": "def f():\n    import app", "app": "import qvg.b"}
    assert circles(sources) == {frozenset({"qvg.b", "app"})}


def test_modules_import_only_what_the_table_allows():
    assert violations(ours()) == []


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("ui.runs.player_view", "import torch", "may not import torch at all"),
        ("ui.runs.player_view", "import gradio", "may not import gradio at all"),
        ("ui.form.values", "from gradio import Error", "may not import gradio at all"),
        ("ui.components.player", "from ui.runs import panels", "may not import ui.runs"),
        ("ui.components.player", "from backends.base import Segment", "backends.base"),
        ("ui.runs.player_view", "def f():\n    import triton", "line 2: may not import triton"),
        (
            "ui.runs.player_view",
            "from backends.runtime.session import Session",
            "backends.runtime.session",
        ),
        ("ui.runs.player_view", "from backends.runtime import session", "backends.runtime.session"),
        ("ui.runs.player_view", "from qvg.cache import KVCache", "qvg.cache"),
        ("ui.runs.player_view", "if TYPE_CHECKING:\n    from qvg.cache import KVCache", "qvg.cache"),
        ("qvg.config", "import numpy", "numpy"),
        ("qvg.policy", "from qvg.cache import KVCache", "qvg.cache"),
        ("qvg.codecs.prq", "from qvg.cache import KVCache", "qvg.cache"),
        ("qvg.codecs.prq", "from ..cache import KVCache", "qvg.cache"),
        ("qvg.ops.pack", "import triton", "may not import triton"),
        ("qvg.ops.pack", "from qvg.ops.pack.triton import pack", "before its first use"),
        ("qvg.cache", "import triton", "may not import triton when it is imported"),
        ("qvg.cache", "from backends.base import Segment", "backends.base"),
        ("backends.pocket.model", "from backends.longcat import model", "backends.longcat"),
        ("backends.pocket.model", "import ui.text", "ui.text"),
        ("backends.pocket.model", "import av", "may not import av at all"),
        ("backends.pocket.model", "from qvg.rope import Rope", "qvg.rope"),
        ("backends.pocket.model", "from qvg.ops.kernels import use_kernels", "qvg.ops.kernels"),
        ("backends.runtime.session", "from qvg.offload import empty_host_cache", "qvg.offload"),
        ("backends.media.clips", "import torch", "may not import torch at all"),
        (
            "backends.pocket.render.reference",
            "from backends.pocket.render.triton import render",
            "before its first use",
        ),
        ("backends.pocket.spec", "import torch", "torch"),
        ("backends.registry", "from backends.pocket.load import load", "backends.pocket.load"),
        (
            "backends.runtime.worker",
            "from backends.runtime.session import Session",
            "backends.runtime.session",
        ),
        ("backends.runtime.generator_process", "import torch", "may not import torch when it is imported"),
        ("app", "import gradio", "gradio"),
        ("somewhere", "", "no rule"),
    ],
)
def test_a_violation_is_noticed(module, source, words):
    beside = {
        "backends.runtime.session": "",
        "backends.longcat.model": "",
        "qvg.cache": "",
        "qvg.codecs.__init__": "",
        "qvg.offload": "",
        "qvg.ops.kernels": "",
        "qvg.rope": "",
    }
    (found,) = violations({**beside, module: source})
    assert found.startswith(module)
    assert words in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "ui.events.runs",
            "import gradio\nimport numpy\nfrom backends.runtime.worker import Job\nfrom ui import text",
        ),
        ("qvg.ops.pack.__init__", "def f():\n    from qvg.ops.pack.triton import pack"),
        ("qvg.ops.pack.triton", "import triton\nimport triton.language as tl"),
        ("backends.base", "if TYPE_CHECKING:\n    import torch"),
        ("backends.pocket.model", "import torch\nfrom qvg import attend\nfrom backends.pocket import words"),
        ("backends.pocket.model", "from . import words"),
        ("backends.runtime.hardware", "def f():\n    import torch"),
    ],
)
def test_what_the_table_allows_is_let_through(module, source):
    assert violations({module: source}) == []


def python(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs `code` from the repository's root, with the places a program writes to by habit inside `home`."""
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_CACHE_HOME": str(home),
    }
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def test_what_the_page_imports_does_not_import_torch(tmp_path):
    modules = [name for name in ours() if name in PAGE_SIDE or name.endswith(".spec") or name in PLAIN_QVG]
    assert "backends.runtime.worker" in modules
    ran = python(
        f"import sys, multiprocessing\nfor name in {modules}: __import__(name)\n"
        "from backends import registry\nregistry.entries()\n"
        "assert not multiprocessing.active_children()\n"
        "print([name for name in ('torch', 'triton', 'gradio') if name in sys.modules])",
        tmp_path,
    )
    assert ran.stdout.strip() == "[]", ran.stderr


@pytest.mark.skipif(not (ROOT / "ui" / "page.py").exists(), reason="there is no page")
def test_the_page_does_not_import_torch(tmp_path):
    modules = [name.removesuffix(".__init__") for name in ours() if name.startswith("ui.")]
    ran = python(
        f"import sys\nfor name in {modules}: __import__(name)\nprint('torch' in sys.modules)",
        tmp_path,
    )
    assert ran.stdout.strip() == "False", ran.stderr


# Reports what is opened for writing and which folders are made; devices are not files.
WATCH = """
import os, sys
def watch(event, args):
    path = str(args[0]) if args else ""
    if path.startswith(("/dev/", "/proc/")):
        return
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        print("WROTE", path)
    elif event in ("os.mkdir", "os.rename", "os.symlink", "os.link"):
        print("WROTE", path)
sys.addaudithook(watch)
"""
HELP = "import runpy\nsys.argv = ['app.py', '--help']\nrunpy.run_path('app.py', run_name='__main__')"


@pytest.mark.parametrize(
    "code",
    [
        "import qvg\nassert 'torch' not in sys.modules",
        "import qvg\nqvg.KVCache",
        "import backends.runtime.worker as w\nw.Worker()",
        pytest.param(
            HELP, marks=pytest.mark.skipif(not (ROOT / "app.py").exists(), reason="there is no app.py")
        ),
    ],
    ids=["import qvg", "qvg.KVCache", "Worker()", "app.py --help"],
)
def test_creates_no_file(code, tmp_path):
    ran = python(f"{WATCH}\n{code}", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "WROTE" not in ran.stdout, ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_watch_sees_a_file(tmp_path):
    ran = python(f"{WATCH}\nopen(os.path.join(os.environ['HOME'], 'x'), 'w').close()", tmp_path)
    assert "WROTE" in ran.stdout
