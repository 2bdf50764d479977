"""``sslfeat compare``: do two encoders, or two forms of one, say the same of images?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sslfeat.cli.console import check_new, note, say, say_json

if TYPE_CHECKING:
    from sslfeat.export.compare import Comparison


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="encoder file, name, or what 'export --target' made")],
    b: Annotated[str, typer.Argument(metavar="B", help="what is compared with it")],
    images: Annotated[list[str], typer.Option(help="images to compare on, at most 500 of them")],
    show: Annotated[int, typer.Option(help="how many of the worst images are named")] = 12,
    threads: Annotated[int, typer.Option(help="for an inference")] = 1,
    html: Annotated[Path | None, typer.Option(help="write a page with the worst images")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace --html")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Compare two encoders on images: cosine, shared neighbors, the worst images, latency in turns."""
    from sslfeat.data.dataset import find_inputs
    from sslfeat.export.compare import compare as run

    check_new(overwrite, html)
    found = run(a, b, [item.raw for item in find_inputs(images, "none")], show, threads)
    if html is not None:
        _page(html, found)
    if as_json:
        say_json(dataclasses.asdict(found))
    else:
        _say(found)


def _say(found: Comparison) -> None:
    say(f"{found.b} beside {found.a}, {found.images} images")
    if found.cosine_least is not None and found.max_abs_diff is not None:
        say(f"  cosine         least {found.cosine_least:.7f}, mean {found.cosine_mean:.7f}")
        if found.cosine_bound is not None and found.share is not None:
            say(f"                 unseen: {found.cosine_bound:.7f} or more for {100 * found.share:.4g} % (95 % confidence)")
        say(f"  max abs diff   {found.max_abs_diff:.3g}")
    else:
        note("the embeddings are of different lengths: neighbors are compared alone")
    say(f"  overlap@10     {found.overlap:.4f}; unseen: {found.overlap_bound:.4f} or more among as many")
    say(f"  with the batch {found.batch_diff:.3g} at the most")
    for batch, (first, second) in found.seconds.items():
        ratio = f"{first / second:.2f} times as fast"
        say(f"  batch {batch}        {1000 * second:.2f} ms beside {1000 * first:.2f}, {ratio}")
    for worst in found.worst:
        cosine = "" if worst.cosine is None else f"cosine {worst.cosine:.6f}, "
        say(f"  {cosine}{100 * worst.overlap:.0f}% of neighbors  {worst.path}")


def _page(path: Path, found: Comparison) -> None:
    from sslfeat.reports.gallery import Shown, gallery
    from sslfeat.reports.render import write_page

    shown = [
        Shown(worst.path, f"{'' if worst.cosine is None else f'{worst.cosine:.5f}, '}{100 * worst.overlap:.0f}% shared")
        for worst in found.worst
    ]
    about = f"{found.images} images; overlap of the ten nearest {found.overlap:.4f}. Those on which they agree least:"
    write_page(path, gallery(f"{found.b} beside {found.a}", about, [("worst", shown)]))
