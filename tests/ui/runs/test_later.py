"""What is done later: in order, in one thread, whatever becomes of the others."""

from __future__ import annotations

import threading

from ui.runs.later import call_later


def test_all_is_done_in_one_thread_when_it_is_due():
    done: list[str] = []
    over = threading.Event()
    threads = {thread.ident for thread in threading.enumerate() if thread.name != "later"}
    call_later(3600, over.set)
    call_later(0.02, lambda: done.append("second"))
    call_later(0.01, lambda: done.append("first"))
    call_later(0.02, lambda: done.append(str(1 / 0)))
    for number in range(100):
        call_later(0.03, lambda number=number: done.append(f"{number}"))
    call_later(0.03, over.set)
    assert over.wait(30)
    assert done == ["first", "second", *map(str, range(100))]
    assert sum(thread.ident not in threads for thread in threading.enumerate()) == 1
