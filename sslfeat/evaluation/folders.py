"""Probing features folders: labels are found, rows split, and the probe that fits the labels is run."""

from __future__ import annotations

from sslfeat.errors import InputError
from sslfeat.evaluation.labels import Labels, LabelSource, check_same_encoder, labelled, split
from sslfeat.evaluation.multilabel import SeveralProbed, multi_labelled, probe_several
from sslfeat.evaluation.probe import TEST_SHARE, Probed, ProbeOptions, ProbeResult, run_probe
from sslfeat.features import Features


def run_folders(
    train: Features,
    test: Features | None = None,
    options: ProbeOptions | None = None,
    source: LabelSource | None = None,
    min_images: int = 1,
) -> Probed | SeveralProbed:
    """Probe one features folder on a fifth of its rows (of each class), or train on one and test on another.

    Rows without a label, and of classes with fewer than ``min_images``, are left out. Raises FeaturesError for rows or
    labels that make no probe, InputError for tables of labels that cannot be used.
    """
    options, source = options or ProbeOptions(), source or LabelSource()
    if test is not None:
        check_same_encoder(train, test)
    labels = source.of(train)
    others = source.of(test) if test is not None else None
    if _several(labels):
        rows = multi_labelled(train, labels)
        if test is None or others is None:
            return probe_several(rows, None, options)
        return probe_several(rows, multi_labelled(test, others, rows.names), options)
    ours = labelled(train, labels, min_images)
    if test is None or others is None:
        return run_probe(*split(ours, TEST_SHARE, options.seed), options)
    if _several(others):
        raise InputError("test pictures carry several labels, training pictures one: label both alike")
    known = set(ours.y) if min_images > 1 else None  # what was left out of training is left out of the test
    if known is not None:
        others = [label if label in known else None for label in others]
    return run_probe(ours, labelled(test, others), options)


def probe_folders(train: Features, test: Features | None, seed: int = 0) -> ProbeResult:
    """The figures of folders whose pictures carry one label each, as they were embedded."""
    probed = run_folders(train, test, ProbeOptions(seed=seed))
    if isinstance(probed, SeveralProbed):
        raise InputError("the pictures carry several labels each: use run_folders")
    return probed.result


def _several(labels: Labels) -> bool:
    return any(isinstance(label, tuple) for label in labels)
