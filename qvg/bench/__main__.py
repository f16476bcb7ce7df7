"""`python -m qvg.bench --help`"""

from __future__ import annotations

import argparse

from qvg.bench import cache, ops, plot, table

COMMANDS = {"ops": ops, "cache": cache, "plot": plot, "table": table}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="qvg.bench", description="What the library costs here.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.partition(":")[0].partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
