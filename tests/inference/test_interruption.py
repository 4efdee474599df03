"""Ctrl-C: a request at first, an error the second time, and what it was outside."""

from __future__ import annotations

import signal
import threading

import pytest

from pyro_pmf.inference.interruption import interruption


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_first_is_a_request_and_the_second_an_error():
    with interruption() as request:
        assert not request.requested
        press()
        assert request.requested
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_is_as_before_afterwards():
    with interruption():
        press()
    with pytest.raises(KeyboardInterrupt):
        press()


def test_a_request_may_be_forbidden():
    with pytest.raises(KeyboardInterrupt), interruption(allowed=False):
        press()


def test_a_callback_may_ask():
    with interruption() as request:
        with request.noticed():
            raise KeyboardInterrupt
        assert request.requested


def test_a_handler_of_the_callers_own_is_left_alone():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with interruption() as request:
            press()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1]
    assert not request.requested


def test_other_threads_go_without():
    done = []

    def run():
        with interruption() as request:
            done.append(request.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [False]
