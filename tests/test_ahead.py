"""Batches made one ahead: by a thread, or issued on a side stream, of which there is a stand-in."""

import signal
import sys
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from mixpipe.ahead import _wait, ahead

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
    assert list(ahead(maker(1, 2, 3), device)) == [1, 2, 3]
    assert list(ahead(maker(), device)) == []


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_an_error_comes_when_its_item_is_asked_for(device, streams):
    items = ahead(maker(1, 2, ValueError("third")), device)
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

    def make():
        if made:
            go.wait(30)
        made.append(len(made))
        return made

    items = ahead(make, CPU)
    next(items)

    def interrupt():
        main = threading.main_thread()
        while not waits(main):
            time.sleep(0.01)
        signal.pthread_kill(main.ident, signal.SIGINT)
        time.sleep(0.1)
        go.set()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        items.close()
    assert made == [0, 1]
