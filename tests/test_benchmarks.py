"""What the scripts in benchmarks/ do with their options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import methods
from sslfeat.system.cores import THREAD_VARIABLES


class EnoughError(Exception):
    """The first command was to be run."""


@pytest.mark.parametrize("cores", ["1", "3"])
def test_commands_get_the_threads_of_cores(cores: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says."""
    seen: list[dict[str, str]] = []

    def run(command: list[str], **options: object) -> None:
        assert "env" not in options
        seen.append({name: os.environ[name] for name in THREAD_VARIABLES})
        raise EnoughError

    monkeypatch.setattr(subprocess, "run", run)
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr(sys, "argv", ["methods.py", "data", str(tmp_path), "--methods", "rotation", "--cores", cores])
    with pytest.raises(EnoughError):
        methods.main()
    assert seen == [dict.fromkeys(THREAD_VARIABLES, cores)]
