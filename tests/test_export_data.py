"""Packing, hold-out, overlap filter, augmentation."""

import zipfile

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

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
    pack(rows, crops / "out")
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
