"""What a run says of itself: spread of features, the probe, previews, complaints, budget and learning rate."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sslfeat.errors import InputError, TrainingError, UsageError
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.health import find_fault
from sslfeat.models.engine.meter import Complaints, Meter, at_chance
from sslfeat.models.engine.online_eval import append_row, collapse, probe_inputs, spread_figures
from sslfeat.models.engine.schedule import WARM_UP, LookSchedule, learning_rate, share_spent
from sslfeat.models.engine.trainer import Reporter, train
from sslfeat.models.methods.rotation import Rotation


@pytest.fixture
def config(image_folder: Path) -> TrainConfig:
    return TrainConfig("rotation", (str(image_folder),), "resnet10_w8", 32, batch_size=8, steps=20, accelerator="cpu")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_effective_rank_spread_and_uniformity_of_known_features() -> None:
    x = np.concatenate([np.eye(6), -np.eye(6)]).astype(np.float32)  # six directions of equal weight
    figures = spread_figures(x)
    assert figures["effective_rank"] == pytest.approx(6)
    assert figures["spread"] == pytest.approx(1)
    pairs = [math.exp(-2 * float(((u - v) ** 2).sum())) for i, u in enumerate(x) for v in x[i + 1 :]]
    assert figures["uniformity"] == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)
    line = np.outer(np.linspace(1, 2, 20), [1, 2, 3]).astype(np.float32)
    assert spread_figures(line)["effective_rank"] == pytest.approx(1, abs=1e-3)


def test_a_collapse_is_named_and_healthy_features_are_not() -> None:
    rng = np.random.default_rng(0)
    assert collapse(spread_figures(rng.normal(size=(200, 32)).astype(np.float32))) is None
    constant = np.ones((200, 32), np.float32)
    assert "collapse" in str(collapse(spread_figures(constant)))
    nearly = constant + 1e-4 * rng.normal(size=(200, 32)).astype(np.float32)
    assert "collapse" in str(collapse(spread_figures(nearly)))
    assert "collapse" in str(collapse(spread_figures(np.zeros((50, 8), np.float32))))


def test_a_run_is_looked_at_before_the_first_step_and_at_every_tenth(config: TrainConfig, tmp_path: Path) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    train(config, tmp_path / "run", reporter=Reporter(look=lambda step, figures: seen.append((step, figures))))
    assert [step for step, _ in seen] == [*range(0, 20, 2), 20]
    written = rows(tmp_path / "run" / "watch.csv")
    assert [int(row["step"]) for row in written] == [step for step, _ in seen]
    assert set(written[0]) == {"step", "effective_rank", "spread", "uniformity"}


def looked(schedule: LookSchedule, minutes: float, a_look: float, a_step: float = 0.5, start: float = 0.0) -> list[float]:
    """Seconds trained at which a run looks, by a clock of its own."""
    trained, found, step = start, [], round(start / a_step)
    while trained < 60 * minutes:
        if schedule.due(step, trained / (60 * minutes), trained):
            found.append(trained)
            schedule.took(step, a_look)
        trained, step = trained + a_step, step + 1
    return found


def test_looks_take_a_tenth_of_the_training_so_far() -> None:
    assert looked(LookSchedule(), 1, 0.1) == [6 * number for number in range(10)]  # cheap ones at every tenth
    assert looked(LookSchedule(), 60, 5) == [360 * number for number in range(10)]
    assert looked(LookSchedule(), 1, 4.5) == [0, 45]  # late, when 4.5 s are a tenth
    assert looked(LookSchedule(), 1, 7) == [0]  # the last look is not of the schedule
    for a_look in (0.3, 1, 2.5, 20, 100):
        found = looked(LookSchedule(), 10, a_look)
        assert found[0] == 0
        assert all(number * a_look <= max(2, 0.1 * trained) for number, trained in enumerate(found) if number)


def test_looks_before_a_resume_count_and_none_waits_where_all_decide() -> None:
    assert looked(LookSchedule(spent=6), 2, 1, start=30) == [60, 80, 90, 100, 110]
    assert looked(LookSchedule(every=True), 1, 20) == [6 * number for number in range(10)]


def test_the_probe_while_training(config: TrainConfig, image_folder: Path, tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    reporter = Reporter(look=lambda step, figures: seen.append(figures))
    train(dataclasses.replace(config, steps=2, probe_data=str(image_folder)), tmp_path / "run", reporter=reporter)
    assert len(seen) == 3
    assert all(0 <= figures[name] <= 1 for figures in seen for name in ("linear", "knn"))


def test_looking_changes_nothing(config: TrainConfig, image_folder: Path, tmp_path: Path) -> None:
    """The weights of a run that was looked at with a probe are those of one that was not."""
    train(config, tmp_path / "plain")
    train(dataclasses.replace(config, probe_data=str(image_folder)), tmp_path / "probed")
    plain, probed = (tmp_path / name / "encoder.safetensors" for name in ("plain", "probed"))
    assert plain.read_bytes() == probed.read_bytes()


def test_probe_data_needs_classes_and_is_looked_for_before_images_are_read(
    config: TrainConfig, image_folder: Path, tmp_path: Path
) -> None:
    read: list[int] = []
    with pytest.raises(InputError, match="classes"):
        wrong = dataclasses.replace(config, probe_data=str(image_folder / "classes"))
        train(wrong, tmp_path / "run", reporter=Reporter(loading=lambda done, total: read.append(done)))
    assert not read
    with pytest.raises(UsageError, match="class folders"):
        probe_inputs(str(image_folder / "circles"))


def test_a_drop_that_chance_explains_is_no_fault() -> None:
    def of(right: float) -> dict[str, float]:
        return {"linear": right, "effective_rank": 20.0, "spread": 0.5}

    rng = np.random.default_rng(0)
    alike = rng.binomial(300, 0.36, (1000, 2)) / 300
    assert 0 < sum(find_fault({}, of(one), of(other), 300) is not None for one, other in alike.tolist()) < 50
    assert "accuracy decreased" in str(find_fault({}, of(0.40), of(0.30), 300))
    assert find_fault({}, of(0.357), of(0.333), 300) is None


def test_a_method_may_draw_what_it_sees(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def preview(self: Rotation, batch: Tensor, generator: torch.Generator) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        return (batch[:2].float() / 255).flatten(0, 0).permute(1, 0, 2, 3).reshape(3, 64, 32)

    monkeypatch.setattr(Rotation, "preview", preview)
    train(dataclasses.replace(config, steps=2), tmp_path / "run")
    drawn = sorted((tmp_path / "run" / "previews").iterdir())
    assert [path.name for path in drawn] == ["step-0000000.png", "step-0000001.png", "step-0000002.png"]
    with Image.open(drawn[0]) as image:
        assert image.size == (32, 64)


def test_rows_of_an_interrupted_run_make_way(tmp_path: Path) -> None:
    for step in (0, 10, 20):
        append_row(tmp_path, step, {"x": step})
    append_row(tmp_path, 10, {"x": 11})
    assert [(row["step"], row["x"]) for row in rows(tmp_path / "watch.csv")] == [("0", "0"), ("10", "11")]


def test_means_are_over_the_steps_since_the_last_reading() -> None:
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.add(4, {"loss": torch.tensor(value), "chance": 0.5})
    assert meter.read()[1] == {"loss": 3.0, "chance": 0.5}
    meter.add(4, {"loss": 5.0})
    assert meter.read()[1] == {"loss": 5.0}


def test_complaints_come_once_and_not_too_early() -> None:
    said: list[str] = []
    complaints = Complaints(said.append, lambda figures: "units died" if figures["alive"] < 0.5 else None)
    stuck = {"loss": 1.4, "accuracy": 0.25, "chance": 0.25, "alive": 0.1}
    complaints.check(20, 0.1, stuck)
    assert said == []
    complaints.check(40, 0.3, stuck)
    complaints.check(60, 0.4, stuck)
    assert len(said) == 2
    assert "0.250 against 0.250" in said[0]
    assert said[1] == "units died"
    with pytest.raises(TrainingError, match="the loss is nan at step 80"):
        complaints.check(80, 0.5, {"loss": math.nan})


@pytest.mark.parametrize(
    ("figures", "stuck"),
    [
        ({"accuracy": 0.3, "chance": 0.25}, False),
        ({"accuracy": 0.26, "chance": 0.25}, True),
        ({"error": 0.9, "trivial": 1.0}, False),
        ({"error": 0.99, "trivial": 1.0}, True),
        ({"loss": 1.0}, False),
    ],
)
def test_at_chance(figures: dict[str, float], stuck: bool) -> None:
    assert (at_chance(figures) is not None) == stuck


def test_the_budget_that_runs_out_first_counts() -> None:
    config = TrainConfig("rotation", ("x",), steps=100, epochs=4, minutes=1)
    assert share_spent(config, 50, 50, 15) == 0.5
    assert share_spent(config, 50, 50, 45) == 0.75
    assert share_spent(config, 50, 10, 15) == 1.25
    assert share_spent(dataclasses.replace(config, steps=0), 0, 10, 0) == 1


def test_the_learning_rate_rises_and_falls() -> None:
    assert learning_rate(2.0, 0) == pytest.approx(0.002)
    assert learning_rate(2.0, WARM_UP / 2) == pytest.approx(1)
    assert learning_rate(2.0, WARM_UP) == pytest.approx(2)
    assert learning_rate(2.0, (1 + WARM_UP) / 2) == pytest.approx(1)
    assert learning_rate(2.0, 1) == pytest.approx(0.002)
