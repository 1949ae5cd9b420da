"""Batches made one ahead: by a thread, or issued on a side stream, of which there is a stand-in."""

import signal
import sys
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from mixpipe.ahead import Ahead, _wait

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def streams(monkeypatch):
    """Streams of a GPU that is not there."""
    stream = SimpleNamespace(record_event=lambda: None, wait_event=lambda event: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)


def maker(*items):
    """Gives the items; raises those that are exceptions."""
    left = iter(items)

    def make():
        item = next(left, None)
        if isinstance(item, Exception):
            raise item
        return item

    return make


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_items_come_in_order_until_none(device, streams):
    ahead = Ahead(device)
    assert list(ahead(maker(1, 2, 3))) == [1, 2, 3]
    assert list(ahead(maker())) == []
    ahead.close()
    assert list(ahead(maker(4))) == [4]


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_an_error_comes_when_its_item_is_asked_for(device, streams):
    items = Ahead(device)(maker(1, 2, ValueError("third")))
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(items)


def waits(thread):
    """Whether it is in a function that `_wait` calls."""
    frame = sys._current_frames()[thread.ident]
    while (frame := frame.f_back) is not None:
        if frame.f_code is _wait.__code__:
            return True
    return False


def test_closing_waits_for_the_item_in_the_making_though_interrupted():
    """What makes it may be closed only then; the interrupt is raised after that."""
    go, made = threading.Event(), []
    # Whatever the tests before have left there.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)

    def make():
        if made:
            go.wait(30)
        made.append(len(made))
        return made

    items = Ahead(CPU)(make)
    next(items)

    def interrupt():
        main = threading.main_thread()
        while not waits(main):
            time.sleep(0.01)
        signal.pthread_kill(main.ident, signal.SIGINT)
        time.sleep(0.1)
        go.set()

    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            items.close()
    finally:
        signal.signal(signal.SIGINT, usual)
    assert made == [0, 1]


def test_all_iterations_have_one_thread_which_ends_with_it():
    """Else every epoch allocates in another arena, and a process grows with their number."""
    ahead, threads = Ahead(CPU), []

    def make():
        threads.append(threading.current_thread())
        return None if len(threads) % 3 == 0 else len(threads)

    for _ in range(3):
        list(ahead(make))
    assert len(threads) == 9
    (thread,) = set(threads)
    assert thread.is_alive()
    ahead.close()
    assert not thread.is_alive()
    list(ahead(make))
    assert threads[-1] is not thread
    del ahead
    threads[-1].join(10)
    assert not threads[-1].is_alive()
