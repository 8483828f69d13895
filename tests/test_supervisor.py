"""What `up` makes of a signal that arrives while Ray's compiled code runs."""

from __future__ import annotations

from services.supervisor import Stopped, was_stopped


def wrapped(inner: BaseException) -> SystemError:
    try:
        raise SystemError("returned a result with an exception set") from inner
    except SystemError as error:
        return error


def test_a_signal_is_recognised_however_often_it_was_wrapped():
    assert was_stopped(Stopped())
    assert was_stopped(wrapped(Stopped()))
    assert was_stopped(wrapped(wrapped(Stopped())))


def test_an_error_of_another_kind_is_no_signal():
    assert not was_stopped(SystemError("something else"))
    assert not was_stopped(wrapped(ValueError("no")))
