"""edgeface.submodels: the rules, the file, and files that were damaged."""

import copy
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface import score
from edgeface.errors import BankError
from edgeface.submodels import Rule, SubmodelBank, calibrate, choose, tune, unit
from edgeface.types import Status, Threshold

N, D, K = 90, 48, 4
NAMES = [f"Zoë {i}" for i in range(N)]


@pytest.fixture
def heads() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((N, D)))
    weights = unit(centres + 0.05 * rng.standard_normal((N, D)))
    return weights, centres, rng.integers(0, K, N)


def pack(heads: tuple[np.ndarray, np.ndarray, np.ndarray], kind: str = "mixmaxsim") -> SubmodelBank:
    weights, centres, submodel = heads
    rule = Rule(kind, tau=0.9, gamma=0.8, fold=0.3, threshold=0.6, origin="card")  # type: ignore[arg-type]
    return SubmodelBank.pack(
        weights, centres, submodel, names=NAMES, rule=rule, embedder="a" * 64
    )  # fmt: skip


def probes(heads: tuple[np.ndarray, np.ndarray, np.ndarray], noise: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(1)
    return unit(heads[1] + noise * rng.standard_normal((N, D)))


def votes(**scores: float) -> score.Votes:
    one = {k: np.array([v], dtype=np.float32) for k, v in scores.items()}
    return score.Votes(np.array([0]), np.array([1]), **one)


def test_rule_follows_its_definition() -> None:
    v = votes(a=0.5, a_prime=0.2, b=0.6, b_prime=0.1)
    assert choose(v, Rule("maxmax"))[0] == 0
    assert choose(v, Rule("sim"))[0] == 1
    # tau b (1 + a') / 2 = tau 0.36 against a (1 + b') / 2 = 0.275
    assert choose(v, Rule("mixmaxsim", tau=0.77, gamma=1))[0] == 1
    assert choose(v, Rule("mixmaxsim", tau=0.76, gamma=1))[0] == 0
    assert choose(v, Rule("mixmaxsim", tau=2, gamma=0.49))[0] == 0
    np.testing.assert_allclose(choose(v, Rule("mixmaxsim", tau=1))[1], 0.4, rtol=1e-6)


@pytest.mark.parametrize("kind", ["maxmax", "sim", "mixmaxsim", "fold"])
def test_bank_finds_its_people_and_rejects_others(
    heads: tuple[np.ndarray, np.ndarray, np.ndarray], kind: str
) -> None:
    bank = pack(heads, kind)
    found = bank.identify(probes(heads))
    assert [d.name for d in found] == NAMES
    assert {d.threshold.origin for d in found} == {"card"}
    strangers = unit(np.random.default_rng(9).standard_normal((20, D)))
    assert {d.status for d in bank.identify(strangers)} == {Status.UNKNOWN}
    assert len(bank) == N and bank.submodels == K


def test_save_and_load_give_the_same_answers(
    heads: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    bank, path = pack(heads), tmp_path / "bank.efb"
    bank.save(path)
    x = probes(heads, 0.3)
    want = bank.vote(x, softmax=True)
    for storage in ("int8", "float"):
        loaded = SubmodelBank.load(path, embedder="a" * 64, storage=storage, verify=True)  # type: ignore[arg-type]
        got = loaded.vote(x, softmax=True)
        for field in ("maxmax", "sim", "a", "a_prime", "b", "b_prime"):
            np.testing.assert_array_equal(getattr(got, field), getattr(want, field))
        assert want.submodels is not None and got.submodels is not None
        np.testing.assert_array_equal(got.submodels.argmax, want.submodels.argmax)
        assert loaded.rule == bank.rule and list(loaded.names) == NAMES
        assert loaded.names[-3:] == NAMES[-3:]
    assert [p.name for p in tmp_path.iterdir()] == ["bank.efb"]


def test_fold_keeps_one_matrix(heads: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    weights, centres, _ = heads
    bank, x = pack(heads, "fold"), probes(heads)
    assert bank.centres is None
    folded = unit(0.3 * weights + 0.7 * centres)
    np.testing.assert_allclose(bank.classify(x)[1], (x @ folded.T).max(axis=1), atol=1e-3)


def test_tune_prefers_what_is_right() -> None:
    rng = np.random.default_rng(0)
    n = 400
    truth = np.arange(n)
    sim_right = rng.random(n) < 0.9
    scores = {k: rng.uniform(0.3, 0.6, n).astype(np.float32) for k in ("a", "b")}
    cross = {k: np.zeros(n, np.float32) for k in ("a_prime", "b_prime")}
    v = score.Votes(
        np.where(sim_right, truth + 1, truth), np.where(sim_right, truth, truth + 1),
        **scores, **cross,
    )  # fmt: skip
    rule = tune(v, truth)
    accuracy = (choose(v, rule)[0] == truth).mean()
    assert accuracy >= (v.maxmax == truth).mean() and accuracy > 0.85
    with pytest.raises(ValueError, match="no validation"):
        tune(votes(a=0, a_prime=0, b=0, b_prime=0), np.array([]))


def test_calibrated_threshold_keeps_its_promise() -> None:
    sample = np.random.default_rng(0).normal(0.2, 0.05, 1000).astype(np.float32)
    threshold = calibrate(sample, 0.01, 512)
    assert (sample >= threshold.value).sum() == 10
    assert threshold.origin == "calibrated:fpir=1e-2@N=512"
    with pytest.raises(ValueError, match="at least 1000"):
        calibrate(sample[:500], 0.001, 512)


def test_wrong_input_is_named(heads: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    weights, centres, submodel = heads
    with pytest.raises(BankError, match="none of"):
        Rule("guess")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same classes"):
        SubmodelBank.pack(
            weights, centres[:5], submodel, names=NAMES, rule=Rule("sim"), embedder="x"
        )
    with pytest.raises(ValueError, match="no direction"):
        unit(np.zeros((2, 3)))


def test_other_embedder_is_refused(
    heads: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    pack(heads).save(tmp_path / "b.efb")
    with pytest.raises(BankError, match="made with embedder aaaaaaaaaaaa, not bbbb"):
        SubmodelBank.load(tmp_path / "b.efb", embedder="b" * 64)
    with pytest.raises(BankError, match="cannot be read"):
        SubmodelBank.load(tmp_path / "missing.efb")


def test_every_flipped_header_byte_is_noticed(
    heads: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "b.efb"
    pack(heads).save(path)
    whole = path.read_bytes()
    header = 20 + int.from_bytes(whole[12:16], "little")
    for at in range(header):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(BankError):
            SubmodelBank.load(path)


def test_every_truncation_is_noticed(
    heads: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "b.efb"
    pack(heads).save(path)
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 50).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(BankError):
            SubmodelBank.load(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(BankError):
        SubmodelBank.load(path)


def test_damaged_data_never_crashes(
    heads: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """Data are not read on load; verify finds damage, and using it is an error or an answer."""
    path, rng, x = tmp_path / "b.efb", np.random.default_rng(0), probes(heads)[:3]
    pack(heads).save(path)
    whole = path.read_bytes()
    header = 20 + int.from_bytes(whole[12:16], "little")
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        begin = int(rng.integers(header, len(whole)))
        end = min(len(whole), begin + int(rng.integers(1, 4096)))
        data[begin:end] = rng.bytes(end - begin)
        path.write_bytes(data)
        with pytest.raises(BankError):
            SubmodelBank.load(path, verify=True)
        try:
            with np.errstate(all="ignore"):
                assert len(SubmodelBank.load(path).identify(x)) == 3
        except (BankError, ValueError):
            refused += 1
    assert refused < 60


def test_a_rule_that_nobody_calibrated_names_nobody(
    heads: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    weights, centres, submodel = heads
    assert Rule("sim").threshold is None and Rule("sim", threshold=-1.0).threshold is None
    bank = SubmodelBank.pack(
        weights, centres, submodel, names=NAMES, rule=Rule("sim"), embedder="a" * 64
    )
    bank.save(tmp_path / "b.efb")
    for one in (bank, SubmodelBank.load(tmp_path / "b.efb")):
        assert one.threshold is None
        with pytest.raises(BankError, match="no threshold"):
            one.identify(probes(heads))
        given = one.with_threshold(Threshold(0.7, "card"))
        assert {d.threshold for d in given.identify(probes(heads))} == {Threshold(0.7, "card")}
        assert [d.name for d in given.identify(probes(heads))] == NAMES
    with pytest.raises(BankError, match="not finite"):
        Rule("sim", threshold=float("nan"))


def test_a_bank_file_that_stored_minus_one_was_never_calibrated(
    heads: tuple[np.ndarray, np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Banks of version 1.0 wrote -1 of origin `user` where no strangers had been given."""
    bank = pack(heads)
    monkeypatch.setattr(
        "edgeface.submodels.asdict",
        lambda rule: {"kind": rule.kind, "threshold": -1.0, "origin": "user"},
    )
    bank.save(tmp_path / "old.efb")
    assert SubmodelBank.load(tmp_path / "old.efb").threshold is None


HOSTILE = (
    *(-1, 0, 1, 2**31, 2**63, 10**30, 1.5, None, "x", [], {}, True, -(2**63), 63, 64),
    *([1] * 4, ["uint8", [1], 0, 0], {"value": {}}, "\0", [[]]),
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_bank_with_a_hostile_header_answers_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, 64)).astype(np.float32)
    file = tmp_path_factory.getbasetemp() / "hostile.bank"
    SubmodelBank.pack(
        rows,
        rows,
        submodel=rng.integers(0, 3, 30),
        names=[f"n{i}" for i in range(30)],
        rule=Rule("mixmaxsim", threshold=0.2),
        embedder="x" * 64,
    ).save(file)
    raw = file.read_bytes()
    head = struct.Struct("<8sIII")
    magic, version, length, _ = head.unpack_from(raw)
    document = json.loads(raw[head.size : head.size + length])
    for _ in range(data.draw(st.integers(1, 2))):
        place: Any = document
        while True:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(keys))
            if not (
                isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans())
            ):
                break
            place = place[key]
        place[key] = copy.deepcopy(data.draw(st.sampled_from(HOSTILE)))
    whole = data.draw(st.sampled_from([None, None, None, b"[" * 100_000, b'{"size": NaN}', b"[1]"]))
    text = json.dumps(document).encode() if whole is None else whole
    text = text.ljust(-(-(head.size + len(text)) // 64) * 64 - head.size)
    crc = zlib.crc32(head.pack(magic, version, len(text), 0) + text)
    body = raw[head.size + length :]
    file.write_bytes(head.pack(magic, version, len(text), crc) + text + body)
    try:
        bank = SubmodelBank.load(file, verify=data.draw(st.booleans()))
        [str(name) for name in bank.names]
        bank.identify(rows[:3] / np.linalg.norm(rows[:3], axis=1, keepdims=True))
    except BankError as error:
        assert len(str(error)) < 500
