"""What follows a lagging teacher, and what is kept of earlier batches: BYOL, MoCo and DINO against loops, the queue."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import Images
from sslfeat.models.engine.setup import make_optimizer
from sslfeat.models.engine.trainer import train
from sslfeat.models.methods.byol import bootstrap
from sslfeat.models.methods.dino import DINO, distribution_error
from sslfeat.models.methods.moco import info_nce
from sslfeat.models.modules.queue import Queue
from sslfeat.models.modules.teacher import Teacher, rising
from tests import views
from tests.views import batch, generator

Rows = list[list[float]]
TAUGHT = pytest.mark.parametrize("name", ["byol", "moco", "dino"])


def made(name: str, **options: Any) -> Any:
    small = {"hidden": 32, "projection_dim": 16} | ({"prototypes": 12} if name == "dino" else {})
    return views.made(name, **{**small, **options})


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(x - max(row)) for x in row]
    return [power / sum(powers) for power in powers]


def test_the_teacher_is_the_average_of_the_weights_behind_it() -> None:
    """m w + (1 - m) s for every parameter; buffers stay its own."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = Teacher(student)
    assert torch.equal(teacher(torch.ones(2, 3)), student(torch.ones(2, 3)))
    wanted = [parameter.detach().double() for parameter in student.parameters()]
    for momentum in (0.9, 0.5, 1.0, 0.0):
        for parameter in student.parameters():
            nn.init.normal_(parameter)
        teacher.follow((student,), momentum)
        wanted = [
            momentum * old + (1 - momentum) * new.detach().double() for old, new in zip(wanted, student.parameters(), strict=True)
        ]
        for own, value in zip(teacher.parameters(), wanted, strict=True):
            torch.testing.assert_close(own.double(), value, atol=1e-6, rtol=1e-6)
    student(torch.randn(8, 3))
    teacher.follow((student,), 0.0)
    buffers = dict(teacher.parts[0].named_buffers())
    assert not torch.equal(buffers["1.running_mean"], dict(student.named_buffers())["1.running_mean"])


def test_the_teacher_calls_its_parts_one_after_the_other_without_gradients() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4), nn.Linear(4, 2)
    teacher = Teacher(first, second)
    x = torch.randn(5, 3, requires_grad=True)
    assert torch.equal(teacher(x), second(first(x)))
    assert not teacher(x).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_average_slows_down_along_half_a_cosine() -> None:
    assert rising(0.99, 0.0) == pytest.approx(0.99)
    assert rising(0.99, 0.5) == pytest.approx(0.995)
    assert rising(0.99, 1 / 3) == pytest.approx(1 - 0.01 * 0.75)
    assert rising(0.99, 1.0) == pytest.approx(1.0)


@TAUGHT
def test_a_step_moves_the_teacher_by_what_the_student_moved(name: str) -> None:
    """At share 0.5 of momentum 0.9, which is 0.95 by then; no gradient reaches it and no optimizer holds it."""
    method = made(name, momentum=0.9, local_views=1)
    method.share = 0.5
    optimizer = make_optimizer(method, TrainConfig(name, ("x",), lr=0.1, weight_decay=0.1))
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    copies = [*method.teacher.parameters()]
    assert copies
    assert not held & {id(parameter) for parameter in copies}
    assert held == {id(parameter) for parameter in method.parameters()} - {id(parameter) for parameter in copies}
    for seed in range(2):  # a queue is empty at first
        optimizer.zero_grad()
        method(batch(), generator(seed))[0].backward()
    assert all(parameter.grad is None for parameter in copies)
    optimizer.step()
    students = [method.encoder, method.projector] + ([method.prototypes] if name == "dino" else [])
    pairs = [
        (own, other)
        for part, student in zip(list(method.teacher.parts)[1:], students, strict=True)
        for own, other in zip(part.parameters(), student.parameters(), strict=True)
    ]
    assert len(pairs) == len(copies)
    wanted = [0.95 * own.detach().double() + 0.05 * other.detach().double() for own, other in pairs]
    moved = [not torch.equal(own, other) for own, other in pairs]
    method.after_step()
    for (own, _), value in zip(pairs, wanted, strict=True):
        torch.testing.assert_close(own.double(), value, atol=1e-6, rtol=1e-5)
    assert sum(moved) > len(moved) // 2


@pytest.mark.parametrize("name", ["byol", "dino"])
@pytest.mark.parametrize("average", [True, False])
def test_the_average_is_kept_if_asked_for(name: str, average: bool, image_folder: Path, tmp_path: Path) -> None:
    method = made(name, keep_average=average)
    assert isinstance(method.exported, Backbone)
    assert (method.exported is method.encoder) is not average
    assert (method.exported is method.teacher.parts[1]) is average
    options = {"keep_average": str(average), "momentum": "0.5"}
    config = TrainConfig(name, (str(image_folder),), "resnet10_w8", 32, 8, steps=3, accelerator="cpu", options=options)
    train(config, tmp_path / "run")
    kept, whole = (load_file(tmp_path / "run" / file) for file in ("encoder.safetensors", "last.ckpt"))
    source = "module.teacher.parts.1." if average else "module.encoder."
    other = "module.encoder." if average else "module.teacher.parts.1."
    weights = {key.removeprefix("encoder."): value for key, value in kept.items() if key.startswith("encoder.")}
    assert all(torch.equal(value, whole[source + key]) for key, value in weights.items())
    assert not all(torch.equal(value, whole[other + key]) for key, value in weights.items())


def test_bootstrap_view_by_view() -> None:
    """Three predictions, two targets: each against the mean of the targets that are not its own."""
    torch.manual_seed(0)
    predictions, targets = [torch.randn(5, 4) for _ in range(3)], [torch.randn(5, 4) for _ in range(2)]
    errors = []
    for n, prediction in enumerate(predictions):
        for i, row in enumerate(prediction.tolist()):
            others = [unit(target[i].tolist()) for k, target in enumerate(targets) if k != n]
            mean = [sum(values) for values in zip(*others, strict=True)]
            errors.append(2 - 2 * dot(unit(row), unit(mean)))
    assert float(bootstrap(predictions, targets)) == pytest.approx(sum(errors) / 15, rel=1e-5)
    assert float(bootstrap([targets[1] * 3, targets[0]], targets)) == pytest.approx(0, abs=1e-6)


def test_byol_predicts_the_targets_of_the_teacher() -> None:
    method = made("byol", local_views=1, views=3).eval()
    for parameter in method.teacher.parameters():
        parameter.mul_(1.5)
    views = method.views(batch(), generator())
    with torch.no_grad():
        loss, figures = method.loss(views)
        seen = [*views.whole.chunk(3), views.local]
        rows = [method.predictor(method.projector(method.encode(view))) for view in seen]
        transform, encoder, projector = method.teacher.parts
        targets = [projector(encoder(transform(view))) for view in seen[:3]]
        assert float(loss) == pytest.approx(float(bootstrap(rows, targets)), rel=1e-5)
    assert figures["trivial"] == 2.0


@pytest.mark.parametrize("queued", [True, False])
def test_info_nce_query_by_query(queued: bool) -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(5, 4), torch.randn(5, 4)
    queries[:3] = keys[:3] + 0.1
    negatives = nn.functional.normalize(torch.randn(7, 4), dim=1) if queued else None
    loss, figures = info_nce(queries, keys, negatives, 0.3)
    total, hits = 0.0, 0
    for i, query in enumerate(queries.tolist()):
        others = negatives.tolist() if negatives is not None else [k for j, k in enumerate(keys.tolist()) if j != i]
        sims = [dot(unit(query), unit(key)) / 0.3 for key in [keys[i].tolist(), *others]]
        total -= math.log(softmax(sims)[0])
        hits += max(sims) == sims[0]
    assert float(loss) == pytest.approx(total / 5, rel=1e-5)
    assert float(figures["accuracy"]) == pytest.approx(hits / 5)
    assert figures["chance"] == pytest.approx(1 / (8 if queued else 5))


@pytest.mark.parametrize("queue", [0, 20])
def test_moco_finds_the_teachers_keys_among_those_of_earlier_batches(queue: int) -> None:
    method = made("moco", queue=queue, local_views=1).eval()
    for parameter in method.teacher.parameters():
        parameter.mul_(1.5)
    views = method.views(batch(), generator())
    with torch.no_grad():
        for _ in range(2):
            method.loss(method.views(batch(), generator(1)))
        earlier = method.queue.kept[:12].clone() if queue else None
        loss, _ = method.loss(views)
        seen = [*views.whole.chunk(2), views.local]
        rows = [method.projector(method.encode(view)) for view in seen]
        rows = rows if queue else [method.predictor(row) for row in rows]
        transform, encoder, projector = method.teacher.parts
        keys = [projector(encoder(transform(view))) for view in seen[:2]]
        couples = [(0, 1), (1, 0), (2, 0), (2, 1)]
        wanted = sum(float(info_nce(rows[a], keys[b], earlier, 0.2)[0]) for a, b in couples) / 4
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert (method.queue is None) is (queue == 0)
    assert isinstance(method.predictor, nn.Identity) is (queue > 0)
    if queue:
        assert torch.allclose(method.queue.rows[12:18], nn.functional.normalize(keys[0], dim=1))


@pytest.mark.parametrize(("images", "size"), [(100, 20), (40, 10), (3, 1)])
def test_of_few_images_few_keys_are_kept(images: int, size: int) -> None:
    method = made("moco", queue=20)
    method.prepare(Images(np.zeros((images, 8, 8, 3), np.uint8), (), ()))
    assert len(method.queue.kept) == size


def test_the_queue_keeps_the_newest_and_wraps_around() -> None:
    queue, pushed = Queue(7, 1), 0
    for count in (3, 2, 4, 5, 9, 1, 7):
        queue.push(torch.arange(pushed, pushed + count)[:, None].float())
        pushed += count
        newest = list(range(max(0, pushed - 7), pushed))
        assert sorted(int(row) for row in queue.rows.flatten()) == newest
        assert queue.full == (pushed >= 7)
    other = Queue(7, 1)
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        one.push(torch.full((3, 1), 100.0))
    assert torch.equal(queue.kept, other.kept)


def test_distributions_pair_by_pair() -> None:
    torch.manual_seed(0)
    targets = [torch.randn(5, 4).softmax(1) for _ in range(2)]
    scores = [torch.randn(5, 4) for _ in range(3)]
    terms = []
    for b, target in enumerate(targets):
        for score in (score for a, score in enumerate(scores) if a != b):
            for wanted, row in zip(target.tolist(), score.tolist(), strict=True):
                terms.append(-dot(wanted, [math.log(p) for p in softmax(row)]))
    logs = [score.log_softmax(1) for score in scores]
    assert float(distribution_error(targets, logs)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def dino_terms(method: Any, views: Any) -> tuple[list[Rows], list[Rows]]:
    """Scores of the student over all views, and of the teacher over the whole ones, cosine by cosine."""
    seen = [*views.whole.chunk(2), *views.local.chunk(2)]
    transform, encoder, projector, prototypes = method.teacher.parts
    student = [method.projector(method.encode(view)).tolist() for view in seen]
    teacher = [projector(encoder(transform(view))).tolist() for view in seen[:2]]
    found = []
    for views_of, directions in ((student, method.prototypes.weight), (teacher, prototypes.weight)):
        units = [unit(direction) for direction in directions.tolist()]
        found.append([[[dot(unit(row), direction) for direction in units] for row in rows] for rows in views_of])
    return found[0], found[1]


def test_dino_centers_and_sharpens_what_the_teacher_says() -> None:
    """Caron et al. 2021, algorithm 1, with the center before and after."""
    method = made("dino").eval()
    for parameter in method.teacher.parameters():
        parameter.mul_(1.5)
    method.center.copy_(torch.linspace(-0.1, 0.1, 12))
    center = method.center.tolist()
    views = method.views(batch(), generator())
    with torch.no_grad():
        loss, figures = method.loss(views)
        student, teacher = dino_terms(method, views)
    targets = [[softmax([(x - c) / 0.04 for x, c in zip(row, center, strict=True)]) for row in rows] for rows in teacher]
    terms = []
    for b in range(2):
        for a in (a for a in range(4) if a != b):
            for target, row in zip(targets[b], student[a], strict=True):
                terms.append(-dot(target, [math.log(p) for p in softmax([x / 0.1 for x in row])]))
    assert float(loss) == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    every = [row for rows in teacher for row in rows]
    for k in range(12):
        mean = sum(row[k] for row in every) / len(every)
        assert float(method.center[k]) == pytest.approx(0.9 * center[k] + 0.1 * mean, abs=1e-6)
    flat = [row for rows in targets for row in rows]
    means = [sum(row[k] for row in flat) / len(flat) for k in range(12)]
    assert float(figures["entropy"]) == pytest.approx(-sum(p * math.log(p) for row in flat for p in row) / 12, rel=1e-4)
    assert float(figures["entropy_of_mean"]) == pytest.approx(-sum(p * math.log(p) for p in means), rel=1e-4)


def test_both_ways_to_collapse_are_complained_about() -> None:
    method: DINO = made("dino")
    assert "one prototype" in str(method.complaint({"entropy": 0.1, "entropy_of_mean": 0.1}))
    assert "nearly uniform" in str(method.complaint({"entropy": math.log(12), "entropy_of_mean": math.log(12)}))
    assert method.complaint({"entropy": 0.5, "entropy_of_mean": 2.0}) is None
