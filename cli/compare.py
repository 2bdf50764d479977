"""``sslfeat compare``: do two encoders, or two forms of one, say the same of images?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslfeat.cli.console import check_files, note, say, say_json, working
from sslfeat.cli.options import Json, Overwrite, Threads
from sslfeat.system.plurals import counted

if TYPE_CHECKING:
    from sslfeat.export.compare import Comparison


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="encoder file, name, or what 'export --target' made")],
    b: Annotated[str, typer.Argument(metavar="B", help="what is compared with it")],
    images: Annotated[list[str], typer.Option(help="images: to compare on, at most 500 of them; repeatable")],
    show: Annotated[int, typer.Option(help="how many of the worst images are named")] = 12,
    threads: Threads = 1,
    out: Annotated[Path | None, typer.Option(help="output: a page, .html, with the worst images")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare two encoders on images: cosine, shared neighbors, the worst images, latency in turns."""
    from sslfeat.data.dataset import find_inputs
    from sslfeat.export.backends import identity_of
    from sslfeat.export.compare import IMAGES
    from sslfeat.export.compare import compare as run

    check_files(overwrite, [out] if out else [], (".html",))
    sources = [item.path for item in find_inputs(images, "none")]
    with working(f"comparing on {counted(min(len(sources), IMAGES), 'image')}"):
        found = run(a, b, sources, show, threads)
    if out is not None:
        _page(out, found)
    if as_json:
        say_json("compare", _plain(found), identity_of(a), found.images)
    else:
        _say(found)


def _plain(found: Comparison) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(found).items() if name != "images"}


def _say(found: Comparison) -> None:
    say(f"{found.b} beside {found.a}, {counted(found.images, 'image')}")
    if found.cosine_least is not None and found.max_abs_diff is not None:
        say(f"  cosine         least {found.cosine_least:.7f}, mean {found.cosine_mean:.7f}")
        if found.cosine_bound is not None and found.share is not None:
            say(f"                 unseen: {found.cosine_bound:.7f} or more for {100 * found.share:.4g} % (95 % confidence)")
        say(f"  max abs diff   {found.max_abs_diff:.3g}")
    else:
        note(f"embeddings of {found.dims[0]} and {found.dims[1]} dimensions have no cosine with each other")
    say(f"  CKA            {found.cka:.4f}, linear: 1 is the same up to rotation and scale")
    say(f"  rank correl.   {found.rank_correlation:.4f}, of all pairs' similarities (Spearman)")
    say(f"  overlap@10     {found.overlap:.4f}; unseen: {found.overlap_bound:.4f} or more among as many")
    say(f"  batch size     changes a feature of the second by {found.batch_diff:.3g} or less")
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
    about = f"{counted(found.images, 'image')}; overlap of the ten nearest {found.overlap:.4f}. Those on which they agree least:"
    write_page(path, gallery(f"{found.b} beside {found.a}", about, [("worst", shown)]))
