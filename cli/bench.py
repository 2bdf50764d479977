"""``sslfeat bench``: how fast is an encoder on this machine?"""

from __future__ import annotations

from typing import Annotated

import typer

from sslfeat.cli.console import say, say_json
from sslfeat.errors import UsageError


def bench(
    encoder: Annotated[str, typer.Argument(help="encoder file, name, or what 'export --target' made")],
    provider: Annotated[
        list[str] | None, typer.Option(help="cpu or cuda, more than one if you like; default: all that run here")
    ] = None,
    threads: Annotated[str, typer.Option(help="for an inference, such as 1,2; default: 1 and all cores")] = "",
    batch: Annotated[str, typer.Option(help="images at once")] = "1,8,32",
    seconds: Annotated[float, typer.Option(help="for each setting")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure latency (50th, 90th, 99th percentile) and throughput by provider, threads and batch."""
    import dataclasses

    from sslfeat.export.benchmark import bench as run
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.registry import DEFAULT
    from sslfeat.system.cores import available_cores

    providers = provider or sorted({"cpu", Encoder.load(DEFAULT).provider})
    counts = _numbers(threads) if threads else sorted({1, available_cores()})
    found = []
    if not as_json:
        say(f"{'provider':<14}{'threads':>8}{'batch':>7}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}{'images/s':>12}")
    for row in run(encoder, providers, counts, _numbers(batch), seconds):
        found.append(dataclasses.asdict(row))
        if not as_json:
            times = "".join(f"{value:>10.2f}" for value in (row.p50, row.p90, row.p99))
            say(f"{row.provider:<14}{row.threads:>8}{row.batch:>7}{times}{row.throughput:>12.0f}")
    if as_json:
        say_json(found)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{text!r} is not whole numbers, such as 1,8") from error
