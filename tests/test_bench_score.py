"""bench.score and bench.submodels: what turns timings and answers into figures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
stats = pytest.importorskip("scipy.stats")

from bench import score, score_report, submodel_regimes, submodel_rules, submodel_sets, submodels  # noqa: E402
from bench.__main__ import main  # noqa: E402
from bench.timing import Timer, ratio  # noqa: E402
from edgeface.score import Votes  # noqa: E402
from edgeface.submodels import unit  # noqa: E402
from export.features import Features  # noqa: E402


def test_interleaving_times_what_runs() -> None:
    slow, fast = np.ones((400, 400), np.float32), np.ones((20, 20), np.float32)
    x = np.zeros((1, 4), np.float32)
    with Timer(1) as timer:
        seconds = timer.interleave({"slow": lambda _: slow @ slow, "fast": lambda _: fast @ fast},
                                   x, 3)  # fmt: skip
    assert seconds["slow"].shape == (3,) and ratio(seconds["slow"], seconds["fast"]) > 1


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(ValueError, match="use fewer"):
        Timer(100_000)


def test_the_best_peer_is_one_float_peer() -> None:
    seconds = {"fp32": np.array([2.0, 2, 2]), "numpy": np.array([1.0, 6, 6]),
               "torch": np.array([4.0, 4, 4]),
               "onnxruntime_int8": np.array([1.0, 1, 1])}  # fmt: skip
    found = score._against("k", seconds, "fp32", ["numpy", "torch", "onnxruntime_int8"])
    assert found["k.best_peer"] == "torch" and found["k.ratio_to_best_peer"] == 2
    assert found["k.ratio_to_onnxruntime_int8"] == 0.5


def test_parts_run_where_they_say() -> None:
    sizes = [10_000, 100_000]
    assert score._runs("peers", 10_000, sizes, quick=False)
    assert not score._runs("kernels", 10_000, sizes, quick=False)
    assert score._runs("linear", 100_000, sizes, quick=False)
    assert not score._runs("memory", 100_000, sizes, quick=False)


def test_a_document_collects_runs_and_marks_misses(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "score.json"
    args = argparse.Namespace(update=path)
    cell = "score.fp32.N360000.D512.Q{}.t1.fraction_of_ceiling"
    score._kept({cell.format(1): 0.5, cell.format(8): 0.9}, args)
    score._kept({cell.format(1): 0.6, "score.int8.N10.D8.decisions_differing": 2.0,
                 "score.int8.N10.D8.Q1.t1.ratio_to_best_peer": 0.7}, args)  # fmt: skip
    document = json.loads(path.read_text())
    assert document["figures"][cell.format(1)] == 0.6 and document["figures"][cell.format(8)] == 0.9
    assert document["figures"]["score.int8.decisions_differing"] == 2
    tables = path.with_suffix(".md").read_text()
    assert "| **0.6** | 0.9 |  | 0.88 / 0.75 / 0.88 |" in tables
    assert "- `score.int8.N10.D8.Q1.t1.ratio_to_best_peer` 0.70" in tables


def test_totals_sum_over_cells() -> None:
    cells = {f"score.int8.N{n}.D8.decisions_differing": 1.0 for n in (1, 2, 3)}
    assert score_report.totals(cells) == {"score.int8.decisions_differing": 3.0}
    assert score_report.totals({"score.int8.N1.D8.Q1.t1.ms": 1.0}) == {}


def test_mcnemar_is_the_exact_binomial_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 200)) < [[0.7], [0.6]]
    only = int((first & ~second).sum()), int((second & ~first).sum())
    expected = stats.binomtest(min(only), sum(only)).pvalue
    assert submodels.mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert submodels.mcnemar(first, first) == 1


def test_the_original_mixes_up_classes_past_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submodel_rules, "BATCH_ORIGINAL", 3)
    w = np.eye(4, dtype=np.float32)
    x = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]
    sim, some = np.array([0, 1, 2, 3, 0]), np.zeros(5, np.float32)
    wrong = submodel_rules._original(
        Votes(sim, sim, some, some, some, some), w, x, np.zeros(4, int)
    )
    # The fourth probe reads the class of the first, the fifth that of the second.
    assert wrong.a_prime.tolist() == [1, 1, 1, 0, 0]


def test_the_generator_has_the_spread_it_was_fitted_to() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(150), 12)
    spread = rng.choice([0.02, 0.06], (150, 1))[y]
    x = unit(unit(rng.standard_normal((150, 24)))[y] + spread * rng.standard_normal((len(y), 24)))
    real = Features(x, y, [str(i) for i in range(150)])
    drawn = submodel_sets.synthetic(400, submodel_sets.fit(real), seed=1)
    want, got = submodel_sets.cosines(real), submodel_sets.cosines(drawn.train)
    for key in ("genuine_cosine", "impostor_cosine", "impostor_cosine_sd"):
        assert got[key] == pytest.approx(want[key], abs=0.02), key
    assert len(drawn.test.y) == 400 * submodel_sets.TEST
    again = submodel_sets.synthetic(400, submodel_sets.fit(real), seed=1)
    np.testing.assert_array_equal(again.test.x, drawn.test.x)


def test_every_rule_is_judged_and_one_is_advised() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(40), 12)
    centres = unit(rng.standard_normal((40, 16)))
    x = unit(centres[y] + 0.2 * rng.standard_normal((len(y), 16)))
    known = Features(x, y, [str(i) for i in range(40)])
    strangers = unit(rng.standard_normal((300, 16)))
    people = submodel_sets.Faces(known, strangers, np.arange(40) < 20, "toy", "0" * 64)
    found = submodels.evaluate("toy", people.draw, 2, 1, submodels=3)
    assert all(0 < float(found[f"submodels.toy.{r}.accuracy"] or 0) <= 1 for r in submodels.RULES)
    assert found["submodels.toy.default"] in submodels.RULES
    assert str(found["submodels.toy.advice"]).startswith("pick ")


def test_a_set_of_ones_own_is_judged_by_every_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 24))
    for part, each in (("train", 20), ("val", 5), ("test", 5), ("others", 20)):
        (tmp_path / "my set" / part).mkdir(parents=True)
        middle = rng.standard_normal((12, 24)) if part == "others" else centres
        for c in range(12):
            rows = middle[c] + 1.2 * rng.standard_normal((each, 24))
            np.savez(tmp_path / "my set" / part / f"{c:03d}.npz", rows.astype(np.float32))
    out = tmp_path / "out.json"
    line = ["submodels", "--dataset", str(tmp_path / "my set"), "--quick", "--submodels", "3"]
    assert main([*line, "--update", str(out)]) == 0
    found = json.loads(out.read_text())["figures"]
    for rule in submodels.RULES:
        values = [found[f"submodels.my_set.{rule}.{k}"] for k in ("precision", "recall", "f1")]
        assert all(0.3 < v <= 1 for v in values) and found[f"submodels.my_set.{rule}.tpir"] is None
    assert "| mixmaxsim |" in out.with_suffix(".md").read_text()
    strangers = ["--strangers", str(tmp_path / "my set" / "others"), "--update", str(out)]
    assert main([*line, *strangers]) == 0
    tpir = json.loads(out.read_text())["figures"]["submodels.my_set.sim.tpir"]
    assert 0 < tpir <= found["submodels.my_set.sim.accuracy"]
    assert main(["submodels", "--dataset", str(tmp_path)]) == 1
    assert "expected folders train" in capsys.readouterr().err


def test_regimes_are_searched_on_a_set_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 16))
    for part, each in (("train", 12), ("val", 3), ("test", 3), ("others", 20)):
        (tmp_path / "mine" / part).mkdir(parents=True)
        middle = rng.standard_normal((30, 16)) if part == "others" else centres
        for c in range(30):
            rows = middle[c] + 0.5 * rng.standard_normal((each, 16))
            np.savez(tmp_path / "mine" / part / f"{c:03d}.npz", rows.astype(np.float32))
    wanted = {"base", "heads apart", "real", "real, a quarter of the heads failed"}
    plan = tuple(r for r in submodel_regimes.PLAN if r.name in wanted)
    monkeypatch.setattr(submodel_regimes, "PLAN", (*plan, submodel_regimes.LARGE))
    out = tmp_path / "regimes.json"
    line = ["submodels", "--regimes", "--quick", "--dataset", str(tmp_path / "mine")]
    line += ["--strangers", str(tmp_path / "mine" / "others"), "--update", str(out)]
    assert main(line) == 0
    found = json.loads(out.read_text())["figures"]
    for name in [*wanted, "100,000 classes"]:
        for metric in ("accuracy", "tpir"):
            at = f"regimes.{name}.{metric}"
            for rule in (*submodel_regimes.RIVALS, "mixmaxsim"):
                assert 0 <= found[f"{at}.{rule}"] <= 1
            assert found[f"{at}.wins"] in {"no", "confirmed", "by chance"}
    # A head that was never trained names nobody of its own; the class means do.
    at = "regimes.real, a quarter of the heads failed.accuracy"
    assert found[f"{at}.kmeans"] < 0.85 and found[f"{at}.sim"] > 0.95
    written = out.with_suffix(".md").read_text()
    assert "| real |" in written and submodels.markdown(json.loads(out.read_text())) == written


def test_mixmaxsim_wins_a_regime_only_against_every_rule() -> None:
    def run(seed: int, **better: float) -> dict[str, dict[str, object]]:
        rng = np.random.default_rng(seed)
        rates = dict.fromkeys((*submodel_regimes.RIVALS, "mixmaxsim"), 0.5) | better
        hit = rng.random(4000)
        return {rule: {"right": hit < rate, "tpir": None} for rule, rate in rates.items()}

    wins = "regimes.base.accuracy.wins"
    best = [run(seed, mixmaxsim=0.6) for seed in range(4)]
    assert submodel_regimes.told(submodel_regimes.BASE, best)[wins] == "yes"
    second = [run(seed, mixmaxsim=0.6, fold=0.6) for seed in range(4)]
    assert submodel_regimes.told(submodel_regimes.BASE, second)[wins] == "no"
    low, high = submodel_regimes.interval(np.array([0.1, 0.2, 0.3]))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 2, 0.2, 0.1 / np.sqrt(3)), abs=1e-4)


def test_pairs_of_one_file_flatter_what_knows_nothing(tmp_path: Path) -> None:
    """LFW's layout, people mostly of one picture."""
    rng = np.random.default_rng(0)
    lines = ["2\t10"]
    for person in range(80):
        folder = tmp_path / "aligned112" / f"P{person}"
        folder.mkdir(parents=True)
        for k in range(1 if person < 60 else 3):
            noise = rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)
            assert cv2.imwrite(str(folder / f"P{person}_{k + 1:04d}.webp"), noise)
    for fold in range(2):
        lines += [f"P{60 + 10 * fold + i}\t1\t2" for i in range(10)]
        lines += [f"P{30 * fold + i}\t1\tP{30 * fold + i + 10}\t1" for i in range(10)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out.json"
    line = ["pairs", "--lfw", str(tmp_path), "--embedder", "mobilefacenet-edge", "--quick"]
    assert main([*line, "--json", str(out)]) == 0
    got = json.loads(out.read_text())["figures"]
    share = got["pairs.origin.positives_of_one_file"]
    assert share > 0.6
    # One person where it is one file: all of these are right, the other positives wrong.
    assert got["pairs.origin.same_file.f1"] == pytest.approx(2 * share / (1 + share), abs=0.05)
    assert got["pairs.folds.same_file.accuracy"] == 0.5  # never the same file: it knows nothing
    assert got["pairs.origin.pixels.f1"] > 0.75 > got["pairs.folds.pixels.accuracy"] + 0.05
    assert main(["pairs", "--lfw", str(tmp_path / "none"), "--quick"]) == 1
