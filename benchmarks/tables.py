"""Tables of the documentation, made from files of ``benchmarks/results``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.figures import results

Rows = Sequence[Sequence[str]]


def measured(name: str) -> dict[str, Any]:
    """Contents of a file of ``benchmarks/results``, without the machine."""
    return {key: value for key, value in results(name).items() if key != "machine"}


def markdown(head: Sequence[str], rows: Rows) -> str:
    """A Markdown table, without a trailing newline."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def transfer() -> str:
    """Quality of features on each data set."""
    columns = ("linear", "kNN 20", "mAP", "precision@10")
    rows = []
    for data, found in measured("transfer").items():
        counts = found["counts"]
        title = f"{data} ({counts['queries']} queries, {counts['searched']} searched)"
        rows += [[title, name, *(f"{row[c]:.1f}" for c in columns)] for name, row in found.items() if name != "counts"]
    return markdown(["images", "features", *columns], rows)


def embed() -> str:
    """Images per second of sslfeat and other libraries."""
    found, encoders = results("embed"), ("resnet18", "vit_s_16", "shipped")
    names = {
        "limit": "limit: two single cores, decoding and then inference", "sslfeat": "`sslfeat embed`",
        "sslfeat auto": "`sslfeat embed --precision auto`", "fastembed": "fastembed", "lightly_train": "lightly_train.embed",
        "thingsvision": "thingsvision", "dataloader": "torchvision with a DataLoader",
    }  # fmt: skip

    def cell(encoder: str, name: str) -> str:
        value = found[encoder]["images_per_second"].get(name)
        return "" if value is None else f"{value:.1f}" if value < 50 else f"{value:.0f}"

    rows = [[title, *(cell(encoder, name) for encoder in encoders)] for name, title in names.items()]
    return markdown(["images/s", "ResNet-18", "ViT-S/16", "sslfeat-small"], rows)


def decode() -> str:
    """Time of decoding and resizing, exact and fast, and agreement of the features."""
    titles = {
        "fullsize250, shipped at 80 px": "250 photographs of 0.2 megapixels, `sslfeat-small`",
        "imagenette96, shipped at 80 px": "250 images of 96 px, `sslfeat-small`",
        "fullsize250, resnet18 at 224 px": "250 photographs, ResNet-18 with random weights at 224 px",
    }
    rows = []
    for name, title in titles.items():
        exact, fast = results("decode")[name]["exact"], results("decode")[name]["fast"]
        times = (exact["decode_cpu_ms"], fast["decode_cpu_ms"], exact["network_cpu_ms"])
        rows.append([title, *(f"{value:.1f}" for value in times), f"{fast['neighbors_kept']:.1%}"])
    return markdown(["", "decode and resize, exact", "fast", "network", "neighbors kept"], rows)


def index() -> str:
    """Recall, speed and size of indexes of sslfeat and other libraries."""
    rows = [
        [title, name, f"{row['recall']:.3f}", f"{row['batch']:,.0f}", f"{row['single']:,.0f}", f"{row['bytes'] / 1e6:.0f}",
         f"{row['build_seconds']:.0f}", row["told"].split(", recall")[0]]
        for title, found in measured("index").items() for name, row in found.items()
    ]  # fmt: skip
    return markdown(["vectors", "index", "recall@10", "queries/s, one batch", "single queries", "MB", "build, s", ""], rows)


def index_recall() -> str:
    """Stated and measured recall at 1, 10 and 100, after changes of the index."""
    stages = ("built", "a twelfth added", "other images added", "a class removed")
    rows = []
    for kind, title in (("ivf", "IVF"), ("hnsw", "HNSW"), ("ivfpq", "IVF-PQ")):
        found = results("index_recall")[kind]
        for what in ("stated", "found"):
            cells = []
            for stage in stages:
                values = [found[stage][what][k] for k in ("1", "10", "100")]
                cells.append(" / ".join(f"{v if what == 'stated' else v['recall']:.3f}" for v in values))
            rows.append([f"{title}, {what}", *cells])
    return markdown(["recall at 1 / 10 / 100", *stages], rows)


def cluster() -> str:
    """k-means, compared with scikit-learn and FAISS."""
    found = results("cluster")
    sizes = ("k=10", "k=100")

    def row(title: str, key: str, peer: str, style: str) -> list[str]:
        return [title, *(format(found[k][key][peer], style) for k in sizes)]

    return markdown(
        ["", "k = 10", "k = 100"],
        [
            row("speedup over `KMeans` of scikit-learn", "times faster than", "scikit-learn", ".1f"),
            row("speedup over `faiss.Kmeans` with all points", "times faster than", "faiss", ".1f"),
            row("excess inertia over scikit-learn", "inertia over scikit-learn's", "ours", ".2%"),
            row("`faiss.Kmeans`: excess inertia over scikit-learn", "inertia over scikit-learn's", "faiss", ".2%"),
        ],
    )


def duplicates_recall() -> str:
    """Recall of duplicates, by transformation."""
    found = results("duplicates")["recall"]["imagenette96/val"]
    return markdown(["Change", "Found as the same image"], [[name, f"{value:.3f}"] for name, value in found.items()])


def duplicates_precision() -> str:
    """Precision of duplicates in sets of distinct files."""
    found = results("duplicates")
    titles = {
        "imagenette96/train": "Imagenette, training set", "imagenette96/val": "Imagenette, validation set",
        "cifar10/test": "CIFAR-10, test set (32 px)", "sets/neardup_wallpapers384": "wallpapers in several sizes and crops",
    }  # fmt: skip
    rows = [
        [titles[name], f"{row['images']:,}", str(row["same image"]), str(row.get("right, by eye", "")), str(row["same scene"])]
        for name, row in found["distinct sets"].items()
    ]
    drawn = found["drawn products and pages"]
    title = "drawn: products of one shape in 40 colors, pages of one layout"
    rows.append([title, str(drawn["images"]), str(drawn["same image"]), "", str(drawn["same scene"])])
    return markdown(["Set", "Images", "Same image", "Correct (by eye)", "Same scene"], rows)


def probe() -> str:
    """Regularization path of logistic regression, compared with scikit-learn."""
    found, sizes = results("probe"), ("10 classes", "100 classes")

    def span(size: str, peer: str) -> str:
        row = found[size]["largest differences from"][peer]
        return f"{row['objective, most below']:.0e} to {row['objective, most above']:.0e}"

    def points(size: str) -> str:
        return f"{100 * found[size]['largest differences from']['scikit-learn, tol 1e-6']['accuracy']:.2f}"

    return markdown(
        ["50,000 x 512 random features, ten values of C", *sizes],
        [
            ["speedup over `LogisticRegression` of scikit-learn", *(f"{found[size]['times faster']:.1f}" for size in sizes)],
            ["loss minus that of scikit-learn, default tolerance", *(span(size, "scikit-learn") for size in sizes)],
            ["loss minus that of scikit-learn, tolerance 1e-6", *(span(size, "scikit-learn, tol 1e-6") for size in sizes)],
            ["largest difference in accuracy, points (tolerance 1e-6)", *(points(size) for size in sizes)],
        ],
    )


def serve() -> str:
    """Throughput of the service, compared with ``sslfeat embed``."""
    found = results("serve")
    titles = {
        "embed photographs": "`sslfeat embed`, photographs", "photographs, .npy": "one photograph per request, `.npy`",
        "photographs, JSON": "one photograph per request, JSON", "embed thumbnails": "`sslfeat embed`, thumbnails",
        "32 thumbnails a request, .npy": "32 thumbnails per request, multipart, `.npy`",
        "one thumbnail a request, .npy": "one thumbnail per request, `.npy`",
    }  # fmt: skip
    shares = found["share_of_embed"]
    rows = [
        [title, f"{found['images_per_second'][name]:,.0f}", f"{shares[name]:.2f}" if name in shares else "",
         f"{found['core_ms_an_image'][name]:.2f}"]
        for name, title in titles.items()
    ]  # fmt: skip
    return markdown(["", "images/s", "relative to `embed`", "core ms per image"], rows)


def gates() -> str:
    """Share of unseen images at or above the stated bound, by source of the comparison images."""
    sets = {
        "imagenette": "Imagenette, 96 px",
        "cifar10": "CIFAR-10, 32 px",
        "tiny": "Tiny ImageNet, 64 px",
        "fullsize250": "250 photographs",
    }
    rows = []
    for name, row in results("gates")["simclr-resnet10"].items():
        unseen = row["unseen"]
        cells = [f"{unseen[other]['share at or above']:.1%}" if other in unseen else "" for other in sets]
        rows.append([sets[name], f"{row['stated']['cosine']:.5f}", f"{row['stated']['share']:.1%}", *cells])
    return markdown(
        ["Calibrated and compared on", "stated cosine", "share", *(f"measured: {title}" for title in sets.values())], rows
    )


def targets(encoder: str) -> str:
    """Agreement, size and speed of the export targets."""
    rows = []
    for name, row in results("targets")[encoder].items():
        if "refused" in row:
            why = "not installed" if row["refused"].startswith("this needs the package") else "refused: beyond a tolerance"
            rows.append([f"`{name}`", why, "", "", "", ""])
            continue
        like, size = row["likeness"], f"{row['bytes'] / 1e6:.1f} MB"
        if like is None:
            rows.append([f"`{name}`", "converted, not run", "", size, "", ""])
            continue
        speeds = [f"{a / b:.2f}" for _, (a, b) in sorted(row["seconds"].items())] or ["", ""]
        rows.append([f"`{name}`", f"{like['cosine_bound']:.7f}", f"{like['overlap_bound']:.4f}", size, *speeds])
    return markdown(["Target", "cosine", "overlap@10", "size", "speedup, batch 1", "batch 8"], rows)


def agreement() -> str:
    """Rank correlation of label-free metrics with the probe."""
    found = sorted(results("agreement")["agreement"].items(), key=lambda item: -abs(item[1]["spearman"]))
    rows = [[f"`{name}`", f"{row['spearman']:+.2f}", f"{row['low']:+.2f} to {row['high']:+.2f}"] for name, row in found]
    return markdown(["Metric", "Spearman", "95 % confidence interval"], rows)


def cifar10() -> str:
    """SimCLR and rotation after 15 minutes, and an untrained network."""
    rows = []
    for name, row in results("cifar10")["results"].items():
        cells = (row["linear"], row["knn"]["20"], row["knn"]["200"])
        rows.append([name, *(f"{100 * c['top1']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in cells)])
    return markdown(["`resnet10`, 384-d, 32 px", "linear", "kNN, k = 20", "kNN, k = 200"], rows)


def methods(rows: Sequence[dict[str, Any]], where: str = "") -> list[list[str]]:
    """Rows of a table of methods, by decreasing gain."""
    lines = []
    for row in sorted(rows, key=lambda row: -row["gain"]):
        pairs = (("error", "trivial"), ("accuracy", "chance"))
        pretext = [f"{name} {row[name]:.3f}, {beside} {row[beside]:.3f}" for name, beside in pairs if name in row]
        values = (f"{row['linear']:.1f}", f"{row['untrained_linear']:.1f}", f"{row['gain']:+.1f}", f"{row['knn']:.1f}")
        steps = (f"{row['images_per_second']:.0f}", f"{row['steps']:.0f}", f"{row['core_minutes']:g}")
        lines.append([f"`{row['method']}`{where}", *values, pretext[0] if pretext else "", *steps])
    return lines


METHODS = ("method", "linear", "untrained", "gain", "kNN 20", "pretext task", "images/s", "steps", "core minutes")


def methods_more() -> str:
    """Longer runs, and other data sets."""
    rows = [line for found in results("methods_more") for line in methods(found["rows"], f" ({found['budget']})")]
    return markdown(METHODS, rows)


def stores() -> str:
    """Push to vector stores, and search with and without conditions."""
    titles = {"milvus": "Milvus Lite", "pgvector": "Postgres", "lancedb": "LanceDB"}
    asked = ("label", "metadata", "metadata_order")
    rows = []
    for name, title in titles.items():
        found = results("stores")[name]
        searches = [found["search"], *(found["search_where"][key] for key in asked)]
        cells = [f"{row['recall']:.3f}, {row['ms_a_query']:.1f}" for row in searches]
        rows.append([title, *(f"{found[key]['rows_per_second']:,}" for key in ("first_push", "second_push")), *cells])
    said = [" and ".join(f"`{text}`" for text in results("stores")["lancedb"]["search_where"][key]["where"]) for key in asked]
    return markdown(["", "first push, rows/s", "second push, rows/s", "recall@10, ms per query", *said], rows)


def ranks() -> str:
    """Relative difference between the losses of several processes and of one."""
    relative = results("ranks")["relative"]
    names = {"2": "2 processes", "4": "4 processes", "norm": "1, normalized as with several", "noise": "1, rounding noise"}
    rows = [[f"`{method}`", *(f"{found[name]['largest']:.0e}" for name in names)] for method, found in relative.items()]
    return markdown(["method", *names.values()], rows)


TABLES: dict[str, Callable[[], str]] = {
    "transfer": transfer,
    "embed": embed,
    "decode": decode,
    "index": index,
    "index_recall": index_recall,
    "cluster": cluster,
    "duplicates_recall": duplicates_recall,
    "duplicates_precision": duplicates_precision,
    "probe": probe,
    "serve": serve,
    "stores": stores,
    "gates": gates,
    "targets sslfeat-small": lambda: targets("sslfeat-small"),
    "targets sslfeat-tiny": lambda: targets("sslfeat-tiny"),
    "agreement": agreement,
    "cifar10": cifar10,
    "methods_cifar10": lambda: markdown(METHODS, methods(results("methods_cifar10")["rows"])),
    "methods_views": lambda: markdown(METHODS, methods(results("methods_views")["rows"])),
    "methods_views_cifar10": lambda: markdown(METHODS, methods(results("methods_views_cifar10")["rows"])),
    "methods_more": methods_more,
    "ranks": ranks,
}
