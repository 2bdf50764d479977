"""``sslfeat adopt``: a foreign ONNX encoder becomes a first-class citizen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sslfeat.cli.console import check_folders, check_new, note, say, say_json, working
from sslfeat.cli.options import CardName, Json, License, Overwrite
from sslfeat.errors import UsageError
from sslfeat.system.plurals import counted

Filter = Literal["bicubic", "bilinear", "lanczos", "box"]
Pool = Literal["none", "cls", "mean"]
Crop = Literal["center", "squash", "border"]
JUDGES = 64


def adopt(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="an encoder by timm, DINO, CLIP, a peer, ...")],
    out: Annotated[Path | None, typer.Option(help="output: encoder file; default: NAME-adopted.onnx")] = None,
    preprocessor: Annotated[
        Path | None, typer.Option(help="its preprocessor_config.json or timm's config.json, instead of the options below")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="side of the images, px; default: the model's own, where it is fixed")
    ] = None,
    resize: Annotated[int | None, typer.Option(help="shorter side before the crop, px; default: --image-size")] = None,
    filter_: Annotated[Filter, typer.Option("--filter", help="of resizing")] = "bicubic",
    crop: Annotated[Crop, typer.Option(help="squash: stretched to a square; border: padded to one")] = "center",
    mean: Annotated[str | None, typer.Option(help="of the channels, values 0 to 1; default: ImageNet's")] = None,
    std: Annotated[str | None, typer.Option(help="as --mean")] = None,
    pool: Annotated[Pool, typer.Option(help="of tokens; none: the output is an embedding")] = "none",
    output: Annotated[str | None, typer.Option(help="which output, if it has several; default: the only fitting one")] = None,
    images: Annotated[list[str] | None, typer.Option(help="images: to verify with; default: drawn ones; repeatable")] = None,
    name: CardName = None,
    license: License = "not stated",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Give a foreign ONNX encoder a card and sslfeat's contract; what it says of images is checked against the model itself."""
    from sslfeat.data.sampling import decode_all
    from sslfeat.export.adopt.external_data import read_whole
    from sslfeat.export.adopt.foreign_model import AdoptRequest, chosen_output, side_of
    from sslfeat.export.adopt.preprocessor_config import read_config
    from sslfeat.export.adopt.remarks import remarks
    from sslfeat.export.adopt.subprocess import adopt_in_subprocess
    from sslfeat.export.images import images_to_check
    from sslfeat.numerics.sampling import evenly
    from sslfeat.storage import atomic

    out = out or Path(f"{model.stem}-adopted.onnx")
    check_new(overwrite, out)
    check_folders(out)
    if preprocessor is not None and any((image_size, resize, mean, std)):
        raise UsageError("--preprocessor says how images are fed: leave --image-size, --resize, --mean and --std out")
    data = read_whole(model)
    if preprocessor is not None:
        fed = read_config(preprocessor)
    else:
        side = side_of(data, output, pool) if image_size is None else image_size
        fed = _fed(side, resize, filter_, crop, mean, std)
    choice = chosen_output(data, output, pool)
    request = AdoptRequest(**fed, pool=pool, output=output, name=name or out.stem, license=license)
    with images_to_check(images or (), ()) as (sources, image_source):
        some = [sources[number] for number in evenly(len(sources), JUDGES)]
        pixels, fine = decode_all(some, request.preprocess)
        with working(f"comparing {model} with the encoder made of it"):
            file = adopt_in_subprocess(data, request, pixels[fine], image_source)
    atomic.write_atomic(out, file.data)
    assumed = [name for name, given in (("mean", mean), ("std", std)) if preprocessor is None and given is None]
    parity, notes = file.card.parity, [*filter(None, [choice]), *remarks(file, request, assumed)]
    if as_json:
        figures = {"max_abs_diff": parity.max_abs_diff, "min_cosine": parity.min_cosine}
        facts = {"out": str(out), "bytes": len(file.data), "dim": file.card.dim, **figures}
        facts |= {"preprocess": file.card.preprocess.fields(), "remarks": notes}
        say_json("adopt", facts, file.identity, parity.images)
        return
    say(f"{out}: {len(file.data) / 1e6:.1f} MB, {file.card.dim}-d, {file.card.preprocess.size} px, {file.fingerprint}")
    say(f"beside {model}: {counted(parity.images, 'image')}, max abs diff {parity.max_abs_diff:.3g} of {parity.scale:.3g}, "
        f"cosine {parity.min_cosine:.7f}")  # fmt: skip
    for text in notes:
        note(text)


def _fed(
    image_size: int | None, resize: int | None, filter_: str, crop: str, mean: str | None, std: str | None
) -> dict[str, Any]:
    """Fields of an AdoptRequest by the options. Raises UsageError if they do not say the size."""
    from sslfeat.data.transforms import Preprocess
    from sslfeat.export.adopt.foreign_model import AdoptRequest
    from sslfeat.export.adopt.preprocessor_config import border_color

    if image_size is None:
        raise UsageError(
            "the model takes images of any size, so it does not say how it is fed",
            "give --image-size (and --mean, --std), or its preprocessor_config.json with --preprocessor",
        )
    center = _three(mean) if mean else AdoptRequest.mean
    deviation = _three(std) if std else AdoptRequest.std
    preprocess = Preprocess(resize or image_size, image_size, filter_, crop=crop, fill=border_color(crop, center))
    return {"mean": center, "std": deviation, "preprocess": preprocess}


def _three(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{text!r} is not three numbers, such as 0.5,0.5,0.5") from error
