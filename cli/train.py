"""``sslfeat train``: a folder of pictures becomes a training run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslfeat.cli.console import note, progress, say
from sslfeat.cli.exits import BAD_INPUTS, needs
from sslfeat.errors import InputError

if TYPE_CHECKING:
    from sslfeat.models.config import TrainConfig
    from sslfeat.models.train import Progress


def train(
    method: Annotated[
        str | None, typer.Argument(help="rotation, simclr, or a .py file that registers a method")
    ] = None,
    images: Annotated[list[str] | None, typer.Argument(help="folders, pictures, quoted globs, .txt lists")] = None,
    out: Annotated[Path, typer.Option(help="run folder")] = Path("run"),
    backbone: Annotated[str | None, typer.Option(help="resnet10[_wN], resnet18, ..., vit_tiny, vit_s_16, ...")] = None,
    image_size: Annotated[int | None, typer.Option(help="px; default: from the pictures")] = None,
    batch_size: Annotated[int | None, typer.Option(help="default: the method's, less for few pictures")] = None,
    steps: Annotated[int | None, typer.Option(help="budget in optimiser steps")] = None,
    epochs: Annotated[float | None, typer.Option(help="budget in passes over the pictures")] = None,
    minutes: Annotated[float | None, typer.Option(help="budget in minutes of training")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's")] = None,
    seed: Annotated[int, typer.Option(help="of weights, order and augmentation")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="32-true or bf16-mixed; default: bf16 on a GPU that has it")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="option of the method, as name=value; repeatable")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="repeat the run of this config.yaml")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint")] = False,
    checkpoint_steps: Annotated[int | None, typer.Option(help="default: a checkpoint a minute")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="unreadable pictures are an error")] = False,
) -> None:
    """Train an encoder without labels; the budget is --steps, --epochs or --minutes (default: knows the machine)."""
    with needs("train"):
        from sslfeat.models.config import TrainConfig, load_config
        from sslfeat.models.train import train as run
    if config is not None:
        if method or images:
            raise InputError("--config already names the method and the images: leave them out")
        settings = load_config(config)
    else:
        if not method or not images:
            raise InputError("a method and images are needed: sslfeat train simclr IMAGES --out RUN")
        settings = TrainConfig(
            method=method,
            images=tuple(os.path.abspath(spec) for spec in images),
            options=_options(set_ or []),
            backbone=backbone,
            image_size=image_size,
            batch_size=batch_size,
            steps=steps,
            epochs=epochs,
            minutes=minutes,
            lr=lr,
            weight_decay=weight_decay,
            seed=seed,
            accelerator=accelerator,
            precision=precision,
        )
    _train(run, settings, out, resume, checkpoint_steps, strict)


def _train(
    run: Any, settings: TrainConfig, out: Path, resume: bool, checkpoint_steps: int | None, strict: bool
) -> None:
    from sslfeat.models.train import Reporter

    start = time.monotonic()
    with progress(1.0, "trained") as show:

        def loading(done: int, total: int) -> None:
            show(0.0, f"reading pictures {done}/{total}")

        def training(now: Progress) -> None:
            show(now.share, describe(now))

        result = run(
            settings, out, resume=resume, reporter=Reporter(loading, training, note), checkpoint_steps=checkpoint_steps
        )
    say(f"{result.run}: {result.steps} steps in {time.monotonic() - start:.0f} s")
    say(f"next: sslfeat export {result.run} --out encoder.onnx")
    if result.failures:
        note(f"{len(result.failures)} pictures could not be read: {out / 'failures.csv'}")
        raise typer.Exit(1 if strict else BAD_INPUTS)


def describe(now: Progress) -> str:
    """One line: pictures a second, loss, and the pretext accuracy beside its chance level."""
    figures = dict(now.figures)
    accuracy, chance = figures.pop("accuracy", None), figures.pop("chance", None)
    parts = [f"step {now.step}", f"{now.images_per_second:.0f} images/s"]
    parts += [f"{name} {value:.4g}" for name, value in figures.items()]
    if accuracy is not None:
        parts.append(f"accuracy {accuracy:.3f}" + (f" (chance {chance:.3f})" if chance is not None else ""))
    return "  ".join(parts)


def _options(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"--set {pair}: write it as name=value")
    return dict(pair.split("=", 1) for pair in pairs)
