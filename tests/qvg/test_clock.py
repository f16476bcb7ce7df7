"""Time on a GPU is read when it is known, and waited for only when asked to."""

import pytest
import torch

from qvg.clock import Clock


class Event:
    """torch.cuda.Event as far as a clock uses it."""

    def __init__(self, at, done):
        self.at, self.done = at, done

    def query(self):
        return self.done

    def synchronize(self):
        self.done = True

    def elapsed_time(self, end):
        assert end.done
        return end.at - self.at


def test_only_what_is_done_counts_until_waited_for():
    clock = Clock(torch.device("cuda"))
    clock._pending = [(Event(0, True), Event(3, True)), (Event(5, True), Event(9, False))]
    assert clock.read(wait=False) == 3
    assert clock.read(wait=False) == 3
    assert clock.ms == 7
    assert clock.ms == 7


def test_a_cpu_is_timed_at_once():
    clock = Clock(torch.device("cpu"))
    with clock.running():
        pass
    assert clock.read(wait=False) == clock.ms > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_not_waited_for():
    device = torch.device("cuda")
    clock = Clock(device)
    x = torch.randn(8192, 8192, device=device)
    with clock.running():
        for _ in range(20):
            x = x @ x
    early = clock.read(wait=False)
    assert early <= clock.ms
    assert clock.ms > 1
