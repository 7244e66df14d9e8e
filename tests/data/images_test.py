"""Folders of images: classes by sub-folder, sizes and colours alike, damaged files named."""

import numpy as np
import pytest
from PIL import Image

from configs import own_data
from reweight_jax.data.examples import is_lazy
from reweight_jax.data.splits import load
from reweight_jax.errors import UserError


def load_folder(path, **fields):
    config = own_data.get_config("image_folder")
    config.data.update({"path": str(path)} | fields)
    return load(config, 0)


def save(path, value=0, size=(5, 4), mode="L"):
    """Writes an image of `size` (W, H) whose pixels are all `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of two gray PNGs each, 10, 20, 30 and 40."""
    for i, name in enumerate(("cat/1.png", "cat/2.PNG", "dog/1.png", "dog/more/0.png")):
        save(tmp_path / "train" / name, 10 * (i + 1))
    return tmp_path / "train"


@pytest.mark.parametrize("resident", [True, False])
def test_classes_are_the_folders(folder, resident):
    (folder / ".hidden").mkdir()
    (folder / "cat" / "Thumbs.db").write_text("x")
    (folder / "cat" / ".DS_Store").write_text("x")
    data = load_folder(folder, resident=resident)
    train = data.splits.train
    assert data.classes == ("cat", "dog") and train.label.tolist() == [0, 0, 1, 1]
    assert train.inputs.shape == (4, 4, 5, 1) and train.inputs.dtype == np.uint8
    assert is_lazy(train.inputs) != resident
    np.testing.assert_array_equal(train.in_memory().inputs.mean((1, 2, 3)), [10, 20, 30, 40])
    np.testing.assert_array_equal(train.inputs[np.array([3, 0])][:, 0, 0, 0], [40, 10])
    assert data.ids.tolist() == ["cat/1.png", "cat/2.PNG", "dog/1.png", "dog/more/0.png"]


@pytest.mark.parametrize("resident", [True, False])
def test_parts_share_their_colours(folder, tmp_path, resident):
    save(tmp_path / "clean" / "dog" / "1.png", (1, 2, 3), mode="RGB")
    save(tmp_path / "test" / "cat" / "1.png", (9, 8, 7, 200), mode="RGBA")
    fields = {"clean_path": str(tmp_path / "clean"), "test_path": str(tmp_path / "test")}
    data = load_folder(folder, resident=resident, **fields)
    splits = data.splits
    assert splits.train.inputs.shape == (4, 4, 5, 3) and splits.train.true_label is None
    np.testing.assert_array_equal(splits.clean.in_memory().inputs[0, 0, 0], [1, 2, 3])
    np.testing.assert_array_equal(splits.test.in_memory().inputs[0, 3, 4], [9, 8, 7])
    np.testing.assert_array_equal(splits.train.inputs[np.array([1])][0, 0, 0], [20, 20, 20])
    assert splits.clean.label.tolist() == [1] and splits.test.label.tolist() == [0]
    assert data.ids[splits.clean.index].tolist() == ["clean/dog/1.png"]


def test_a_clean_set_of_another_class_adds_it(folder, tmp_path):
    save(tmp_path / "clean" / "bee" / "1.png")
    data = load_folder(folder, clean_path=str(tmp_path / "clean"))
    assert data.classes == ("bee", "cat", "dog") and data.splits.clean.label.tolist() == [0]
    with pytest.raises(UserError, match="test_label: row 0 is bee, which is no label of the train"):
        load_folder(folder, test_path=str(tmp_path / "clean"))


@pytest.mark.parametrize(
    "suffix, mode", [("jpg", "RGB"), ("bmp", "L"), ("gif", "RGB"), ("webp", "RGB")]
)
def test_kinds_of_files(tmp_path, suffix, mode):
    for name, value in (("a", 40), ("b", 200)):
        color = value if mode == "L" else (value,) * 3
        save(tmp_path / name / f"x.{suffix}", color, mode=mode)
    inputs = load_folder(tmp_path).splits.train.inputs
    assert inputs.shape == (2, 4, 5, 1 if mode == "L" else 3)
    assert abs(inputs.astype(int) - np.array([40, 200])[:, None, None, None]).max() <= 3


def test_sizes(folder):
    save(folder / "dog" / "z.png", size=(7, 4))
    with pytest.raises(
        UserError, match=r"z.png: is 7x4, but .*1.png is 5x4; a run with config.data.image_size"
    ):
        load_folder(folder)
    # The left half is black and the right half white; scaled down they are that still.
    half = np.zeros((8, 8), np.uint8)
    half[:, 4:] = 255
    Image.fromarray(half).save(folder / "dog" / "z.png")
    inputs = load_folder(folder, image_size=2).splits.train.inputs
    assert inputs.shape == (5, 2, 2, 1)
    assert inputs[4, :, 0].max() < 64 and inputs[4, :, 1].min() > 191
    np.testing.assert_array_equal(inputs[0], 10)


def test_malformed_folders(folder, tmp_path):
    def fails(message, **fields):
        with pytest.raises(UserError, match=message) as error:
            load_folder(fields.pop("path", folder), **fields)
        assert "\n" not in str(error.value)

    fails("config.data.path: empty; give the folder to read", path="")
    fails("none: no such folder; config.data.path", path=tmp_path / "none")
    fails("config.data.test_path: .* is config.data.path too", test_path=str(folder))
    inside, above = str(folder / "cat"), str(folder.parent)
    fails("config.data.clean_path: .*/cat and config.data.path, .* lies in", clean_path=inside)
    fails("config.data.test_path: .* and config.data.path, .* lies in", test_path=above)
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    fails("empty/cat: a class folder without an image; remove it", path=tmp_path / "empty")
    fails("empty: has no image in a class folder", test_path=str(tmp_path / "empty"))
    stray = save(folder / "stray.png")
    fails("stray.png: lies in no class folder")
    stray.unlink()
    note = folder / "cat" / "notes.txt"
    note.write_text("x")
    fails("cat/notes.txt: not an image; known are .png, .jpg")
    note.unlink()
    deep = folder / "cat" / "deep.png"
    Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(deep)
    fails("deep.png: has more than 8 bits per pixel")
    deep.unlink()
    (folder / "cat" / "text.png").write_text("no image")
    fails("text.png: not a readable image")


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(folder), "iterdir", refuse)
    with pytest.raises(UserError, match=f"{folder}: cannot be read .Permission denied"):
        load_folder(folder)


def test_a_truncated_image_is_named_when_it_is_read(folder):
    rng = np.random.default_rng(0)
    for name in ("cat/1.png", "cat/2.PNG", "dog/1.png", "dog/more/0.png"):
        Image.fromarray(rng.integers(0, 256, (40, 40)).astype(np.uint8)).save(folder / name)
    path = folder / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UserError, match=r"dog/1.png: not a readable image \(") as error:
        load_folder(folder)
    assert "\n" not in str(error.value)
    train = load_folder(folder, resident=False).splits.train
    assert train.inputs[np.array([0, 1])].shape == (2, 40, 40, 1)
    with pytest.raises(UserError, match=r"dog/1.png: not a readable image"):
        train.inputs[np.array([1, 2])]
