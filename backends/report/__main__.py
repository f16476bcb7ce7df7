"""Command line of `python -m backends.report`. Heavy modules are imported once the arguments are valid."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import backends.report
from backends import registry
from backends.base import BackendSpec, BackendUnavailable
from qvg.config import PRESETS

if TYPE_CHECKING:
    from backends.report.run import Work

REFERENCE = "BF16"
CODECS = ("QVG INT2", "QVG-Plus INT2", "QVG-Max")
USER_ERROR, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a report. Returns the exit status: 0, 2 after an error message on stderr, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    try:
        return _run(options, arguments)
    except KeyboardInterrupt:
        message = "Stopped. What is finished is kept: the same command goes on from there."
        print(f"\n{message}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        where = error.filename or options.out
        reason = error.strerror or error
        print(
            f"{where} could not be written or read: {reason}. What is finished is kept: the same command "
            "goes on from there.",
            file=sys.stderr,
        )
    except (BackendUnavailable, ValueError) as error:
        print(f"{str(error).rstrip('.')}.", file=sys.stderr)
    return USER_ERROR


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    spec = _spec(options.backend)
    codecs = [REFERENCE, *(name for name in map(_codec, options.codecs) if name != REFERENCE)]
    if options.tiny and not options.random_weights:
        raise ValueError("--tiny makes a small model of random weights: add --random-weights.")
    if not options.random_weights:
        _check_here(spec)

    import torch

    from backends import bench
    from backends.report import tasks
    from backends.report.folder import Folder
    from backends.report.run import Report, Work, settings
    from backends.runtime import hardware

    blocks = options.blocks or spec.default_blocks
    length = tasks.Length(blocks, options.mode, tuple(map(_option, options.option)))
    # Validated before any prompt: the length of a default path depends on it.
    tasks.request(tasks.Task(""), spec, length)
    if options.prompts:
        wanted = tasks.read(options.prompts, spec, length, options.seed)
    else:
        wanted = tasks.usual(spec, blocks, options.seed)
        for task in wanted:
            tasks.request(task, spec, length)
    out = options.out or Path("reports") / spec.id
    torch.set_num_threads(options.threads or hardware.physical_cores())
    device = hardware.choose(options.device)
    backend = None
    if options.random_weights:
        backend = bench.load(spec.id, device, True, options.tiny)
        spec = backend.spec  # the loaded spec: a tiny model has another one
    cases = {
        codec: bench.parse_case(spec, codec, options.policy, options.mode) for codec in dict.fromkeys(codecs)
    }
    weights = "its own" if not options.random_weights else "random, tiny" if options.tiny else "random"
    work = Work(spec, cases, wanted, length, device, weights)
    folder = Folder(out, [task.folder(number) for number, task in enumerate(wanted)])
    # Fails early, before minutes of loading.
    folder.claim(settings(work), options.fresh)
    _introduce(work, out)
    backend = backend or registry.load(spec.id, device, _say)
    Report(work, backend, folder, arguments, _say).make()
    print(f"The report is {out / 'report.html'}")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _introduce(work: Work, out: Path) -> None:
    from backends.runtime import hardware

    here = hardware.inspect(work.device)
    count = len(work.tasks) * len(work.cases)
    print(
        f"{work.spec.title} on {here.name}: {len(work.tasks)} prompts with {', '.join(work.cases)}, "
        f"{count} videos of {work.spec.video_frames(work.length.blocks)} frames, into {out}",
        flush=True,
    )


def _spec(name: str) -> BackendSpec:
    try:
        return registry.find(name.replace("-", "_"))
    except registry.UnknownBackend as error:
        raise ValueError(f"{str(error)[0].upper()}{str(error)[1:]}.") from None


def _check_here(spec: BackendSpec) -> None:
    entry = next(entry for entry in registry.entries() if entry.spec.id == spec.id)
    if entry.missing is not None:
        raise BackendUnavailable(f"{spec.title} cannot run here. {entry.missing}")


def _codec(text: str) -> str:
    """Returns the preset of a name in any punctuation: `qvg-plus-int2` is QVG-Plus INT2."""

    def plain(name: str) -> str:
        return name.casefold().replace("-", " ").replace("_", " ").strip()

    found = next((name for name in PRESETS if plain(name) == plain(text)), None)
    if found is None:
        raise ValueError(f"There is no codec {text!r}: choose {', '.join(PRESETS)}.")
    return found


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--option is NAME=VALUE, not {text!r}.")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="backends.report",
        description=backends.report.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("backend", metavar="NAME", help=", ".join(registry.IDS))
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='a prompt a line, "prompt | camera path", or JSON with prompt, path, picture, seed; the '
        "generator's own examples",
    )
    parser.add_argument(
        "--codecs",
        nargs="+",
        default=list(CODECS),
        metavar="PRESET",
        help='such as "KIVI INT2" or kivi-int2, BF16 is always made (%(default)s)',
    )
    parser.add_argument("--blocks", type=_positive, metavar="N", help="length of every video; the usual one")
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[0], help="each with every prompt that has none of its own (0)"
    )
    parser.add_argument("--mode", default="", help="of a generator that has several")
    parser.add_argument(
        "--option",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of the generator, such as distilled=yes",
    )
    parser.add_argument(
        "--policy", default="", metavar="every=N,clusters=N,...", help="as of backends.bench; for every codec"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the report's folder (reports/NAME)")
    parser.add_argument("--fresh", action="store_true", help="delete the report that is in the folder first")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")
    parser.add_argument("--threads", type=_positive, help="of the CPU; every core by default")
    parser.add_argument("--random-weights", action="store_true", help="without files; frames are noise")
    parser.add_argument("--tiny", action="store_true", help="with random weights, as small as a CPU likes")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
