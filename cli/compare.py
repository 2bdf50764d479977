"""``sslfeat compare``: compare two encoders, or two exports of one, on images."""

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
    a: Annotated[str, typer.Argument(metavar="A", help="encoder file, name, or output of 'export --target'")],
    b: Annotated[str, typer.Argument(metavar="B", help="encoder to compare with A")],
    images: Annotated[list[str], typer.Option(help="images: for the comparison, at most 500; repeatable")],
    show: Annotated[int, typer.Option(help="number of most different images to list")] = 12,
    threads: Threads = 1,
    out: Annotated[Path | None, typer.Option(help="output: HTML page with the most different images")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare two encoders on images: cosine, shared neighbors, most different images, latency."""
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
    say(f"{found.b} compared with {found.a}, {counted(found.images, 'image')}")
    if found.cosine_least is not None and found.max_abs_diff is not None:
        say(f"  cosine         minimum {found.cosine_least:.7f}, mean {found.cosine_mean:.7f}")
        if found.cosine_bound is not None and found.share is not None:
            say(f"                 unseen: at least {found.cosine_bound:.7f} for {100 * found.share:.4g} % (95 % confidence)")
        say(f"  max abs diff   {found.max_abs_diff:.3g}")
    else:
        note(f"embeddings of {found.dims[0]} and {found.dims[1]} dimensions cannot be compared by cosine")
    say(f"  CKA            {found.cka:.4f}  (linear; 1: equal up to rotation and scale)")
    say(f"  rank correl.   {found.rank_correlation:.4f}  (Spearman, of all pairwise similarities)")
    say(f"  overlap@10     {found.overlap:.4f}; unseen images: at least {found.overlap_bound:.4f} among as many")
    say(f"  batch size     changes features of B by at most {found.batch_diff:.3g}")
    for batch, (first, second) in found.seconds.items():
        ratio = f"ratio {first / second:.2f}"
        say(f"  batch {batch}        B {1000 * second:.2f} ms, A {1000 * first:.2f} ms, {ratio}")
    for worst in found.worst:
        cosine = "" if worst.cosine is None else f"cosine {worst.cosine:.6f}, "
        say(f"  {cosine}{100 * worst.overlap:.0f}% of neighbors shared  {worst.path}")


def _page(path: Path, found: Comparison) -> None:
    from sslfeat.reports.gallery import Shown, gallery
    from sslfeat.reports.render import write_page

    shown = [
        Shown(worst.path, f"{'' if worst.cosine is None else f'{worst.cosine:.5f}, '}{100 * worst.overlap:.0f}% shared")
        for worst in found.worst
    ]
    about = f"{counted(found.images, 'image')}; overlap of the ten nearest neighbors {found.overlap:.4f}. Most different images:"
    write_page(path, gallery(f"{found.b} compared with {found.a}", about, [("most different", shown)]))
