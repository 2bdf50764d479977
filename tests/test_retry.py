"""Operations that are repeated: while it may help, and no longer."""

from __future__ import annotations

import contextvars

import pytest

from sslfeat.errors import InputError, InterruptedRun, RemoteError
from sslfeat.storage import retry
from sslfeat.storage.retry import GIVE_UP, retrying


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)


class Failing:
    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def test_what_passes_is_waited_for() -> None:
    action = Failing(ConnectionResetError(), TimeoutError(), RuntimeError("a library's own"), OSError(5, "EIO"))
    assert retrying("reading x", action) == "done"
    assert action.calls == 5


@pytest.mark.parametrize("failure", [FileNotFoundError("x"), PermissionError("x"), ValueError("x"), InputError("x")])
def test_what_does_not_pass_is_raised_at_once(failure: Exception) -> None:
    action = Failing(failure)
    with pytest.raises(type(failure)):
        retrying("reading x", action)
    assert action.calls == 1


def test_patience_ends_with_the_cause_and_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    action = Failing(*[ConnectionRefusedError(111, "refused")] * 1000)
    monkeypatch.setenv(retry.RETRY_VARIABLE, "0.05")
    with pytest.raises(RemoteError, match=r"reading s3://b/x: no success within 0.05 s .*refused.*repeat the command"):
        retrying("reading s3://b/x", action)
    assert action.calls > 2


def test_a_place_that_never_answered_is_given_up_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "CONTACT_SECONDS", 0.05)
    with pytest.raises(RemoteError, match=r"no success within 0\.05 s"):
        retrying("reading x", Failing(*[ConnectionRefusedError(111, "refused")] * 1000), met=lambda: False)
    action = Failing(*[ConnectionRefusedError(111, "refused")] * 8)
    monkeypatch.setattr(retry, "CONTACT_SECONDS", 0.0)
    assert retrying("reading x", action, met=lambda: action.calls > 0) == "done"  # it answered: an outage is waited for
    monkeypatch.setenv(retry.RETRY_VARIABLE, "60")  # whoever says so waits for the first answer too
    assert retrying("reading x", Failing(TimeoutError()), met=lambda: False) == "done"


def test_waiting_can_be_called_off() -> None:
    def stop() -> None:
        raise InterruptedRun(2, "interrupted")

    def run() -> None:
        GIVE_UP.set(stop)
        with pytest.raises(InterruptedRun):
            retrying("reading x", Failing(TimeoutError()))

    contextvars.copy_context().run(run)
    assert retrying("reading x", Failing(TimeoutError())) == "done"
