"""A small dose of `python -m bench faults`: what was acknowledged survives."""

from __future__ import annotations

from pathlib import Path

from bench import faults

pytest_plugins = ("gallery_places",)


def test_kill_in_the_middle_of_enrolments(folder: Path) -> None:
    outcome = faults.kill(folder, "enroll", rounds=2, most=15)
    assert (outcome.rounds, outcome.lost, outcome.half) == (2, 0, 0)
    assert outcome.acknowledged >= 2


def test_kill_in_the_middle_of_any_change(folder: Path) -> None:
    outcome = faults.kill(folder, "mixed", rounds=3, most=15)
    assert (outcome.rounds, outcome.lost, outcome.half) == (3, 0, 0)


def test_a_full_disk_refuses_and_loses_nothing(folder: Path) -> None:
    outcome = faults.fill(folder, rounds=1)
    assert (outcome.lost, outcome.half) == (0, 0)
    assert outcome.refused > 0
    assert outcome.acknowledged > 0


def test_processes_and_threads_share_a_gallery(folder: Path) -> None:
    result = faults.load(folder, processes=2, threads=2, seconds=2.0)
    assert result["errors"] == result["lost"] == 0
    assert result["changes"] > 0
    assert result["searches"] > 0
