"""One name for one thing: options that share a name share type and meaning, and closed sets are choices."""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import typer

from sslfeat.cli.app import app
from sslfeat.cli.groups import NAMES
from sslfeat.data.transforms import FILTERS
from sslfeat.errors import did_you_mean
from sslfeat.evaluation import projection
from sslfeat.evaluation.clustering import clustering
from sslfeat.export.adopt.foreign_model import POOLS
from sslfeat.export.targets.registry import TARGETS
from sslfeat.features.auto_precision import PRECISIONS
from sslfeat.features.formats import LAYOUTS
from sslfeat.inference.backends import PROVIDERS
from sslfeat.retrieval.index_types import KINDS
from sslfeat.retrieval.tuning import WORKLOADS
from sslfeat.retrieval.vectors import METRICS

SHORT = {"-h": "--help", "-k": "--k", "-t": "--top", "-f": "--files", "-y": "--yes"}


def commands() -> dict[str, Any]:
    """Every command's function, by name."""
    found = ((info.name or "", info.callback) for info in app.registered_commands)
    return {name: function for name, function in found if function is not None}


def options() -> Iterator[tuple[str, list[str], Any, str]]:
    """Of every option of every command: command, names, type and help."""
    for command, function in commands().items():
        for name, hint in get_type_hints(function, include_extras=True).items():
            for about in get_args(hint)[1:]:
                if type(about).__name__ == "OptionInfo":
                    given = [about.default] if isinstance(about.default, str) else []  # where Typer keeps the first name
                    names = [*given, *(about.param_decls or ())] or [f"--{name.strip('_').replace('_', '-')}"]
                    yield command, names, get_args(hint)[0], about.help


def plain(kind: Any) -> set[type]:
    """What a single value is, whatever the number of values and the choices."""
    origin = get_origin(kind)
    if origin is Literal:
        return {type(value) for value in get_args(kind)}
    if origin in (list, Union, types.UnionType):
        return set().union(*map(plain, get_args(kind))) - {type(None)}
    return {kind}


def test_every_command_is_looked_at() -> None:
    assert set(commands()) == NAMES
    assert len(list(options())) > 150


def test_one_name_is_one_type_and_one_meaning() -> None:
    kinds, meanings = defaultdict(set), defaultdict(set)
    for command, names, kind, text in options():
        for name in names:
            kinds[name].add((command, *sorted(map(str, plain(kind)))))
            meanings[name].add(text.partition(";")[0].partition(":")[0])
    assert {name: found for name, found in kinds.items() if len({kind[1:] for kind in found}) > 1} == {}
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}


def choices_of(kind: Any) -> set[str]:
    """Those of a Literal, optional or not."""
    kinds = [kind, *get_args(kind)]
    return {value for one in kinds if get_origin(one) is Literal for value in get_args(one)}


def test_a_short_name_stands_for_one_long_name() -> None:
    stands: defaultdict[str, set[str]] = defaultdict(set)
    for _, names, *_ in options():
        for short in (name for name in names if not name.startswith("--")):
            stands[short] |= {name for name in names if name.startswith("--")}
    assert {short: found for short, found in stands.items() if found != {SHORT[short]}} == {}


def test_what_every_command_has() -> None:
    have: defaultdict[str, set[str]] = defaultdict(set)
    for command, names, *_ in options():
        have[command] |= set(names)
    assert [command for command in NAMES if "--json" not in have[command]] == []
    appended = {"repair"}  # mends what is there; no other output is new
    assert [command for command in NAMES - appended if "--out" in have[command] and "--overwrite" not in have[command]] == []
    gone = {"--html", "--csv", "--accelerator", "--size", "--labeled", "--batch", "--parquet", "--no-png"}
    assert {command: found & gone for command, found in have.items() if found & gone} == {}


def test_what_lists_choices_is_a_choice() -> None:
    free = {"--encoder", "--teacher", "--labels", "--exclude", "--memory", "--where"}  # "or" of something else
    listed = [
        (command, names[0])
        for command, names, kind, text in options()
        if plain(kind) == {str} and Literal not in (get_origin(kind), *map(get_origin, get_args(kind))) and " or " in text
    ]
    assert [(command, name) for command, name in listed if name not in free] == []


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("--provider", {"auto", *PROVIDERS}),
        ("--target", {"onnx", *TARGETS}),
        ("--method", set(clustering.METHODS)),
        ("--projection", set(projection.METHODS)),
        ("--format", set(LAYOUTS)),
        ("--metric", set(METRICS)),
        ("--kind", {"auto", *KINDS}),
        ("--workload", set(WORKLOADS)),
        ("--filter", set(FILTERS)),
        ("--pool", set(POOLS)),
    ],
)
def test_choices_are_those_of_the_library(option: str, known: set[str]) -> None:
    found = [choices_of(kind) for _, names, kind, *_ in options() if option in names]
    assert found and all(choices == known for choices in found)


def test_choices_of_precision() -> None:
    found = {command: set(get_args(kind)) for command, names, kind, *_ in options() if "--precision" in names}
    assert found == {"embed": set(PRECISIONS), "train": {"auto", "fp32", "bf16"}}


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("simclp", ["simclr", "byol"], "did you mean 'simclr'?"),
        ("hdbscn", ["kmeans", "hdbscan"], "did you mean 'hdbscan'?"),
        ("xyz", ["kmeans", "hdbscan"], ""),
        ("x", [], ""),
    ],
)
def test_did_you_mean(word: str, known: list[str], said: str) -> None:
    assert did_you_mean(word, known) == said


def test_misspelt_choices_are_corrected() -> None:
    from sslfeat.cli.usage import ParserError, with_suggestion

    for arguments, said in (
        (["export", "x.onnx", "--target", "openvno"], "did you mean 'openvino'?"),
        (["cluster", "f", "--method", "kmean"], "did you mean 'kmeans'?"),
        (["index", "f", "--metric", "hamming"], "is not one of 'cosine', 'ip', 'l2'"),
    ):
        with pytest.raises(ParserError) as error:
            app(arguments, standalone_mode=False)
        assert said in with_suggestion(error.value).format_message()
    assert issubclass(typer.BadParameter, ParserError)
