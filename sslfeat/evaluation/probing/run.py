"""Probe features folders: find labels, split rows, and run the single-label or multi-label probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from sslfeat.errors import InputError
from sslfeat.evaluation.probing.label_tables import Label
from sslfeat.evaluation.probing.labels import (
    Labeling,
    Labels,
    LabelSource,
    LeftOut,
    check_classes,
    check_same_encoder,
    labeled,
    split,
)
from sslfeat.evaluation.probing.multilabel import SeveralProbed, multi_labeled, probe_several
from sslfeat.evaluation.probing.probe import TEST_SHARE, Probed, ProbeOptions, run_probe
from sslfeat.features.reader import Features

ONE_LABEL = "comparing encoders requires one label per image"


def run_folders(
    train: Features,
    test: Features | None = None,
    options: ProbeOptions | None = None,
    source: LabelSource | None = None,
    min_images: int = 1,
) -> Probed | SeveralProbed:
    """Probe one features folder on a stratified fifth of its rows, or train on one and test on another.

    Rows without a label, and classes with fewer than ``min_images``, are left out, as reported in ``label_source`` for train
    and test. Raises FeaturesError for unsuitable rows or labels, InputError for tables that cannot be used.
    """
    options, source = options or ProbeOptions(), source or LabelSource()
    if test is not None:
        check_same_encoder(train, test)
    ours = source.read(train)
    others = source.read(test) if test is not None else None
    if _several(ours.labels):
        probed: Probed | SeveralProbed = _run_several(train, ours, test, others, options)
    else:
        ours = _of_size(ours, train.paths, min_images)
        rows = labeled(train, ours.labels)
        if test is None or others is None:
            probed = run_probe(*split(rows, TEST_SHARE, options.seed), options)
        else:
            if _several(others.labels):
                raise InputError("test images have multiple labels, but training images have one: use the same kind of labels")
            if min_images > 1:  # also leave out of the test what was left out of training
                others = _known(others, test.paths, set(rows.y))
            probed = run_probe(rows, labeled(test, others.labels), options)
    return replace(probed, label_source=[part for part in (ours, others) if part is not None])


def _run_several(
    train: Features, ours: Labeling, test: Features | None, others: Labeling | None, options: ProbeOptions
) -> SeveralProbed:
    rows = multi_labeled(train, ours.labels)
    judged = None if test is None or others is None else multi_labeled(test, others.labels, rows.names)
    return probe_several(rows, judged, options)


def _of_size(found: Labeling, paths: list[str], least: int) -> Labeling:
    """Leave out classes with fewer than ``least`` images."""
    sizes = Counter(label for label in found.labels if label is not None)
    return _without(found, paths, {name for name, size in sizes.items() if size < least}, f"of classes with fewer than {least}")


def _known(found: Labeling, paths: list[str], names: set[str]) -> Labeling:
    """Leave out classes that are not in the training set."""
    strangers = {label for label in found.labels if label is not None} - names
    return _without(found, paths, strangers, "of classes that are not in train")


def _without(found: Labeling, paths: list[str], names: Collection[Label], reason: str) -> Labeling:
    rows = [row for row, label in enumerate(found.labels) if label in names]
    if not rows:
        return found
    labels = [None if label in names else label for label in found.labels]
    return Labeling(labels, found.source, [*found.left_out, LeftOut(reason, len(rows), paths[rows[0]])])


def check_labels(found: Labeling, paths: list[str], min_images: int = 1, single: bool = False) -> None:
    """Raise FeaturesError if images with these labels cannot be probed once embedded.

    Raises InputError for multiple labels per image if ``single``.
    """
    if _several(found.labels):
        if single:
            raise InputError(ONE_LABEL)
    else:
        kept = _of_size(found, paths, min_images)
        check_classes(len({label for label in kept.labels if label is not None}), len(paths))


def _several(labels: Labels) -> bool:
    return any(isinstance(label, tuple) for label in labels)
