"""What a card says is obeyed, or refused with the file, the place and what was expected."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FakeSession, write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.detect import Detector
from edgeface.doctor import checks
from edgeface.embed import Embedder
from edgeface.errors import ModelError
from edgeface.metrics import Interval
from edgeface.models import (
    WEIGHTS,
    FileRef,
    FusionSpec,
    Group,
    InputSpec,
    ModelCard,
    cards,
    load_card,
    read_card,
    write_card,
)

TOY = (Path(__file__).parent / "toys" / "embedder.onnx").read_bytes()
SHIPPED = sorted(WEIGHTS.glob("*.json"))
CROPS = np.random.default_rng(5).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)


def spec(**fields: Any) -> dict[str, Any]:
    return {"name": "image", **fields}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_a_shipped_card_is_written_back_as_it_was(file: Path, tmp_path: Path) -> None:
    card = read_card(file)
    again = write_card(replace(card, path=tmp_path / card.path.name))
    assert again.read_text(encoding="utf-8") == file.read_text(encoding="utf-8")


def test_everything_a_card_can_say_survives_the_file(tmp_path: Path) -> None:
    part = FileRef(tmp_path / "toy.update.onnx", "1" * 64)
    card = replace(
        read_card(write_model(tmp_path, "toy", TOY)),
        input=InputSpec(
            "data", "NHWC", "BGR", (-1.0, 1.0), (0.5, 0.25, 0.0), (2.0, 1.0, 0.5), (112, 112)
        ),
        outputs={"embedding": "fc1"},
        groups=(Group("age 3-9", Interval(0.03, 0.02, 0.04), 1000),),
        fusion=FusionSpec(4, 8, part, part, {"people": 3}),
        variants={"openvino": FileRef(tmp_path / "toy.xml", "2" * 64)},
        license="research",
        derivation="measured",
        about={"training": {"pictures": 7}, "note": "名前"},
    )
    assert read_card(write_card(card)) == card


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, CROPS[..., ::-1].transpose(0, 3, 1, 2)),
        ({"color": "BGR"}, CROPS.transpose(0, 3, 1, 2)),
        ({"layout": "NHWC"}, CROPS[..., ::-1]),
        ({"range": [0, 1]}, CROPS[..., ::-1].transpose(0, 3, 1, 2) / 255),
        ({"range": [-1, 1], "layout": "NHWC", "color": "BGR"}, CROPS / 127.5 - 1),
        (
            {"range": [0, 1], "mean": [0.1, 0.2, 0.3], "std": [1, 2, 4], "layout": "NHWC"},
            (CROPS[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4],
        ),
    ],
)
def test_the_input_is_made_as_the_card_says(
    tmp_path: Path, fields: dict[str, Any], want: np.ndarray
) -> None:
    card = read_card(write_model(tmp_path, "toy", TOY, input=spec(**fields)))
    session = FakeSession(lambda image: {"embedding": np.ones((len(image), 8), np.float32)})
    Embedder(session, card)(CROPS)
    fed = np.concatenate([call["image"] for call in session.calls])
    assert fed.dtype == np.float32
    np.testing.assert_allclose(fed, want, atol=1e-4)


def test_the_output_is_taken_that_the_card_names(tmp_path: Path) -> None:
    card = read_card(write_model(tmp_path, "toy", TOY, outputs={"embedding": "fc1"}))
    rows = np.eye(8, dtype=np.float32)
    session = FakeSession(lambda image: {"fc1": rows[: len(image)], "embedding": image})
    assert Embedder(session, card)(CROPS[:2]).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"input": None}, r"expected an object .*, got nothing at \$\.input$"),
        ({"input": "image"}, r'an object .*, got "image" at \$\.input$'),
        ({"input": {}}, r"expected a text, got nothing at \$\.input\.name$"),
        ({"input": spec(colour="BGR")}, r'no field but name, .*, got "BGR" at \$\.input\.colour$'),
        ({"input": spec(color="GRAY")}, r'"BGR" or "RGB", got "GRAY" at \$\.input\.color$'),
        ({"input": spec(layout="CHW")}, r'got "CHW" at \$\.input\.layout$'),
        ({"input": spec(range="0..1")}, r'a list of 2 numbers, got "0..1" at \$\.input\.range$'),
        ({"input": spec(range=[0])}, r"got \[0\] at \$\.input\.range$"),
        ({"input": spec(range=[255, 0])}, r"got \[255.0, 0.0\] at \$\.input\.range$"),
        ({"input": spec(range=[0, True])}, r"got true at \$\.input\.range\[1\]$"),
        ({"input": spec(std=[1, 0, 1])}, r"got 0 at \$\.input\.std\[1\]$"),
        (
            {"input": spec(size=[160, 160])},
            r"\[112, 112\], .*, got \[160, 160\] at \$\.input\.size$",
        ),
        ({"alignment": "eyes"}, r'"arcface-112", got "eyes" at \$\.alignment$'),
        (
            {"task": "search"},
            r'"detection" or "embedding" or "landmarks", got "search" at \$\.task$',
        ),
        ({"sha256": "abc"}, r"64 hexadecimal digits, got \"abc\" at \$\.sha256$"),
        ({"file": "../../etc/passwd"}, r"the name of a file beside the card"),
        ({"file": "x" * 300}, r"beside the card, got \"x{59}… at \$\.file$"),
        ({"embedding_size": 0}, r"from 1 to 10000, got 0 at \$\.embedding_size$"),
        ({"embedding_size": 10**400}, r"at \$\.embedding_size$"),
        ({"embedding_size": 8.5}, r"an integer .*, got 8.5"),
        ({"threshold": {"value": 1.5}}, r"from -1 to 1, got 1.5 at \$\.threshold\.value$"),
        ({"threshold": 0.4}, r"an object {…}, got 0.4 at \$\.threshold$"),
        ({"variants": {"tensorrt": {}}}, r"no field but onnxruntime, openvino"),
        ({"variants": {"openvino": {"file": "a.xml"}}}, r"at \$\.variants\.openvino\.sha256$"),
        ({"outputs": ["embedding", 3]}, r"a text, got 3 at \$\.outputs\[1\]$"),
        ({"impostors": {}}, r"at \$\.impostors\.measured$"),
        ({"fusion": {"centres": 4}}, r"at \$\.fusion\.width$"),
        ({"groups": {"old": {"value": 0.1}}}, r"at \$\.groups\.old\.low$"),
        ({"license": 3}, r"a text, got 3 at \$\.license$"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_with_its_place(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    card = write_model(tmp_path, "toy", TOY, **fields)
    with pytest.raises(ModelError, match=says) as caught:
        read_card(card)
    assert str(caught.value).startswith(f"{card}: expected ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"name": NaN}', "NaN is no number"),
        ('{"name": -Infinity}', "-Infinity is no number"),
        ('{"name": 1e999}', "1e999 is no number"),
        ('{"name": ' + "9" * 5000 + "}", "not JSON"),
        ('{"name": "a", "name": "b"}', "'name' is given twice"),
        ("[1, 2]", r"expected an object {…}, got \[1, 2\] at \$"),
        ("null", "an object"),
        (b"\xff\xfe\x00", "not JSON"),
        (b" " * ((1 << 24) + 2), "16 MB"),
    ],
    ids=range(12),
)
def test_what_is_no_document_is_refused(tmp_path: Path, text: str | bytes, says: str) -> None:
    card = tmp_path / "toy.json"
    card.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match=says) as caught:
        read_card(card)
    assert str(card) in str(caught.value)
    assert len(str(caught.value)) < 400


DOCUMENTS = [json.loads(file.read_text(encoding="utf-8")) for file in SHIPPED]
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e308, 10**40, "", "x", "\0", "../x", "x" * 5000),
    *([], {}, [[]], [1, 2], {"value": {}}, [1e308, -1e308], {"": ""}),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [(value, k) for k in keys] + [p for k in keys for p in places(value[k])]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mutated_card_is_a_card_or_an_error(tmp_path_factory: Any, data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(DOCUMENTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(document)))
        if data.draw(st.booleans()) and isinstance(container, dict):
            container.pop(key)
        else:
            container[key] = copy.deepcopy(data.draw(st.sampled_from(VALUES)))
    file = tmp_path_factory.mktemp("card") / "toy.json"
    file.write_text(json.dumps(document))
    try:
        card = read_card(file)
    except ModelError as error:
        assert str(error).startswith(str(file))
    else:
        assert isinstance(card, ModelCard)
        assert read_card(write_card(replace(card, path=file.with_name("again.onnx")))).input == (
            card.input
        )


def test_the_network_has_to_be_what_the_card_describes(tmp_path: Path) -> None:
    for fields, says in [
        ({"input": {"name": "data"}}, r"an input among image, got 'data' at \$\.input\.name"),
        ({"input": spec(layout="NHWC")}, r"fits the network's input .*, got NHWC at .*layout"),
        ({"outputs": {"embedding": "fc1"}}, r"an output among .*'fc1' at \$\.outputs\.embedding"),
    ]:
        card = write_model(tmp_path, "toy", TOY, embedding_size=48, **fields)
        for runtime in ("onnxruntime", "auto"):
            with pytest.raises(ModelError, match=says):
                Embedder.load(card, runtime=runtime)  # type: ignore[arg-type]


def test_one_broken_card_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    write_model(folder, "mine", TOY, input={"name": "image", "range": [0, "x"]})
    write_model(folder, "yours", TOY, embedding_size=48)
    (folder / "text.json").write_text("hello")
    monkeypatch.setenv("EDGEFACE_HOME", str(tmp_path))
    names = {card.name for card in cards()}
    assert {"yours", "detector", "mobilefacenet"} <= names
    assert "mine" not in names
    assert "$.input.range[1]" in caplog.text and "text.json" in caplog.text
    found = {check.name: check for check in checks()}
    assert found["model yours"].state == found["model detector"].state == "ok"
    assert found["model mine"].state == found["model text"].state == "bad"
    assert "$.input.range[1]" in found["model mine"].detail
    with pytest.raises(ModelError, match="cannot be looked for"):
        load_card("x" * 5000)
    with pytest.raises(ModelError, match="is for embedding"):
        Detector.load("yours")
