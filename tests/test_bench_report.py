"""The runner, the report and the README's table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

from bench import __main__ as runner
from bench import report
from bench.report_pages import page


def document(name: str, **figures) -> dict:
    machine = {"cpu": "X", "cores": 2, "python": "3.11.7"}
    return {"bench": name, "machine": machine, "commit": "abc1234", "figures": figures}


def test_a_template_takes_its_figures_and_their_formats() -> None:
    found = {"size": document("size", **{"size.wheel_mb": 2.646, "share": 0.9152, "who": "ann"})}
    assert report.fill("{size size.wheel_mb|.1f} MB", found) == "2.6 MB"
    assert report.fill("{size share*100|.1f} % by {size who}", found) == "91.5 % by ann"
    assert report.fill("{size size.none|.1f}", found) is None
    assert report.fill("{none size.wheel_mb|.1f}", found) is None


def test_a_row_without_an_own_figure_is_left_out_and_a_missing_peer_is_empty() -> None:
    key = "pipeline.640x360.fps."
    alone = {"pipeline": document("pipeline", **{f"{key}onnxruntime": 125.4})}
    lines = report.table(alone).splitlines()
    assert len(lines) == 3
    assert "**125 frames/s** |  |" in lines[2]
    alone["pipeline"]["figures"][f"{key}opencv"] = 40.2
    assert "| OpenCV 40.2 |" in report.table(alone)


def test_a_row_says_from_which_commits_and_days_its_figures_come() -> None:
    found = {
        "size": document("size", **{"size.wheel_mb": 1.0}) | {"date": "2026-11-25"},
        "embed": document("embed", x=1.0) | {"commit": "fff0000"},
    }
    assert report.origins("{size size.wheel_mb|.1f}; {size x}", found) == "abc1234, 2026-11-25"
    assert report.origins("{size y} {embed x}", found) == "abc1234, 2026-11-25; fff0000"
    assert "Commit abc1234, 2026-11-25;" in page(found["size"])


def test_reports_take_figures_of_clean_commits_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = [runner.REPORTS, runner.REPORTS / "x.json", runner.REPORTS / ".." / "reports" / "y"]
    for target in inside:
        assert runner.refusal([None, target], "abc1234") is None
        for commit in ("abc1234+", "unknown"):
            told = runner.refusal([None, target], commit)
            assert told is not None and "clean commits only" in told
    assert runner.refusal([None, tmp_path, "figures.json"], "abc1234+") is None

    # Before anything is measured: a bench takes hours.
    monkeypatch.setattr(runner, "commit", lambda: "abc1234+")
    monkeypatch.setattr(runner.subprocess, "run", lambda *a, **b: pytest.fail("measured"))
    assert runner.main(["size", "--json", str(runner.REPORTS / "size.json")]) == 2
    assert runner.main(["size", "embed", "--json"]) == 2
    assert runner.main(["submodels", "--update", str(runner.REPORTS / "submodels.json")]) == 2
    assert capsys.readouterr().err.count("Commit first, or give --json another place") == 3


def test_alone_it_lists_the_benches_and_starts_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []
    monkeypatch.setattr(runner, "several", lambda names, args: started.append(list(names)) or 0)
    assert runner.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert set(runner.NAMES) <= set(listed) and started == []
    assert all(len(line.split()) > 3 for line in listed.values())
    assert runner.main(["--quick"]) == 0
    assert runner.main(["--all"]) == 0
    assert started == [list(runner.NAMES)] * 2
    with pytest.raises(SystemExit):
        runner.main(["--json"])


def test_several_run_in_turn_or_side_by_side_and_fail_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\nname=$3\necho "figures of $name"\necho "about $name" >&2\n[ "$name" != size ]\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(program))
    for options in ([], ["--quick"]):
        assert runner.main(["embed", "size", "score", *options]) == 1
        out, err = capfd.readouterr()
        assert [line for line in out.splitlines() if line] == [
            line
            for name in ("embed", "size", "score")
            for line in (f"== {name}", f"figures of {name}")
        ]
        assert err.splitlines()[-1] == "bench: size failed"
        assert "about score" in err
    assert runner.main(["embed", "score", "--quick"]) == 0


def test_only_the_part_between_the_marks_is_renewed() -> None:
    found = {"pipeline": document("pipeline", **{"pipeline.640x360.fps.onnxruntime": 100.0})}
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    new = report.renewed(text, found)
    assert new.startswith(f"before\n{report.BEGIN}\n| |") and new.endswith(f"{report.END}\nafter\n")
    assert "old" not in new and "100 frames/s" in new and "2 cores of X" in new
    assert report.renewed(new, found) == new
    with pytest.raises(ValueError, match="figures"):
        report.renewed("no marks", found)


def test_the_readme_shows_five_rows_that_there_are() -> None:
    titles = [title for title, *_ in report.ROWS]
    assert len(report.FRONT) == 5 and set(report.FRONT) <= set(titles)
    every = report.read(report.REPORTS)
    front = report.table(every, report.FRONT).splitlines()
    assert len(front) == 2 + 5 < len(report.table(every).splitlines())


def test_a_page_shows_every_figure_in_sections() -> None:
    figures = {"size.wheel_mb": 2.6464, "size.model_mb.a": 12000.0, "size.model_mb.b": None}
    text = page(document("size", **figures))
    assert "| wheel_mb | 2.646 |" in text
    assert "## model_mb" in text and "| a | 12,000 |" in text and "| b |  |" in text


def test_rows_that_share_a_column_share_a_table() -> None:
    figures = {"x.a.tar.mean": 1.0, "x.a.tar.best": 2.0, "x.a.rank.best": 3.0, "x.a.ms.decode": 4.0}
    text = page(document("size", **{f"size.{k}": v for k, v in figures.items()}))
    assert "## x.a\n\n| | mean | best |\n|---|---|---|\n| tar | 1 | 2 |\n| rank |  | 3 |\n" in text
    assert "## x.a.ms\n\n| | |\n|---|---|\n| decode | 4 |\n" in text


def test_a_report_is_written_from_documents_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rate = {"pipeline.640x360.fps.onnxruntime": 100.0, "pipeline.640x360.stage_ms.detect": 4.0}
    (tmp_path / "pipeline.json").write_text(json.dumps(document("pipeline", **rate)))
    readme = tmp_path / "R.md"
    readme.write_text(f"{report.BEGIN}\n{report.END}\n")
    arguments = ["report", "--reports", str(tmp_path), "--readme", str(readme)]
    assert runner.main(arguments) == 0
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert {"README.md", "pipeline.md", "pipeline.svg", "stages.svg"} <= set(first)
    assert "search.svg" not in first
    assert runner.main(arguments) == 0
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first


def test_the_readme_says_what_the_reports_say() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    machines = report.elsewhere(report.REPORTS)
    assert report.renewed(text, report.read(report.REPORTS), machines) == text, (
        "run python -m bench report"
    )


def test_figures_must_be_numbers() -> None:
    bad = {"a": float("nan"), "b": float("inf"), "c": None, "d": "text", "e": 1.0, "f": [1]}
    assert runner.wrong(bad) == ["a", "b", "f"]


def test_every_bench_is_found_and_an_unknown_one_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert {"pipeline", "size", "embed", "score", "accuracy"} <= set(runner.NAMES)
    assert not {"report", "pipeline_clips", "score_memory"} & set(runner.NAMES)
    with pytest.raises(SystemExit) as stop:
        runner.main(["pipeline", "size", "nope"][2:])
    assert stop.value.code == 2
    assert "no bench nope" in capsys.readouterr().err


def test_a_failing_bench_makes_the_runner_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Toy:
        """A bench."""

        @staticmethod
        def figures(args) -> dict:
            return {"toy.x": float("nan") if args.quick else 1.5}

    monkeypatch.setattr(runner.importlib, "import_module", lambda name: Toy)
    assert runner.one("toy", ["--json", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "toy.json").read_text())
    assert written["figures"] == {"toy.x": 1.5}
    assert written["command"] == f"python -m bench toy --json {tmp_path.name}"
    assert {"cpu", "cores", "python", "numpy"} <= set(written["machine"])
    assert "toy.x  1.5" in capsys.readouterr().out
    assert runner.one("toy", ["--quick"]) == 1
    assert "no number for toy.x" in capsys.readouterr().err


def test_another_machine_gets_a_column(tmp_path: Path) -> None:
    key = "pipeline.640x360.fps.onnxruntime"
    (tmp_path / "pipeline.json").write_text(json.dumps(document("pipeline", **{key: 100.0})))
    (tmp_path / "a board").mkdir()
    slower = document("pipeline", **{key: 40.0}) | {
        "machine": {"cpu": "Y", "cores": 4, "python": "3"}
    }
    (tmp_path / "a board" / "pipeline.json").write_text(json.dumps(slower))
    (tmp_path / "empty").mkdir()
    machines = report.elsewhere(tmp_path)
    assert list(machines) == ["a board"]
    text = report.renewed(f"{report.BEGIN}\n{report.END}", report.read(tmp_path), machines)
    assert "| | edgeface | on a board | others, same run |" in text
    assert "**100 frames/s** | **40 frames/s** |" in text
    assert "2 cores of X" in text and "a board is 4 cores of Y" in text


def test_the_headline_measures_the_front_rows_into_a_folder_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shown = [own for title, own, *_ in report.ROWS if title in report.FRONT]
    used = {name for own in shown for name in re.findall(r"\{(\w+) ", own)}
    assert used == set(report.HEADLINE)
    lines: dict[str, list[str]] = {}

    def run(commands):
        lines.update(commands)
        return [(name, 0) for name in commands]

    monkeypatch.setattr(runner, "_in_turn", run)
    assert runner.main(["--headline", "a board", "--json", str(tmp_path / "out")]) == 0
    assert set(lines) == used
    assert lines["pipeline"][-2:] == ["--widths", "640"]
    assert all(str(tmp_path / "out") in line for line in lines.values())
    assert runner.main(["--headline", "../x"]) == 2
    assert "letters" in capsys.readouterr().err
