"""What the scripts in benchmarks/ do with their options."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import methods
from sslfeat.system.cores import THREAD_VARIABLES

SCRIPTS = sorted(Path(methods.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_read_only_options_that_they_define(script: Path) -> None:
    nodes = list(ast.walk(ast.parse(script.read_text())))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "options"}
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument")]
    defined = {ast.literal_eval(name).lstrip("-").replace("-", "_") for call in calls for name in call.args}
    assert read <= defined, read - defined


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
