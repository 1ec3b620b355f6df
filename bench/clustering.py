"""How well, how fast and how steadily faces are grouped by person: ours against others on equal
features, by cluster size, with unrecognisable crops mixed in, added later, and at scale."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise as successive
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.clustering_config import TRAIN, Config
from bench.clustering_files import agreement, cluster_features, labelled
from bench.clustering_methods import COSINES, METHODS, Faces, agglomerative
from edgeface.alignment import TEMPLATE
from edgeface.cluster import Clusters, EdgeModel, cluster, graph
from edgeface.cluster.neighbours import neighbours
from edgeface.cluster.people import MIN_QUALITY
from edgeface.cluster.update import Pile
from edgeface.embed import DEFAULT
from edgeface.errors import ArgumentError
from edgeface.metrics.clustering import (
    adjusted_rand_index,
    bcubed,
    bcubed_by_size,
    fowlkes_mallows,
    normalized_mutual_information,
    pairwise,
    singleton_rate,
)
from edgeface.quality import rate
from edgeface.types import Face
from export.protocols.embedders import source
from export.protocols.identities import FOLDERS, TEACHER, Labelled, Source, training_sets

Figures = dict[str, float | str | None]
PARTS = ("quality", "robust", "messy", "scale")
MAIN = ("bcubed_f", "pairwise_f", "nmi", "ari")
# What the original project published for its model at its best precision, on its own crops.
PUBLISHED: Figures = {
    "clustering.published.test105.nmi": 0.917,
    "clustering.published.test105.ari": 0.867,
    "clustering.published.lfw311.nmi": 0.967,
    "clustering.published.lfw311.ari": 0.955,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--features",
        action="append",
        metavar="NAME[=FILE]",
        help="an embedder by name, or with its ONNX file (default: mobilefacenet and original)",
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "edgeface-bench-embeddings"
    )
    parser.add_argument("--only", action="append", choices=PARTS)
    folder = parser.add_argument_group("a folder of people instead of all this")
    folder.add_argument("--dataset", type=Path, help="a folder per person with pictures in it")
    folder.add_argument("--name", help="what to call it (default: as the folder is)")
    folder.add_argument("--model", default=DEFAULT, help="embedder: a name or file")
    folder.add_argument("--out", type=Path, default=Path("evaluation_results"))
    folder.add_argument("--threads", type=int, default=2)
    files = parser.add_argument_group("files of the MS1M benchmark instead of all this")
    files.add_argument("--config", type=Path, help="the original's .yaml that names the files")
    files.add_argument("--bin", type=Path, help="float32 features without it")
    files.add_argument("--dim", type=int, default=256, help="numbers per row of --bin")
    files.add_argument("--labels", type=Path, help="true labels (.meta) to score by")
    files.add_argument("--knn", type=Path, help="kNN file (.npz) of --bin; written if absent")
    files.add_argument(
        "--edge-model",
        type=Path,
        metavar="FILE",
        help="cluster by this edge model as well; without the file it is learned from the training "
        "part of --config and kept there",
    )
    files.add_argument("--found", type=Path, help="write the found labels here")
    parser.add_argument("--method", action="append", help="compare with these methods only")
    parser.add_argument("--sizes", default="10000,100000", help="faces of the scale runs")
    parser.add_argument(
        "--parts",
        default="knn,ours,infomap,faiss,exact,cells,hnsw",
        help="what runs at scale, in this order; infomap divides the links that ours left",
    )
    parser.add_argument(
        "--graphs", type=Path, metavar="FOLDER", help="keep the graphs of the scale runs here"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="REPORT",
        help="start from the figures of this report, with the parameters chosen there",
    )


def tests(features: Source) -> dict[str, Labelled]:
    """The three test sets; LFW-311 is the people with six and more pictures."""
    lfw = features.folder("lfw")
    sizes = np.bincount(lfw.labels)[lfw.labels]
    return {
        "test105": features.folder("pins-test"),
        "lfw311": lfw.take(np.flatnonzero(sizes >= 6)),
        "lfw": lfw,
    }


def figures(args: argparse.Namespace) -> Figures:
    if args.dataset is not None:
        from bench.clustering_dataset import evaluate

        name = args.name or args.dataset.resolve().name
        return evaluate(args.dataset, name, args.model, args.out, args.threads, scores)
    if args.config is not None or args.bin is not None:
        return of_files(args)
    only = args.only or list(PARTS)
    found = kept_figures(args)
    found["clustering.graph_path"] = graph.path()
    found |= PUBLISHED
    every = 31 if args.quick else 1  # with fewer people a bin of sizes stays empty
    for name in args.features or ["mobilefacenet", "original"]:
        features = source(name, args.shared, args.cache, every=every)
        if "quality" in only:
            teacher = source(TEACHER, args.shared, args.cache, every=every)
            found |= quality(features, teacher, args)
        if "robust" in only:
            found |= robustness(features, args)
    if "messy" in only:
        from bench.clustering_messy import figures as messy

        found |= messy(args.shared, every=4 if args.quick else 1)
    if "scale" in only:
        from bench.clustering_scale import scale, tail

        people = [p for p in (args.shared / FOLDERS["lfw"]).glob("*") if p.is_dir()]
        if people:
            sizes = np.array([sum(1 for _ in p.iterdir()) for p in people])
            found["clustering.scale.lfw_tail_shape"] = tail(sizes)[0]
        for n in [2000] if args.quick else [int(v) for v in args.sizes.split(",")]:
            found |= scale(n, args.parts.split(","), args.graphs)
    return found


def of_files(args: argparse.Namespace) -> Figures:
    """The figures of files that --config or --bin and its companions name: by the shipped edge
    model, by one of their own, and by methods named."""
    config = Config(args.bin, args.dim, args.labels, args.knn, 80)
    if args.config is not None:
        config = Config.read(args.config)
    clusters, scores = cluster_features(config, output=args.found)
    found: Figures = {
        "clustering.files.faces": float(len(clusters.labels)),
        "clustering.files.people": float(len(clusters)),
    }
    found |= {f"clustering.files.{name}": value for name, value in scores.items()}
    if args.edge_model is not None:
        model = edge_model(args)
        clusters, scores = cluster_features(config, output=args.found, model=model)
        found["clustering.files.trained.people"] = float(len(clusters))
        found |= {f"clustering.files.trained.{name}": value for name, value in scores.items()}
    for name in args.method or []:
        found |= by_method(name, config, args)
    return found


def edge_model(args: argparse.Namespace) -> EdgeModel:
    """That of --edge-model, learned first where there is no such file."""
    if not args.edge_model.exists():
        if args.config is None:
            raise ArgumentError(
                f"{args.edge_model} is not there, and without --config nothing to learn it from"
            )
        from export.similarity import of_part

        print(f"clustering: learning {args.edge_model}", file=sys.stderr, flush=True)
        of_part(labelled(Config.read(args.config, TRAIN))).save(args.edge_model)
    return EdgeModel.load(args.edge_model)


def by_method(name: str, config: Config, args: argparse.Namespace) -> Figures:
    """What a method for comparison makes of the files; its parameter is chosen on the training part
    of --config, or is the middle one of those tried."""
    if name not in METHODS:
        raise ArgumentError(f"no method {name}; one of {', '.join(METHODS)}")
    test, values = labelled(config), parameters(name)
    value: float | None = values[len(values) // 2]
    if args.config is not None and len(values) > 1:
        value = chosen(name, [prepared(labelled(Config.read(args.config, TRAIN)))])
    scores = agreement(test.labels, run(name, prepared(test)[0], value))
    prefix = f"clustering.files.{name}"
    return {f"{prefix}.parameter": value} | {f"{prefix}.{k}": v for k, v in scores.items()}


def kept_figures(args: argparse.Namespace) -> Figures:
    """What `--keep` names, or nothing."""
    if args.keep is None or not args.keep.exists():
        return {}
    found: Figures = json.loads(args.keep.read_text())["figures"]
    return found


def prepared(faces: Labelled) -> tuple[Faces, NDArray[np.int64]]:
    people = int(faces.labels.max()) + 1
    return Faces(faces.embeddings, neighbours(faces.embeddings, 64), people), faces.labels


def quality(features: Source, teacher: Source, args: argparse.Namespace) -> Figures:
    """Every method on the three test sets, with the parameter that has the best mean BCubed F over
    the three training sets."""
    training: list[tuple[Faces, NDArray[np.int64]]] = []
    before = kept_figures(args)
    testing = {k: prepared(v) for k, v in tests(features).items()}
    found: Figures = {}
    for name in ["ours", *METHODS, "agglomerative"]:
        if args.method and name not in args.method:
            continue
        if name in {"infomap_0_8", "infomap_tuned"} and not importlib.util.find_spec("infomap"):
            print(f"clustering: {name} is left out, infomap is not installed", file=sys.stderr)
            continue
        started = time.perf_counter()
        value = before.get(f"clustering.chosen.{features.name}.{name}")
        if value is None and name != "ours" and len(parameters(name)) > 1 and not training:
            sets = training_sets(features, teacher).values()
            training = [prepared(s) for s in sets]
        if value is None:
            value = chosen(name, training)
        prefix = f"{features.name}.{name}"
        if value is not None:
            found[f"clustering.chosen.{prefix}"] = value
        for test, (faces, truth) in testing.items():
            these = scores(f"clustering.{test}.{prefix}", truth, run(name, faces, value))
            told = {m: these[f"clustering.{test}.{prefix}.{m}"] for m in MAIN}
            print(f"clustering: {test} {prefix} {value} {told}", file=sys.stderr, flush=True)
            found |= these
        took = time.perf_counter() - started
        print(f"clustering: {prefix} {took:.0f} s", file=sys.stderr)
    return found


def chosen(name: str, training: list[tuple[Faces, NDArray[np.int64]]]) -> float | None:
    """The parameter with the best mean BCubed F on the training sets; None without a parameter."""
    if name == "ours":
        return None
    values = parameters(name)
    if len(values) == 1:
        return values[0]
    totals = np.zeros(len(values))
    for faces, truth in training:
        if name == "agglomerative":
            totals += [bcubed(truth, found).f for found in agglomerative(faces, values)]
        else:
            totals += [bcubed(truth, METHODS[name][0](faces, v)).f for v in values]
    return values[int(totals.argmax())]


def parameters(name: str) -> list[float]:
    """The values tried for the parameter of a method that is not ours."""
    return COSINES if name == "agglomerative" else METHODS[name][1]


def run(name: str, faces: Faces, value: float | None) -> NDArray[np.int32]:
    if name == "ours":
        return cluster(faces.embeddings).labels
    assert value is not None
    if name == "agglomerative":
        return next(agglomerative(faces, [value]))
    return METHODS[name][0](faces, value)


def scores(prefix: str, truth: NDArray[np.int64], labels: NDArray[np.int32]) -> Figures:
    pairs, cubes = pairwise(truth, labels), bcubed(truth, labels)
    found: Figures = {
        f"{prefix}.bcubed_f": cubes.f,
        f"{prefix}.bcubed_p": cubes.precision,
        f"{prefix}.bcubed_r": cubes.recall,
        f"{prefix}.pairwise_f": pairs.f,
        f"{prefix}.pairwise_p": pairs.precision,
        f"{prefix}.pairwise_r": pairs.recall,
        f"{prefix}.nmi": normalized_mutual_information(truth, labels),
        f"{prefix}.ari": adjusted_rand_index(truth, labels),
        f"{prefix}.fowlkes_mallows": fowlkes_mallows(truth, labels),
        f"{prefix}.singleton_rate": singleton_rate(labels),
        f"{prefix}.clusters": float(len(np.unique(labels))),
    }
    for size, these in bcubed_by_size(truth, labels).items():
        found[f"{prefix}.bcubed_f_by_size.{size}"] = these.f
    return found


def robustness(features: Source, args: argparse.Namespace) -> Figures:
    """All of LFW with 5 % unrecognisable crops mixed in, with 20 % added later, and reordered."""
    faces, truth = prepared(tests(features)["lfw"])
    whole = cluster(faces.embeddings)
    prefix = f"{features.name}"
    found: Figures = {}
    junk, junk_quality = unrecognisable(features, len(truth) // 20)
    together = np.concatenate([faces.embeddings, junk])
    mixed = cluster(together)
    gated = cluster(together, quality=np.concatenate([real_quality(features), junk_quality]))
    clean = pairwise(truth, whole.labels).f
    for name, clusters in (("unrated", mixed), ("rated", gated)):
        lost = clean - pairwise(truth, clusters.labels[: len(truth)]).f
        found[f"clustering.junk.{prefix}.{name}.pairwise_f_lost"] = lost
        found[f"clustering.junk.{prefix}.{name}.leaked"] = leaked(clusters, len(truth))
    found[f"clustering.junk.{prefix}.gated"] = float((junk_quality < MIN_QUALITY).mean())

    order = np.random.default_rng(0).permutation(len(truth))
    again = cluster(faces.embeddings[order])
    found[f"clustering.order.{prefix}.changed"] = float((again.labels != whole.labels[order]).sum())
    found |= added_later(
        prefix, faces.embeddings[order], truth[order], bcubed(truth, whole.labels).f
    )
    if features.name == "mobilefacenet":
        change = f"clustering.incremental.{prefix}.bcubed_f_change"
        found["clustering.incremental.bcubed_f_change"] = found[change]
    return found


def leaked(clusters: Clusters, faces: int) -> float:
    """The share of clusters of real faces that hold an unrecognisable crop."""
    real = set(clusters.labels[:faces].tolist()) - {-1}
    return len(real & set(clusters.labels[faces:].tolist())) / max(len(real), 1)


def unrecognisable(features: Source, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings of LFW crops reduced to 5 x 5 pixels, by thirds with noise, or blurred away, and
    what `edgeface.quality` gives such crops."""
    kept = features.kept(f"unrecognisable-{count}").with_suffix(".npz")
    if not kept.exists():
        crops = list(spoiled(features.shared, count))
        kept.parent.mkdir(parents=True, exist_ok=True)
        rows = features.open_embed()(np.stack(crops))
        np.savez(kept, rows=rows, quality=np.array([trust(c) for c in crops], np.float32))
    with np.load(kept) as raw:
        rows, quality = raw["rows"], raw["quality"]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), quality


def spoiled(shared: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    import cv2

    rng = np.random.default_rng(1)
    files = sorted((shared / FOLDERS["lfw"]).rglob("*.webp"))
    for i in rng.permutation(len(files))[:count]:
        crop = cv2.imread(str(files[i]))
        if i % 3 == 2:
            crop = cv2.GaussianBlur(crop, (0, 0), 18)
        else:
            crop = cv2.resize(cv2.resize(crop, (5, 5), interpolation=cv2.INTER_AREA), (112, 112))
        if i % 3 == 1:
            crop = np.clip(crop + rng.normal(0, 25, crop.shape), 0, 255).astype(np.uint8)
        yield crop


def real_quality(features: Source) -> NDArray[np.float32]:
    """What `edgeface.quality` gives the crops of LFW, in the order of its embeddings."""
    import cv2

    kept = features.cache / f"quality.{features.kept('lfw').stem}.npy"
    if not kept.exists():
        np.save(kept, np.array([trust(cv2.imread(str(f))) for f in features.files("lfw")], "f4"))
    quality: NDArray[np.float32] = np.load(kept)
    return quality


def trust(crop: NDArray[np.uint8]) -> float:
    """The quality of an aligned crop whose size and pose are as good as they can be."""
    face = Face(np.array([0, 0, 112, 112], np.float32), TEMPLATE, 1.0)
    return rate(face, crop, (112, 112))


def added_later(
    prefix: str, embeddings: NDArray[np.float32], truth: NDArray[np.int64], at_once: float
) -> Figures:
    """A pile of the first 80 %, to which the rest comes in batches of 100, then one by one."""

    first, single = int(len(truth) * 0.8), min(100, len(truth) // 20)
    names = [str(i) for i in range(len(truth))]
    pile = Pile.of(embeddings[:first], names[:first])
    batches = [*range(first, len(truth) - single, 100), len(truth) - single]
    started = time.perf_counter()
    for a, b in successive(batches):
        pile = pile.add(embeddings[a:b], names[a:b])[0]
    in_batches = time.perf_counter() - started
    started = time.perf_counter()
    for i in range(len(truth) - single, len(truth)):
        pile = pile.add(embeddings[i : i + 1], names[i : i + 1])[0]
    one_by_one = time.perf_counter() - started
    added = max(len(truth) - single - first, 1)
    return {
        f"clustering.incremental.{prefix}.bcubed_f_change": bcubed(truth, pile.people).f - at_once,
        f"clustering.incremental.{prefix}.ms_per_face_in_batches": in_batches / added * 1e3,
        f"clustering.incremental.{prefix}.ms_per_face_one_by_one": one_by_one / single * 1e3,
    }
