"""Training, start to finish: read this first, then one file of ``methods/``.

Pictures are decoded once, every step draws its batch and its randomness from (seed, step) alone, and a checkpoint holds
weights, optimiser and step: so a run that was killed and resumed ends, on a CPU, with the weights of one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sslfeat import signals, store
from sslfeat.errors import InterruptedRun, TrainingError
from sslfeat.failures import write_failures
from sslfeat.inputs import Input, digest, find_inputs
from sslfeat.models import config as configs
from sslfeat.models.budget import learning_rate, share_spent
from sslfeat.models.checkpoint import ENCODER_NAME, LAST_NAME, load_checkpoint, save_checkpoint
from sslfeat.models.config import TrainConfig
from sslfeat.models.data import PIXELS_NAME, Order, Pictures, load_pictures, to_batch, typical_size
from sslfeat.models.frozen import build_method, save_encoder
from sslfeat.models.meter import Complaints, Meter
from sslfeat.models.method import Figures, file_sha256, find_method
from sslfeat.models.runlog import RunLog
from sslfeat.models.setup import leads, make_fabric, make_optimizer, seed_step
from sslfeat.models.watch import Watch, collapse, load_probe_set

LOG_EVERY = 20  # steps
STOP_WITHIN = 300.0  # seconds for the step that is being taken, and a checkpoint of it, once a signal asks to stop
AGREE_EVERY = 10  # steps between two looks at each other's signals, where several processes train
CHECKPOINT_SECONDS = 60.0
FEW = 200  # pictures


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
    look: Callable[[int, dict[str, float]], None] = lambda step, figures: None


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
    Checkpoints are written every minute, or every ``checkpoint_steps``. Several processes, one a GPU, train together
    when torchrun starts them. Raises SslfeatError; InterruptedRun after a SIGINT or SIGTERM, once the checkpoint is
    safe.
    """
    leader = leads()
    reporter = reporter if reporter and leader else Reporter()
    inputs = find_inputs(config.images, labels="none")
    config = configs.with_defaults(config, find_method(config.method).recipe, len(inputs), typical_size(inputs))
    config = dataclasses.replace(config, inputs_sha256=digest(inputs), method_sha256=file_sha256(config.method))
    with (
        store.exclusive(out, TrainingError) if leader else contextlib.nullcontext(),
        signals.deferred(STOP_WITHIN) as stop,
    ):
        if leader:
            _open_run(config, out, resume)
        with _pictures(config, inputs, out, reporter, stop) as pictures:
            steps = _Run(config, out, pictures, reporter, stop).loop(checkpoint_steps)
        if leader:
            write_failures(out, pictures.failures)
    return Result(out, steps, pictures.failures)


class _Run:
    """One run in flight: everything in front of the loop happens once, everything in it once a step."""

    def __init__(
        self, config: TrainConfig, out: Path, pictures: Pictures, reporter: Reporter, stop: signals.Stop
    ) -> None:
        self.config, self.out, self.pictures, self.reporter, self.stop = config, out, pictures, reporter, stop
        self.fabric = make_fabric(config)
        self.module = build_method(config).to(memory_format=torch.channels_last)
        self.module.prepare(pictures)
        self.optimizer = make_optimizer(self.module, config)
        self.step, spent = _restore(out, self.module, self.optimizer)
        if config.compile:
            self.module.loss = torch.compile(self.module.loss, backend=config.compile)  # type: ignore[method-assign]
        self.method, self.stepper = self.fabric.setup(self.module, self.optimizer)
        self.order = Order(len(pictures.pixels), int(config.batch_size or 1), config.seed)
        self.clock = time.monotonic() - spent

    def loop(self, checkpoint_steps: int | None) -> int:
        """Train until the budget is spent; returns the steps taken."""
        config, out, fabric = self.config, self.out, self.fabric
        generator = torch.Generator(fabric.device)
        probe_set = load_probe_set(config.probe_data, int(config.image_size or 0), out) if config.probe_data else None
        meter, log, saved_at = Meter(), RunLog(out, self.step) if fabric.is_global_zero else None, time.monotonic()
        complaints = Complaints(self.reporter.warn, self.module.complaint)
        watch = Watch(out, self.module, self.pictures, probe_set, log) if log else None
        try:
            while (share := self._share()) < 1:
                if watch and watch.due(self.step, share):
                    meter.leave_out(self._look(watch, complaints))
                self._cycle(generator)
                seed_step(config.seed, self.step, fabric.global_rank, generator)
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(float(config.lr or 0), share)
                count, figures = self._step(generator)
                self.step += 1
                meter.add(count, figures)
                if self.step % LOG_EVERY == 0:
                    rate, means = meter.read()
                    complaints.check(self.step, share, means)
                    if log:
                        log.write(
                            self.step, {**means, "lr": self.optimizer.param_groups[0]["lr"], "images_per_second": rate}
                        )
                    self.reporter.training(Progress(share, self.step, rate, means))
                signum = self._signal()
                late = time.monotonic() - saved_at > CHECKPOINT_SECONDS
                if signum or (self.step % checkpoint_steps == 0 if checkpoint_steps else late):
                    self._save()
                    saved_at = time.monotonic()
                if signum:
                    raise InterruptedRun(
                        signum, f"interrupted at step {self.step}: go on with the same command and --resume"
                    )
            self._save()
            if watch:
                self._look(watch, complaints)
        finally:
            if log:
                log.close()
        return self.step

    def _step(self, generator: torch.Generator) -> tuple[int, Figures]:
        """One optimiser step over one batch, in ``accumulate`` pieces; returns its pictures and mean figures."""
        fabric, pieces = self.fabric, self.config.accumulate
        indices = self.module.choose(self.order.indices(self.step), generator)
        share = indices[fabric.global_rank :: fabric.world_size]
        sums: Figures = {}
        for piece in range(pieces):
            numbers = share[piece::pieces]
            self.module.numbers = torch.from_numpy(numbers).to(fabric.device)
            batch = to_batch(self.pictures.pixels, numbers, fabric.device)
            with fabric.no_backward_sync(self.method, enabled=piece < pieces - 1):
                loss, figures = self.method(batch, generator)
                fabric.backward(loss / pieces)
            for name, value in {"loss": loss.detach(), **figures}.items():
                sums[name] = sums.get(name, 0.0) + value / pieces
        self.stepper.step()
        self.stepper.zero_grad()
        return len(indices), sums

    def _cycle(self, generator: torch.Generator) -> None:
        """Let the method look at all the data when a cycle begins."""
        if self.step % self.module.cycle_steps(self.order.steps_per_epoch):
            return
        seed_step(self.config.seed, -1 - self.step, 0, generator)  # the same on every rank
        for parameter in self.module.on_cycle(self.pictures, generator):
            self.optimizer.state.pop(parameter, None)

    def _look(self, watch: Watch, complaints: Complaints) -> float:
        """Measure the encoder and say what is wrong with it; returns the seconds that took."""
        began = time.monotonic()
        figures = watch.look(self.step, self.fabric.device, self.config.seed)
        if self.step:
            complaints.say("collapse", collapse(figures))
        self.reporter.look(self.step, figures)
        return time.monotonic() - began

    def _share(self) -> float:
        share = share_spent(self.config, self.step, self.order.steps_per_epoch, time.monotonic() - self.clock)
        return self.fabric.broadcast(share) if self.config.minutes and self.fabric.world_size > 1 else share

    def _signal(self) -> int:
        """The signal that came, on whichever process; all learn of it at the same step."""
        signum = self.stop.signum or 0
        if self.fabric.world_size == 1:
            return signum
        if self.step % AGREE_EVERY:
            return 0
        heard = self.fabric.all_reduce(torch.tensor(float(signum), device=self.fabric.device), reduce_op="max")
        return int(cast(Tensor, heard))

    def _save(self) -> None:
        if not self.fabric.is_global_zero:
            return
        progress = {"step": self.step, "seconds": time.monotonic() - self.clock}
        save_checkpoint(self.out / LAST_NAME, self.module, self.optimizer, progress)
        noted = {"images": len(self.pictures.pixels), "steps": self.step}
        save_encoder(self.out / ENCODER_NAME, self.module, noted)


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
        if len(pictures.pixels) < FEW:
            reporter.warn(f"{len(pictures.pixels)} pictures are few to learn from: some thousands are a beginning")
        yield pictures
    finally:
        (out / PIXELS_NAME).unlink(missing_ok=True)


def _restore(out: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """The step and the seconds of training so far: zero without a checkpoint."""
    if not (out / LAST_NAME).exists():
        return 0, 0.0
    progress: dict[str, Any] = load_checkpoint(out / LAST_NAME, module, optimizer)
    return int(progress["step"]), float(progress["seconds"])
