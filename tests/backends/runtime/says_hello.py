"""In place of the generator's process: it says hello."""

from __future__ import annotations

from multiprocessing.connection import Connection


def main(reports: Connection, *_: object) -> None:
    reports.send("hello")
