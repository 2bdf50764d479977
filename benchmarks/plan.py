"""Estimate time and cost for collections of any size: the tables of docs/scale.md, extrapolated from other benchmarks.

    python benchmarks/plan.py [--price 0.04] [--hours 12] [--write docs/scale.md]

Inputs, from benchmarks/results: core seconds per image from embed.json (0.2 megapixels), fixed seconds of Ray and bytes per row
from scale_out.json, seconds and bytes of an index from index_million.json, time of listing from million.json. All but the fixed
seconds are proportional to the number of images. The smallest of SIZES that embeds within ``--hours`` is used; ``--price`` is
per core hour. With ``--write``, the tables in this page are replaced.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
BEGIN, END = "<!-- made by benchmarks/plan.py -->", "<!-- end of plan -->"
SIZES = ((1, 2), (1, 16), (1, 64), (4, 64), (16, 64), (64, 64))  # machines, cores per machine
POWERS = range(4, 10)
PART_SIZE, MOST_PARTS = 1024, 1 << 17
FOLDER = 10**8  # images per folder: every process lists all of them, using 300 bytes each
TITLES = {"shipped": "Shipped encoder", "resnet18": "ResNet-18 at 224 px"}
HEAD = ("Images", "Engine", "Cores", "Embedding", "Index", "Features", "Index on disk", "Index in memory", "Cost")


@dataclass(frozen=True)
class Figures:
    """Measurements: core seconds per image, bytes per row and per vector, and fixed seconds."""

    embed: float
    index: float
    listing: float
    row_bytes: float
    vector_bytes: float
    memory_bytes: float
    fixed: float

    @classmethod
    def read(cls, encoder: str, results: Path = RESULTS) -> Figures:
        """Read the measurements for ``encoder``, a name in embed.json."""
        embed, index, million, ray = (read(results, name) for name in ("embed", "index_million", "million", "scale_out"))
        lap = embed[encoder]["laps"]["limit"][0]
        cores = round(lap["images_per_second"] * (lap["decode_ms"] + lap["inference_ms"]) / 1e3)
        built, vectors = index["within a quarter of the memory"], index["vectors"]
        wide = ray["dim"] / index["dim"]  # bytes per vector are proportional to the dimension
        return cls(
            embed=cores / embed[encoder]["images_per_second"]["sslfeat"],
            index=cores * built["seconds"] / vectors,
            listing=(million["list_seconds"] + million["look_seconds"]) / million["inputs"],
            row_bytes=ray["bytes_per_image"],
            vector_bytes=wide * built["bytes"] / vectors,
            memory_bytes=wide * built["figures"]["memory"] / vectors,
            fixed=ray["fixed_seconds"]["ray"],
        )


def read(results: Path, name: str) -> dict[str, Any]:
    """Read a file of measurements."""
    found: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return found


def row(images: int, of: Figures, price: float, most_hours: float) -> list[str]:
    """A row of a table."""
    listing = of.listing * min(images, FOLDER)  # folders are listed in parallel by separate processes
    for machines, cores in SIZES:
        seconds = of.embed * images / (machines * cores) + listing + of.fixed * (machines > 1)
        if seconds <= 3600 * most_hours:
            break
    index = of.index * images / cores  # on one machine
    cost = price * (machines * cores * seconds + cores * index) / 3600
    return [
        f"10^{round(math.log10(images))}",
        engine(images, machines),
        f"{machines} x {cores}" if machines > 1 else f"{cores}",
        duration(seconds),
        duration(index),
        size(of.row_bytes * images),
        size(of.vector_bytes * images),
        size(of.memory_bytes * images),
        f"${cost:.2f}" if cost < 10 else f"${cost:,.0f}",
    ]


def engine(images: int, machines: int) -> str:
    """Options of ``sslfeat embed``."""
    part_size = PART_SIZE
    while images / part_size > MOST_PARTS:
        part_size *= 2
    options = ["one process"] if machines == 1 else [f"`--parts K/{machines}` or `--engine ray`"]
    options += [f"`--part-size {part_size}`"] * (part_size > PART_SIZE)
    options += [f"{images // FOLDER} folders"] * (images > FOLDER)
    return ", ".join(options)


def duration(seconds: float) -> str:
    """Format a duration with two significant digits."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.2g} {unit}" if seconds < 99 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.2g} s"


def size(count: float) -> str:
    """Format bytes with two significant digits."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.2g} {unit}" if count < 99 * length else f"{count / length:.0f} {unit}"
    return f"{count / 1e3:.2g} kB"


def tables(price: float, most_hours: float) -> str:
    """All tables, in Markdown."""
    lines = [f"Assumptions: ${price:.2f} per core hour; embedding must finish within {most_hours:g} hours."]
    for encoder, title in TITLES.items():
        figures = Figures.read(encoder)
        lines += ["", f"**{title}**, {1e3 * figures.embed:.1f} core ms per image:", ""]
        rows = [row(10**power, figures, price, most_hours) for power in POWERS]
        lines += [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *rows)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--price", type=float, default=0.04)
    parser.add_argument("--hours", type=float, default=12.0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    made = tables(options.price, options.hours)
    if options.write is None:
        print(made)
        return
    text = options.write.read_text()
    before, rest = text.split(BEGIN)
    options.write.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
