"""``sslfeat bench``: speed of an encoder on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sslfeat.cli.console import say, say_json
from sslfeat.cli.options import Json, Where

if TYPE_CHECKING:
    from sslfeat.export.benchmark import Speed

BATCH_SIZES = (1, 8, 32)


def bench(
    encoder: Annotated[str, typer.Argument(help="encoder file, name, or output of 'export --target'")],
    provider: Annotated[Where, typer.Option(help="execution device; auto: all available")] = "auto",
    threads: Annotated[list[int] | None, typer.Option(help="threads per inference; default: 1 and all cores; repeatable")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="images per batch; default: 1, 8 and 32; repeatable")] = None,
    seconds: Annotated[float, typer.Option(help="duration of each measurement, s")] = 1.0,
    as_json: Json = False,
) -> None:
    """Measure latency (50th, 90th, 99th percentile) and throughput for each provider, number of threads and batch size."""
    from sslfeat.export.backends import identity_of
    from sslfeat.export.benchmark import bench as run
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.registry import DEFAULT
    from sslfeat.system.cores import available_cores

    providers = sorted({"cpu", Encoder.load(DEFAULT).provider}) if provider == "auto" else [provider]
    counts = threads or sorted({1, available_cores()})
    found: list[Speed] = []
    for row in run(encoder, providers, counts, batch_size or BATCH_SIZES, seconds):
        if not found and not as_json:  # after the first measurement: no table on errors
            say(f"{'provider':<14}{'threads':>8}{'batch':>7}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}{'images/s':>12}")
        found.append(row)
        if not as_json:
            times = "".join(f"{value:>10.2f}" for value in (row.p50, row.p90, row.p99))
            say(f"{row.provider:<14}{row.threads:>8}{row.batch:>7}{times}{row.throughput:>12.0f}")
    if as_json:
        say_json("bench", {"settings": [_plain(row) for row in found]}, identity_of(encoder))


def _plain(row: Speed) -> dict[str, object]:
    times = {"p50_ms": row.p50, "p90_ms": row.p90, "p99_ms": row.p99, "images_per_second": row.throughput}
    return {"provider": row.provider, "threads": row.threads, "batch_size": row.batch, "runs": row.runs, **times}
