"""Packing, hold-out, overlap filter, augmentation."""

import argparse
import zipfile

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from edgeface.errors import EdgefaceError  # noqa: E402
from export import card, groups  # noqa: E402
from export.__main__ import main as export_main  # noqa: E402
from export.augment import NONE, STRENGTHS, augment  # noqa: E402
from export.data import (  # noqa: E402
    Crop,
    Pack,
    filter_overlap,
    hold_out,
    list_crops,
    normalised,
    open_pack,
    pack,
)


@pytest.fixture
def crops(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("Ada_Lovelace", 3), ("grace hopper", 2)):
        (tmp_path / "known" / name).mkdir(parents=True)
        for i in range(count):
            picture = rng.integers(0, 256, (112, 112, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "known" / name / f"{i}.png"), picture)
    (tmp_path / "flat").mkdir()
    cv2.imwrite(str(tmp_path / "flat" / "x.png"), np.full((50, 60, 3), 7, np.uint8))
    (tmp_path / "flat" / "broken.jpg").write_bytes(b"not a picture")
    return tmp_path


def packed(crops, drop=frozenset()):
    rows = list_crops(crops / "known", set(drop)) + list_crops(crops / "flat", set(drop))
    pack(rows, crops / "out", resize=True)
    return open_pack(crops / "out")


def test_pack_keeps_pixels_and_identities_and_names_the_unreadable(crops, capsys):
    data = packed(crops)
    assert data.images.shape == (6, 112, 112, 3)
    assert data.names == ("known/Ada_Lovelace", "known/grace hopper")
    assert data.identity.tolist() == [0, 0, 0, 1, 1, -1]
    first = cv2.imread(str(crops / "known" / "Ada_Lovelace" / "0.png"))
    np.testing.assert_array_equal(data.images[0], first)
    assert (data.images[5] == 7).all()
    assert "broken.jpg" in capsys.readouterr().err


def test_a_zip_is_packed_as_the_folder_it_holds(crops):
    with zipfile.ZipFile(crops / "known.zip", "w") as archive:
        for path in sorted((crops / "known").rglob("*.png")):
            archive.write(path, path.relative_to(crops / "known").as_posix())
    assert pack(list_crops(crops / "known.zip", set()), crops / "zipped") == 5
    pack(list_crops(crops / "known", set()), crops / "plain")
    zipped, plain = open_pack(crops / "zipped"), open_pack(crops / "plain")
    np.testing.assert_array_equal(zipped.images, plain.images)
    assert (zipped.names, zipped.paths) == (plain.names, plain.paths)


def test_families_are_held_out_whole(tmp_path):
    kin = [f"kin/F{f:04d}_MID{m}" for f in range(40) for m in range(3)]
    names = (*kin, "other/x")
    identity = np.repeat(np.arange(len(names)), 2)
    data = Pack(np.zeros((len(identity), 1, 1, 3), np.uint8), identity, names, (), identity >= 0)
    held = hold_out(data)
    family = data.families()
    kept = {int(f) for f in family[held & (identity < 120)]}
    assert len(kept) == 8  # a fifth of forty
    assert not kept & set(family[~held].tolist())


def test_dropped_names_match_across_spelling(crops):
    data = packed(crops, {normalised("Grace_Hopper")})
    assert data.names == ("known/Ada_Lovelace",)


def test_table_that_does_not_fit_is_refused(crops):
    packed(crops)
    table = crops / "out.tsv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match="pack the crops again"):
        open_pack(crops / "out")


def test_overlap_drops_only_identities_near_the_test(crops):
    packed(crops)
    pack([Crop("t/one", crops / "known", "Ada_Lovelace/0.png")], crops / "test")

    def embed(target):
        images = open_pack(target).images
        return images[:, ::16, ::16].reshape(len(images), -1).astype(np.float32) - 127.5

    gone = filter_overlap(embed, crops / "out", [crops / "test"], limit=0.4)
    assert gone == ["known/Ada_Lovelace"]
    assert open_pack(crops / "out").keep.tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("name", list(STRENGTHS))
def test_augmentation_is_a_function_of_the_generator(name):
    picture = np.random.default_rng(1).integers(0, 256, (112, 112, 3), np.uint8)
    for seed in range(25):
        a = augment(picture, np.random.default_rng(seed), STRENGTHS[name])
        b = augment(picture, np.random.default_rng(seed), STRENGTHS[name])
        assert a.shape == (112, 112, 3)
        assert a.dtype == np.uint8
        np.testing.assert_array_equal(a, b)


def test_no_augmentation_is_the_picture_or_its_mirror():
    picture = np.random.default_rng(2).integers(0, 256, (112, 112, 3), np.uint8)
    seen = {augment(picture, np.random.default_rng(s), NONE).tobytes() for s in range(20)}
    assert seen == {picture.tobytes(), np.ascontiguousarray(picture[:, ::-1]).tobytes()}


def test_pictures_that_are_no_aligned_crops_are_refused_unless_asked_for(tmp_path, capsys):
    folder = tmp_path / "mine" / "Ann"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (112, 112), "b.png": (240, 320)}.items():
        assert cv2.imwrite(str(folder / name), rng.integers(0, 256, (*size, 3), np.uint8))
    arguments = [str(tmp_path / "mine"), "--out", str(tmp_path / "p")]
    assert export_main(["pack", *arguments]) == 1
    said = capsys.readouterr().err
    assert "b.png is 320×240" in said and "export align" in said
    assert not list(tmp_path.glob("p*"))
    assert export_main(["pack", *arguments, "--resize"]) == 0
    assert "1 pictures were resized" in capsys.readouterr().err
    assert open_pack(tmp_path / "p").images.shape == (2, 112, 112, 3)


def test_ordinary_pictures_are_aligned_for_a_pack(sample, tmp_path, capsys):
    people = tmp_path / "people" / "Ann"
    people.mkdir(parents=True)
    portrait = sorted(sample.rglob("*.jpg"))[0]
    (people / "a.jpg").write_bytes(portrait.read_bytes())
    cv2.imwrite(str(people / "wall.png"), np.full((200, 200, 3), 90, np.uint8))
    (people / "text.jpg").write_text("no picture")
    out = tmp_path / "aligned"
    assert export_main(["align", str(tmp_path / "people"), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "no face in" in said and "text.jpg" in said and "1 crops" in said
    assert cv2.imread(str(out / "Ann" / "a.jpg.png")).shape == (112, 112, 3)
    assert export_main(["pack", str(out), "--out", str(tmp_path / "p")]) == 0
    assert open_pack(tmp_path / "p").names == ("aligned/Ann",)
    assert export_main(["align", str(tmp_path / "none"), "--out", str(out)]) == 1


def test_labels_tell_groups_and_families(tmp_path):
    csv = tmp_path / "crowd.csv"
    csv.write_text("file,age_gender_race\na.png,7_0_2\nb.png,34_1_9\nc.png,x_1_0\n")
    labels = groups.read_labels([csv])
    assert labels == {
        "crowd/a.png": ["ages 0–9", "Asian"], "crowd/b.png": ["ages 20–59"],
        "crowd/c.png": ["White"],
    }  # fmt: skip
    paths = ("crowd/a.png", "crowd/b.png", "fam/F1_MID1/1.png", "fam/F1_MID2/1.png", "fam/F2/1.png")
    names = ("fam/F1_MID1", "fam/F1_MID2", "fam/F2")
    identity = np.array([-1, -1, 0, 1, 2])
    data = Pack(np.zeros((5, 1, 1, 3), np.uint8), identity, names, paths, np.ones(5, bool))
    crowd, families = groups.sets_of(data, labels)
    assert crowd.name == "crowd" and list(crowd.groups["Asian"]) == [True, False]
    kin = families.kin.tolist()
    assert kin[0] == kin[1] != kin[2]
    apart = groups.strangers(families, None)
    assert not apart[0, 1] and apart[0, 2] and not apart.diagonal().any()
    alike = np.array([[1, 0], [0.8, 0.6]], np.float32)
    assert not groups.strangers(crowd, alike)[0, 1] and groups.strangers(crowd, None)[0, 1]
    (tmp_path / "bad.csv").write_text("name\nx\n")
    for file in ("bad.csv", "none.csv"):
        with pytest.raises(EdgefaceError, match=r"labels .*(column 'file'|cannot be read)"):
            groups.read_labels([tmp_path / file])


def test_the_card_tells_how_often_strangers_of_one_group_pass(tmp_path):
    csv = tmp_path / "crowd.csv"
    csv.write_text("file,age\n" + "".join(f"{i}.png,{5 if i < 40 else 30}\n" for i in range(80)))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 112, 112, 3)).astype(np.uint8)
    paths = tuple(f"crowd/{i}.png" for i in range(80))
    data = Pack(images, np.full(80, -1), (), paths, np.ones(80, bool))
    rows = rng.standard_normal((80, 16)) + np.where(np.arange(80)[:, None] < 40, 1.5, 0.0)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    asked = argparse.Namespace(labels=[csv], judge=None)
    found = card.group_rates(tmp_path, data, lambda _: rows, np.ones(80, bool), 0.6, asked)
    assert [g.name for g in found] == ["crowd: ages 0–9", "crowd: ages 20–59"]
    young, grown = found
    assert young.pairs == grown.pairs == 780
    assert young.rate.value > 0.3 and grown.rate.value < 0.1
    upper = np.triu_indices(40, 1)
    passed = ((rows[:40] @ rows[:40].T)[upper] >= 0.6).mean()
    assert young.rate.value == pytest.approx(passed, abs=1e-5)
    assert "crowd: ages 0–9 pass in" in card.unprotected(found) and not card.unprotected(())
