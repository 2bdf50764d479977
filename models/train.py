"""Training, start to finish: read this first, then one file of ``methods/``.

Pictures are decoded once, every step draws its batch and its randomness from (seed, step) alone, and a checkpoint holds
weights, optimiser and step: so a run that was killed and resumed ends, on a CPU, with the weights of one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sslfeat import signals, store
from sslfeat.errors import InterruptedRun, TrainingError
from sslfeat.failures import write_failures
from sslfeat.inputs import Input, digest, find_inputs
from sslfeat.models import config as configs
from sslfeat.models.checkpoint import ENCODER_NAME, LAST_NAME, load_checkpoint, save_checkpoint
from sslfeat.models.config import TrainConfig
from sslfeat.models.data import PIXELS_NAME, Order, Pictures, load_pictures, to_batch, typical_size
from sslfeat.models.frozen import build_method, save_encoder
from sslfeat.models.method import Method, find_method
from sslfeat.models.runlog import RunLog

WARM_UP = 0.03  # share of the budget in which the learning rate rises
LOG_EVERY = 20  # steps
CHECKPOINT_SECONDS = 60.0
CHANCE_MARGIN = 1.05  # an accuracy below this times chance, with a quarter of the budget gone, is worth a warning


@dataclass(frozen=True)
class Progress:
    """What a report shows: share of the budget spent, step, pictures a second, smoothed loss and other figures."""

    share: float
    step: int
    images_per_second: float
    figures: dict[str, float]


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, the steps taken, and the pictures that could not be read."""

    run: Path
    steps: int
    failures: tuple[tuple[str, str], ...]


@dataclass
class Reporter:
    """How a run speaks: override what you want to hear."""

    loading: Callable[[int, int], None] = lambda done, total: None
    training: Callable[[Progress], None] = lambda progress: None
    warn: Callable[[str], None] = lambda message: None


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
    checkpoint_steps: int | None = None,
) -> Result:
    """Train ``config.method`` on ``config.images`` into the folder ``out``.

    With ``resume`` a run that was interrupted goes on from its last checkpoint (or starts, if it never reached one).
    Checkpoints are written every minute, or every ``checkpoint_steps``. Raises SslfeatError; InterruptedRun after a
    SIGINT or SIGTERM, once the checkpoint is safe.
    """
    reporter = reporter or Reporter()
    inputs = find_inputs(config.images, labels="none")
    config = configs.with_defaults(config, find_method(config.method).recipe, len(inputs), typical_size(inputs))
    config = dataclasses.replace(config, inputs_sha256=digest(inputs))
    with store.exclusive(out, TrainingError), signals.deferred() as stop:
        _open_run(config, out, resume)
        with _pictures(config, inputs, out, reporter, stop) as pictures:
            steps = _run(config, out, pictures, reporter, stop, checkpoint_steps)
        write_failures(out, pictures.failures)
    return Result(out, steps, pictures.failures)


def _run(
    config: TrainConfig,
    out: Path,
    pictures: Pictures,
    reporter: Reporter,
    stop: signals.Stop,
    checkpoint_steps: int | None,
) -> int:
    """The loop. Everything before it is preparation, everything in it happens once a step."""
    accelerator = "cuda" if configs.uses_gpu(config) else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=1, precision=config.precision)  # type: ignore[arg-type]
    module = build_method(config).to(memory_format=torch.channels_last)
    method, optimizer = fabric.setup(module, _optimizer(module, config))
    order = Order(len(pictures.pixels), int(config.batch_size or 1), config.seed)
    generator = torch.Generator(fabric.device)
    step, spent = _restore(out, module, optimizer)
    clock, saved_at, log, meter = time.monotonic() - spent, time.monotonic(), RunLog(out, step), _Meter()

    def save() -> None:
        save_checkpoint(out / LAST_NAME, module, optimizer, {"step": step, "seconds": time.monotonic() - clock})
        save_encoder(out / ENCODER_NAME, module, {"images": len(pictures.pixels), "steps": step})

    try:
        while (share := _share(config, step, order, time.monotonic() - clock)) < 1:
            if step % order.steps_per_epoch == 0:
                module.on_cycle(pictures.pixels)
            _seed_step(config.seed, step, generator)
            _set_learning_rate(optimizer, float(config.lr or 0), share)
            batch = to_batch(pictures.pixels, order.indices(step), fabric.device)
            loss, figures = method(batch, generator)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            meter.add(len(batch), {"loss": loss.detach(), **figures})
            if step % LOG_EVERY == 0:
                rate, means = meter.read()
                _check_loss(means["loss"], step)
                log.write(step, {**means, "lr": optimizer.param_groups[0]["lr"], "images_per_second": rate})
                reporter.training(Progress(share, step, rate, means))
                meter.warn_if_at_chance(share, reporter)
            due = step % checkpoint_steps == 0 if checkpoint_steps else time.monotonic() - saved_at > CHECKPOINT_SECONDS
            if due or stop.signum:
                save()
                saved_at = time.monotonic()
            if stop.signum:
                raise InterruptedRun(
                    stop.signum, f"interrupted at step {step}: go on with the same command and --resume"
                )
        save()
    finally:
        log.close()
    return step


def _open_run(config: TrainConfig, out: Path, resume: bool) -> None:
    """Refuse to mix two runs in one folder; leave ``config.yaml`` in it."""
    store.remove_temporaries(out)
    begun = (out / configs.CONFIG_NAME).exists()
    if begun and not resume:
        raise TrainingError(f"{out} already holds a run: go on with --resume, or choose another --out")
    if begun:
        configs.check_same(config, configs.load_config(out / configs.CONFIG_NAME), out)
    else:
        configs.save_config(config, out)


@contextlib.contextmanager
def _pictures(
    config: TrainConfig, inputs: list[Input], out: Path, reporter: Reporter, stop: signals.Stop
) -> Iterator[Pictures]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        reporter.loading(done, len(inputs))
        if stop.signum:
            raise InterruptedRun(
                stop.signum, "interrupted while reading pictures: go on with the same command and --resume"
            )

    try:
        pictures = load_pictures(inputs, int(config.image_size or 0), out, advance)
        if len(pictures.pixels) < int(config.batch_size or 0):
            raise TrainingError(f"only {len(pictures.pixels)} pictures are readable: choose a smaller --batch-size")
        yield pictures
    finally:
        (out / PIXELS_NAME).unlink(missing_ok=True)


def _optimizer(method: Method, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; biases and normalisation (one-dimensional parameters) are not decayed."""
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": float(config.weight_decay or 0)},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=float(config.lr or 0))


def _restore(out: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """The step and the seconds of training so far: zero without a checkpoint."""
    if not (out / LAST_NAME).exists():
        return 0, 0.0
    progress: dict[str, Any] = load_checkpoint(out / LAST_NAME, module, optimizer)
    return int(progress["step"]), float(progress["seconds"])


def _share(config: TrainConfig, step: int, order: Order, seconds: float) -> float:
    """Share of the budget spent: the largest of those of steps, epochs and minutes."""
    limits = (
        (step, config.steps),
        (step, None if config.epochs is None else config.epochs * order.steps_per_epoch),
        (seconds, None if config.minutes is None else 60 * config.minutes),
    )
    return max(1.0 if limit <= 0 else spent / limit for spent, limit in limits if limit is not None)


def _seed_step(seed: int, step: int, generator: torch.Generator) -> None:
    """All randomness of a step follows from (seed, step), so that a resumed run draws what it would have drawn."""
    mixed = int(torch.tensor([seed, step]).mul(torch.tensor([1_000_003, 7_919])).sum()) & 0x7FFF_FFFF_FFFF_FFFF
    generator.manual_seed(mixed)
    torch.manual_seed(mixed)  # dropout and whatever else draws from the global state


def _set_learning_rate(optimizer: torch.optim.Optimizer, peak: float, share: float) -> None:
    """Linear warm-up, then half a cosine down to zero."""
    rate = share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
    for group in optimizer.param_groups:
        group["lr"] = peak * max(rate, 1e-3)


def _check_loss(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss} at step {step}: try a lower --lr, or --precision 32-true")


class _Meter:
    """Means over the steps since the last reading; figures stay on the device until they are read."""

    def __init__(self) -> None:
        self._since, self._images, self._steps = time.monotonic(), 0, 0
        self._sums: dict[str, Tensor | float] = {}
        self._last: dict[str, float] = {}
        self._warned = False

    def add(self, images: int, figures: dict[str, Tensor | float]) -> None:
        self._images += images
        self._steps += 1
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def read(self) -> tuple[float, dict[str, float]]:
        """Pictures a second and mean figures, then start afresh."""
        now = time.monotonic()
        rate = self._images / max(now - self._since, 1e-9)
        self._last = {name: float(total) / self._steps for name, total in self._sums.items()}
        self._since, self._images, self._steps, self._sums = now, 0, 0, {}
        return rate, self._last

    def warn_if_at_chance(self, share: float, reporter: Reporter) -> None:
        """Say once that nothing is being learned."""
        accuracy, chance = self._last.get("accuracy"), self._last.get("chance")
        if accuracy is None or chance is None or self._warned or share < 0.25 or accuracy > chance * CHANCE_MARGIN:
            return
        self._warned = True
        reporter.warn(f"the pretext task is still at chance ({accuracy:.3f} against {chance:.3f}): nothing is learned")
