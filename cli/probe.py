"""``sslfeat probe``: evaluate features or encoders with labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sslfeat.cli.console import check_new, note, say, say_json, working
from sslfeat.cli.options import Column, Json, Labels, Overwrite, PathColumn, Provider, Seed, Separator
from sslfeat.cli.sources import end_with, shown, sought
from sslfeat.errors import UsageError

if TYPE_CHECKING:
    from sslfeat.evaluation.probing.bootstrap import Accuracy, Paired
    from sslfeat.evaluation.probing.compare import Transfer
    from sslfeat.evaluation.probing.labels import LabelSource
    from sslfeat.evaluation.probing.multilabel import MultiLabelResult, SeveralProbed
    from sslfeat.evaluation.probing.probe import Probed, ProbeOptions, ProbeResult, Unseen
    from sslfeat.inference.model_card import Identity

WORST = 10  # maximum number of classes shown
FILES = ("probe.json", "weights.npz", "classes.csv", "confusion.csv", "classes.svg", "confusion.svg")


def probe(
    train: Annotated[Path, typer.Argument(help="features folder with labels, or images to embed first")],
    test: Annotated[
        Path | None, typer.Argument(help="features folder or images to test on; default: a held-out fifth of each class of TRAIN")
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="encoder file or name; embeds TRAIN and TEST; repeatable, to compare encoders")
    ] = None,
    labels: Labels = "features",
    column: Column = None,
    path_column: PathColumn = None,
    separator: Separator = "",
    folds: Annotated[int, typer.Option(help="folds of cross-validation to choose C; 0: one validation split")] = 0,
    class_weight: Annotated[
        Literal["balanced"] | None, typer.Option(help="class weights; balanced: equal weight per class; default: none")
    ] = None,
    min_images: Annotated[int, typer.Option(help="minimum number of images per class; smaller classes are omitted")] = 1,
    out: Annotated[Path | None, typer.Option(help="output: folder for the model, tables and plots")] = None,
    work: Annotated[Path, typer.Option(help="with --encoder: folder for the features")] = Path("features-probe"),
    provider: Provider = "auto",
    overwrite: Overwrite = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Evaluate features with labels: linear probe, nearest neighbors, class means and few shots (95% bootstrap intervals)."""
    from sslfeat.evaluation.probing.labels import LabelSource
    from sslfeat.evaluation.probing.probe import ProbeOptions

    options = ProbeOptions(folds=folds, class_weight=class_weight, seed=seed)
    source = LabelSource(labels, column, path_column, separator)
    if encoder:
        if out is not None:
            raise UsageError("--out saves one model, and cannot be combined with --encoder: give a features folder")
        _compare(encoder, train, test, work, provider, options, source, min_images, as_json)
    else:
        if out is not None:
            check_new(overwrite, *(out / name for name in FILES))
        _folders(train, test, options, source, min_images, out, as_json)


def _folders(
    train: Path, test: Path | None, options: ProbeOptions, source: LabelSource, min_images: int, out: Path | None, as_json: bool
) -> None:
    from sslfeat.evaluation.probing.multilabel import SeveralProbed
    from sslfeat.evaluation.probing.run import check_labels, run_folders
    from sslfeat.features.reader import Features

    wanted = sought(train, *([test] if test else []))
    for one in wanted:
        if found := one.check_labels(source):
            check_labels(found, one.paths, min_images if one is wanted[0] else 1)
    failed = sum(one.make() for one in wanted)
    features, *others = (Features.load(one.folder) for one in wanted)
    with working("probing"):
        probed = run_folders(features, others[0] if others else None, options, source, min_images)
    made_by = features.run.encoder.identity
    _note_labels(probed)
    if out is not None:
        _save(out, probed, made_by)
    if as_json:
        sources = [row.summary for row in probed.label_source]
        facts = {"out": None if out is None else str(out), "label_source": sources, **dataclasses.asdict(probed.result)}
        say_json("probe", facts, made_by, len(features.paths))
    elif isinstance(probed, SeveralProbed):
        _say_several(probed.result)
    else:
        _say(probed.result)
    end_with(failed)


def _note_labels(probed: Probed | SeveralProbed) -> None:
    for part, found in zip(("train", "test"), probed.label_source, strict=False):
        first, *others = found.lines
        note(f"{part + ': ' if len(probed.label_source) > 1 else ''}{first}")
        for line in others:
            note(f"  {line}")


def _compare(
    names: Sequence[str], train: Path, test: Path | None, work: Path, provider: str, options: ProbeOptions,
    source: LabelSource, min_images: int, as_json: bool,
) -> None:  # fmt: skip
    from sslfeat.data.dataset import find_inputs
    from sslfeat.evaluation.probing.compare import transfer
    from sslfeat.evaluation.probing.labels import LabelSource
    from sslfeat.evaluation.probing.run import check_labels
    from sslfeat.inference.encoder import Encoder

    if source == LabelSource():
        source = LabelSource("folder")
    encoders = [Encoder.load(name, provider) for name in names]
    if len({encoder.fingerprint for encoder in encoders}) < len(encoders):
        raise UsageError("--encoder: the same encoder was given twice")
    images = find_inputs([train], "none")
    others = None if test is None else find_inputs([test], "none")
    for number, part in enumerate((images, others)):
        if part is not None:
            paths = [item.name for item in part]
            check_labels(source.find(paths, [None] * len(paths)), paths, 1 if number else min_images, single=True)
    found = transfer(encoders, images, others, work, shown, options, source, min_images)
    if as_json:
        rows = [_plain(row, encoder.identity) for row, encoder in zip(found, encoders, strict=True)]
        say_json("probe", {"encoders": rows}, encoders[0].identity, len(images))
    else:
        _say_transfer(found)


def _plain(row: Transfer, encoder: Identity) -> dict[str, Any]:
    difference = None if row.against_first is None else dataclasses.asdict(row.against_first)
    return {**dataclasses.asdict(row.probed.result), "encoder": dataclasses.asdict(encoder), "against_first": difference}


def _save(out: Path, probed: Probed | SeveralProbed, made_by: Identity) -> None:
    """Write a probe folder: the model, and for single labels tables and plots."""
    from sslfeat.evaluation.probing.checkpoint import SavedProbe
    from sslfeat.evaluation.probing.multilabel import SeveralProbed
    from sslfeat.storage import atomic

    several = isinstance(probed, SeveralProbed)
    files: dict[str, bytes] = {}
    if not isinstance(probed, SeveralProbed):
        from sslfeat.evaluation.probing.confusion import matrix, table
        from sslfeat.reports.plots import confusion_svg, recall_svg

        files = {
            "classes.csv": table(probed.result.per_class),
            "confusion.csv": matrix(probed.counts, probed.names),
            "classes.svg": recall_svg(probed.result.per_class).encode(),
            "confusion.svg": confusion_svg(probed.counts, probed.names).encode(),
        }
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        atomic.write_atomic(out / name, data)
    SavedProbe(probed.model, probed.names, made_by, several, dataclasses.asdict(probed.result)).save(out)
    for name in FILES[2:]:
        if name not in files:  # from an earlier probe
            (out / name).unlink(missing_ok=True)
    note(f"{out}: model for 'sslfeat predict'{'' if several else ', tables and plots'}")


def _line(name: str, accuracy: Accuracy) -> None:
    say(f"{name:<24} {100 * accuracy.top1:5.2f}%  [{100 * accuracy.low:.2f}, {100 * accuracy.high:.2f}]")


def _say(result: ProbeResult) -> None:
    say(f"{result.train} train, {result.test} test, {result.classes} classes, majority {100 * result.majority:.2f}%")
    _line(f"linear C={result.c:g}", result.linear)
    _line("  balanced", result.balanced)
    for k, accuracy in result.knn.items():
        _line(f"kNN k={k} T=0.07", accuracy)
    best = result.knn_best
    _line(f"kNN k={best.k} T={best.temperature:g} (chosen)", best.accuracy)
    _line("nearest class mean", result.nearest_mean)
    for shot in result.few_shot:
        name = f"{shot.shots} shots, {shot.draws} draws"
        say(f"{name:<24} {100 * shot.top1:5.2f}%  [{100 * shot.low:.2f}, {100 * shot.high:.2f}]")
    if result.asked < result.test:
        note(f"all metrics except the linear probe used {result.asked} of the test images")
    _note_choice(result)
    if result.unseen is not None:
        _note_seen(result.unseen, result.test)
    _say_classes(result)


def _note_choice(result: ProbeResult | MultiLabelResult) -> None:
    """Print a note if C or the scaling is unusual."""
    tried = sorted(result.validation)
    if not tried:
        note(f"C = {result.c:g} is the default: there are too few images to hold out a validation split")
    elif len(tried) > 1 and result.c == tried[-1]:
        note(f"C = {result.c:g} is the largest value tried")
    elif len(tried) > 1 and result.c == tried[0] and result.validation[tried[1]] < result.validation[result.c]:
        note(f"C = {result.c:g} is the smallest value tried")
    if result.scaling == "common":
        note("features were scaled by one common standard deviation, which was better on held-out rows than one per dimension")


def _note_seen(unseen: Unseen, total: int) -> None:
    note(f"{unseen.seen} of the {total} test images are identical to training images")
    if unseen.linear is None:
        note("there are no unseen test images: these results measure memorization of the training images")
        return
    _line(f"  {unseen.test} unseen: linear", unseen.linear)
    if unseen.knn_best is not None:
        _line("    kNN (chosen)", unseen.knn_best)


def _say_classes(result: ProbeResult) -> None:
    worst = sorted((row for row in result.per_class if row.test), key=lambda row: row.recall)[:WORST]
    title = "class" if len(worst) == result.classes else f"worst {len(worst)} classes"
    say(f"{title:<24} {'test':>6} recall  95% interval  precision  confused with")
    for row in worst:
        interval = f"[{100 * row.low:.0f}, {100 * row.high:.0f}]"
        precision = "-" if math.isnan(row.precision) else f"{100 * row.precision:.1f}%"  # nan: never predicted
        figures = f"{100 * row.recall:5.1f}%  {interval:<12} {precision:>10}"
        say(f"{row.name[:24]:<24} {row.test:>6} {figures}  {row.taken_for}")


def _say_several(result: MultiLabelResult) -> None:
    say(f"{result.train} train, {result.test} test, {result.labels} labels, mean AP by chance {100 * result.chance:.2f}%")
    interval = f"[{100 * result.low:.2f}, {100 * result.high:.2f}]"
    say(f"{f'linear C={result.c:g}, mean AP':<24} {100 * result.mean:5.2f}%  {interval}")
    _note_choice(result)
    if result.unseen is not None:
        note(f"{result.unseen.seen} of the {result.test} test images are identical to training images")
        say(f"{f'  {result.unseen.test} unseen: mean AP':<24} {100 * result.unseen.mean:5.2f}%")
    for row in sorted((row for row in result.per_label if row.test), key=lambda row: row.average_precision)[:WORST]:
        say(f"  {row.name[:24]:<24} {row.test:>6} test {100 * row.average_precision:6.2f}%")


def _say_transfer(found: Sequence[Transfer]) -> None:
    say(f"{'encoder':<24}{'linear':>22}{'balanced':>10}{'kNN 20':>8}{'kNN best':>10}{'mean':>7}{'5 shots':>9}")
    for row in found:
        result = row.probed.result
        linear = f"{100 * result.linear.top1:.2f} [{100 * result.linear.low:.2f}, {100 * result.linear.high:.2f}]"
        knn = result.knn[min(result.knn)].top1
        shots = next((f"{100 * shot.top1:.1f}" for shot in result.few_shot if shot.shots == 5), "-")
        say(
            f"{row.name[:24]:<24}{linear:>22}{100 * result.balanced.top1:>10.2f}{100 * knn:>8.2f}"
            f"{100 * result.knn_best.accuracy.top1:>10.2f}{100 * result.nearest_mean.top1:>7.1f}{shots:>9}"
        )
    for row in found[1:]:
        if row.against_first is not None:
            say(_against(row.name, found[0].name, row.against_first))


def _against(name: str, first: str, found: Paired) -> str:
    """Comparison of an encoder with ``first``, in words."""
    points, low, high = (100 * value for value in (found.difference, found.low, found.high))
    test = f"McNemar p = {found.p:.2g}; only one correct: {found.only_second} against {found.only_first}"
    if points < 0:
        name, first, points, low, high = first, name, -points, -high, -low
        test = f"McNemar p = {found.p:.2g}; only one correct: {found.only_first} against {found.only_second}"
    if points == 0:
        return f"{name} and {first} are equally good [{low:+.2f}, {high:+.2f}] ({test})"
    doubt = "" if found.p < 0.05 else ": not significant"
    return f"{name} is {points:.2f} points better than {first} [{low:+.2f}, {high:+.2f}] ({test}){doubt}"
