"""`python -m bench report`: pages, pictures and the README's table from bench/reports/*.json.

Each document becomes a page of the same name, made by `markdown(document)` of `bench.NAME_report`
or `bench.NAME` where there is such a function, and a list of all figures otherwise; README.md among
the reports is the page to begin with. Nothing is measured here, so it takes seconds and changes
nothing when nothing was measured anew. Folders among the reports are other machines: their
documents give the README's table a column each.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report_pages import measured, page

HERE = Path(__file__).parent
REPORTS = HERE / "reports"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- figures: python -m bench report -->", "<!-- /figures -->"
Documents = Mapping[str, Mapping[str, Any]]  # by bench

# One row of the README's table: what, this project's value, others', and the command. `{bench key}`
# stands for a figure; a format may follow after `|`, with `*100` before it to scale. A cell whose
# figures were not measured is left empty; a row without a value of this project is left out.
PIPE, RACE = "pipeline pipeline.640x360", "pipeline pipeline.1280x720"
RIVALS = {
    "insightface_style": "insightface-style",
    "insightface": "InsightFace",
    "uniface": "UniFace",
    "opencv": "OpenCV",
    "face_recognition": "face_recognition",
}
ROWS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    (
        "whole pipeline, 640×360, two threads",
        f"**{{{PIPE}.fps.onnxruntime|.0f}} frames/s**",
        tuple(f"{name} {{{PIPE}.fps.{p}|.3g}}" for p, name in RIVALS.items()),
        "pipeline --peers",
    ),
    (
        "the same, 1280×720",
        f"**{{{RACE}.fps.onnxruntime|.0f}} frames/s**",
        tuple(f"{name} {{{RACE}.fps.{p}|.3g}}" for p, name in RIVALS.items()),
        "the same",
    ),
    (
        "right / wrong names over that clip's frames, 640×360",
        f"{{{PIPE}.correct.onnxruntime|.0f}} / {{{PIPE}.wrong.onnxruntime|.0f}}",
        tuple(
            f"{name} {{{PIPE}.correct.{p}|.0f}} / {{{PIPE}.wrong.{p}|.0f}}"
            for p, name in RIVALS.items()
        ),
        "the same",
    ),
    (
        "processor time per frame, 640×360",
        f"{{{PIPE}.cpu_ms_per_frame.onnxruntime|.1f}} ms",
        tuple(f"{name} {{{PIPE}.cpu_ms_per_frame.{p}|.0f}} ms" for p, name in RIVALS.items()),
        "the same",
    ),
    (
        "cold start to the first name; resident memory",
        "{pipeline pipeline.cold_start_s|.2f} s; {pipeline pipeline.rss_mb|.0f} MB",
        (),
        "the same",
    ),
    (
        "wheel; installed with all it needs",
        "{size size.wheel_mb|.1f} MB; {size size.installed_mb|.0f} MB, "
        "{size size.direct_dependencies|.0f} direct dependencies",
        (),
        "size",
    ),
    (
        "models: embedder; detector",
        "{size size.model_mb.mobilefacenet|.2f} MB; {size size.model_mb.detector|.2f} MB",
        ("{size size.model_mb.original_mobilefacenet.fp16|.2f} MB original embedder",),
        "size",
    ),
    (
        "LFW, 10 folds",
        "{accuracy lfw.fp32|.2f} ± {accuracy lfw_std.fp32|.2f} %",
        ("{accuracy original.fp32.lfw|.2f} % original",),
        "accuracy --peers",
    ),
    (
        "INT8 embedder: size; LFW",
        "{size size.model_mb.mobilefacenet-int8|.2f} MB; {accuracy lfw.int8|.2f} %",
        (
            "{size size.model_mb.original_mobilefacenet.int8|.2f} MB; "
            "{accuracy original.int8.lfw|.2f} % original",
        ),
        "the same",
    ),
    (
        "LFW, true accepts at 1 false in 1,000",
        "{accuracy tar_at_far1e-3.fp32|.1f} %",
        ("{accuracy original.fp32.tar_at_far1e-3|.1f} % original",),
        "the same",
    ),
    (
        "embedding one face, one thread, ONNX Runtime",
        "{embed speed.onnxruntime.fp32.b1.fps|.0f} faces/s",
        ("{embed original.speed.onnxruntime.fp32.b1.fps|.0f} original",),
        "embed",
    ),
    (
        "the same in OpenVINO, INT8: embedder; edge embedder (its LFW)",
        "{embed speed.openvino.int8.b1.fps|.0f} faces/s; {embed edge.speed.openvino.int8.b1.fps"
        "|.0f} faces/s ({accuracy edge.lfw.int8|.2f} %)",
        ("{embed original.speed.openvino.int8.b1.fps|.0f} original",),
        "the same",
    ),
    (
        "detection, 640×480, one thread",
        "{detect detect.ms.640x480.onnxruntime|.1f} ms",
        ("{detect detect.ms.640x480.onnxruntime_teacher|.1f} ms its teacher YuNet",),
        "detect",
    ),
    (
        "detection, faces ≥ 40 px of the teacher found: stills; video",
        "{detect detect.scenes.recall40*100|.1f} %; {detect detect.clips.recall40*100|.1f} %",
        (),
        "the same",
    ),
    (
        "exact search of 360,000 × 512, int8 with proof",
        "{score score.int8.N360000.D512.Q1.t1.ms|.1f} ms",
        ("{score score.int8.N360000.D512.Q1.t1.ratio_to_best_peer|.1f} × as long the best peer",),
        "score",
    ),
    (
        "gallery of 1,000,000 pictures: best match found; one search; to open",
        "{gallery gallery.1M.recall_at_1*100|.1f} %; {gallery gallery.1M.search_ms|.2f} ms; "
        "{gallery gallery.1M.open_s|.1f} s",
        (
            "{gallery gallery.1M.hnswlib.recall_at_1*100|.1f} %; "
            "{gallery gallery.1M.hnswlib.search_ms|.2f} ms hnswlib alone",
        ),
        "gallery",
    ),
    (
        "whose video it is (YTF, rank 1): by one frame; by the track",
        "{video video.ytf.rank1.frame|.1f} %; {video video.ytf.rank1.track|.1f} %",
        (),
        "video",
    ),
    (
        "strangers named, 1,000 people enrolled, 1 % asked for",
        "{openset openset.fpir1e-2.N1000.measured*100|.2f} % ({openset openset.fpir1e-2.N1000.low"
        "*100|.2f}–{openset openset.fpir1e-2.N1000.high*100|.2f} % predicted)",
        (),
        "openset",
    ),
    *(
        (
            f"clustering all of LFW, embeddings of {whose}, BCubed F",
            f"{{clustering clustering.lfw.{features}.ours.bcubed_f|.3f}}",
            (
                f"Infomap {{clustering clustering.lfw.{features}.infomap_tuned.bcubed_f|.3f}}",
                f"Chinese Whispers "
                f"{{clustering clustering.lfw.{features}.chinese_whispers.bcubed_f|.3f}}",
            ),
            "clustering",
        )
        for features, whose in (("mobilefacenet", "ours"), ("original", "the original"))
    ),
    (
        "clustering 584,000 faces: all after the graph; memory beside the features",
        "{clustering clustering.scale.584k.after_knn_minutes|.1f} min; "
        "{clustering clustering.scale.584k.extra_gib|.2f} GiB",
        (
            "partition alone: {clustering clustering.scale.584k.partition.cpu_minutes|.1f} min, "
            "Infomap's {clustering clustering.scale.584k.infomap.cpu_minutes|.1f} min (processor)",
        ),
        "clustering --only scale --sizes 584000",
    ),
)
# The rows that README.md shows; the others are a click away, in the overview of the reports.
FRONT = (
    "whole pipeline, 640×360, two threads",
    "cold start to the first name; resident memory",
    "wheel; installed with all it needs",
    "LFW, 10 folds",
    "strangers named, 1,000 people enrolled, 1 % asked for",
)


# How `python -m bench --headline` measures those rows on another machine, by bench.
HEADLINE: dict[str, tuple[str, ...]] = {
    "pipeline": ("--widths", "640"),
    "size": (),
    "accuracy": ("--only", "view2"),
    "openset": (),
}


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Every document of a folder, by bench."""
    found = {f.stem: json.loads(f.read_text(encoding="utf-8")) for f in folder.glob("*.json")}
    return {name: found[name] for name in sorted(found)}


def elsewhere(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The documents of other machines, by their names: a folder for each, see `--headline`."""
    found = {f.name: read(f) for f in sorted(folder.iterdir()) if f.is_dir()}
    return {name: documents for name, documents in found.items() if documents}


def fill(template: str, documents: Documents) -> str | None:
    """A template with its figures, or None when one was not measured."""
    missing = False

    def put(match: re.Match[str]) -> str:
        nonlocal missing
        name, key, factor, form = match.groups()
        value = documents.get(name, {}).get("figures", {}).get(key)
        if value is None:
            missing = True
            return ""
        return format(value * float(factor or 1) if factor else value, form or "")

    text = re.sub(r"\{(\w+) ([^|}*]+)(?:\*([\d.]+))?(?:\|([^}]*))?\}", put, template)
    return None if missing else text


def origins(template: str, documents: Documents) -> str:
    """Commit and date of the documents whose figures a template shows."""
    names = dict.fromkeys(re.findall(r"\{(\w+) ", template))
    told = [measured(documents[n]).removeprefix("Commit ") for n in names]
    return "; ".join(dict.fromkeys(told))


def table(
    documents: Documents,
    titles: Collection[str] | None = None,
    machines: Mapping[str, Documents] | None = None,
) -> str:
    """The table of all rows, or of those with `titles`, with a column for each of other
    `machines`."""
    machines = machines or {}
    columns = ["", "edgeface", *(f"on {name}" for name in machines)]
    columns += ["others, same run", "`python -m bench …`", "measured"]
    lines = [f"| {' | '.join(columns)} |".replace("|  |", "| |"), "|---" * len(columns) + "|"]
    for what, own, others, command in ROWS:
        value = fill(own, documents)
        if value is not None and (titles is None or what in titles):
            beside = " · ".join(t for o in others if (t := fill(o, documents)) is not None)
            code = command if command == "the same" else f"`{command}`"
            there = [fill(own, d) or "" for d in machines.values()]
            cells = [what, value, *there, beside, code, origins(own, documents)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def origin(documents: Documents, machines: Mapping[str, Documents] | None = None) -> str:
    """What the figures of the table were measured on."""
    told = [f"Measured on {processors(documents)}"]
    told += [f"{name} is {processors(found)}" for name, found in (machines or {}).items()]
    return f"{'; '.join(told)}. Compare ratios, not machines."


def processors(documents: Documents) -> str:
    """The machines of documents."""
    machines = [d["machine"] for d in documents.values()]
    seen = {f"{m['cores']} cores of {m['cpu']}, Python {m['python']}" for m in machines}
    return "; ".join(sorted(seen))


def renewed(
    readme: str, documents: Documents, machines: Mapping[str, Documents] | None = None
) -> str:
    """A README with its table made anew.

    Raises:
        ValueError: the marks around the table are missing.
    """
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"the README needs the lines {BEGIN} and {END}")
    before, rest = readme.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    text = f"{table(documents, FRONT, machines)}\n\n{origin(documents, machines)}"
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def overview(documents: Documents, pictures: Sequence[tuple[str, str]]) -> str:
    """The page to begin with: the table of all rows, the pictures, the other pages."""
    lines = ["# Reports", "", "Written by `python -m bench report`.", "", table(documents), ""]
    lines += [origin(documents), ""]
    for file, caption in pictures:
        lines += [f"![{caption}]({file})", "", caption, ""]
    lines += ["| page | measured | figures | not produced |", "|---|---|---|---|"]
    for name, document in documents.items():
        values = list(document["figures"].values())
        empty = sum(v is None for v in values)
        at = measured(document).removeprefix("Commit ")
        lines.append(f"| [{name}]({name}.md) | {at} | {len(values)} | {empty or ''} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """Write everything anew."""
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__)
    parser.add_argument("--reports", type=Path, default=REPORTS, help="folder with the documents")
    parser.add_argument("--readme", type=Path, default=README)
    args = parser.parse_args(argv)
    from bench.report_pictures import draw

    documents = read(args.reports)
    unclean = [name for name, d in documents.items() if d["commit"].endswith("+")]
    if unclean:
        print(f"report: measure anew from a clean commit: {', '.join(unclean)}", file=sys.stderr)
    for name, document in documents.items():
        if not (HERE / f"{document['bench']}.py").exists():
            continue  # no bench of ours: its page came with it
        try:
            text = page(document)
        except ImportError as error:  # the bench itself needs more than its report
            print(f"report: {name}.md is left as it is: {error}", file=sys.stderr)
            continue
        (args.reports / f"{name}.md").write_text(text, encoding="utf-8")
    pictures = draw(documents, args.reports)
    text = overview(documents, pictures)
    (args.reports / "README.md").write_text(text, encoding="utf-8")
    readme = args.readme.read_text(encoding="utf-8")
    new = renewed(readme, documents, elsewhere(args.reports))
    args.readme.write_text(new, encoding="utf-8")
    return 0
