"""Damaged folders of runs: the same result again, or one line. Never another result.

REWEIGHT_JAX_FUZZ=full makes 300 random damages; the default is a few.
"""

import gc
import os
import pathlib
import random
import shutil
import warnings

import numpy as np
import pytest
from whole_runs import ONE_DEVICE, without_times

from reweight_jax import load
from reweight_jax.errors import UserError
from reweight_jax.train.config import load_experiment
from reweight_jax.train.loop import train

# What orbax was reading when it met the damage is thrown away, which Python remarks on.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
NUM_DAMAGES = 300 if os.environ.get("REWEIGHT_JAX_FUZZ") == "full" else 15
TINY = {"model.name": "mlp", "model.hidden": (4,), "num_steps": 8, "batch_size": 12}
TINY |= {
    "settle_at": 0.5,
    "retrain": "drop",
    "data.num_calibration": 4,
    "checkpoint_every_steps": 4,
}
TINY |= {"log_every_steps": 4, "eval_every_steps": 4, "data.num_clean": 8}


INPUTS = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1)).astype(np.uint8)
TABLES = ("examples.npz", "calibration.npz", "suspect_inputs.npz")


def make(experiment, workdir):
    with warnings.catch_warnings():  # what is damaged is named in a warning
        warnings.simplefilter("ignore")
        return train(experiment, workdir, progress=False)


def read(folder, page):
    """All that can be asked of a finished run, as JSON or arrays."""
    run = load(folder)
    found = {"result": run.result, "suspects": run.suspects(), "examples": run.examples}
    found |= {step: run.predict(INPUTS, step) for step in ("last", "retrained")}
    return found | {"report": run.report(page).read_text()}


def assert_same(found, expected, message=""):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_equal(found[name], value, err_msg=f"{message} {name}")


@pytest.fixture(scope="module")
def whole(digits_config, tmp_path_factory):
    """(experiment, folder, result, what `read` returns) of a run, which is in folder / "run".

    folder / "other" is a run of another seed.
    """
    folder = tmp_path_factory.mktemp("whole")
    experiment, other = (
        load_experiment(digits_config(**TINY, seed=seed), ONE_DEVICE) for seed in (0, 1)
    )
    result = make(experiment, folder / "run")
    make(other, folder / "other")
    return experiment, folder, result, read(folder / "run", folder / "report.html")


@pytest.fixture(autouse=True)
def nothing_is_left_for_other_tests():
    yield
    gc.collect()


# --- One of each kind, with what is said --------------------------------------------------------


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole[1] / "run", tmp_path / "run")
    return tmp_path / "run"


def flip(path, place, bit=4):
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= bit
    path.write_bytes(content)


def arrays_of(step_folder):
    """The largest file of a checkpoint: where its arrays are."""
    files = [path for path in (step_folder / "state").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def newest(folder):
    return max((p for p in (folder / "checkpoints").iterdir()), key=lambda p: int(p.name))


def test_the_checkpoint_before_a_damaged_one_is_used(whole, copy):
    experiment, _, result, _ = whole
    path = newest(copy)
    shutil.rmtree(path / "state")
    (path / "state").mkdir()
    with pytest.warns(UserWarning, match=f"checkpoint {path} is damaged, now {path.name}.damaged"):
        again = train(experiment, copy, progress=False)
    assert without_times(again) == without_times(result)
    assert (copy / "checkpoints" / f"{path.name}.damaged").is_dir()


def test_numbers_that_changed_on_the_disk_are_not_believed(whole, copy):
    """Where orbax notices nothing: each byte of the arrays is covered by a digest."""
    experiment, _, result, expected = whole
    path, size = arrays_of(newest(copy)), arrays_of(newest(copy)).stat().st_size
    for place in np.linspace(0, size - 1, 5).astype(int):
        flip(path, place)
        try:
            got = load(copy).predict(INPUTS, "retrained")
            np.testing.assert_array_equal(got, expected["retrained"])
        except UserError as error:
            assert str(path.parents[1]).partition("/state")[0] in str(error)
        flip(path, place)
    got = load(copy).predict(INPUTS, "retrained")
    np.testing.assert_array_equal(got, expected["retrained"])
    assert make(experiment, copy) == result


def test_if_a_checkpoint_that_is_needed_is_damaged_it_is_said_what_to_do(whole, copy):
    """That of the end of training is needed, though the newest one is whole."""
    experiment, _, result, _ = whole
    flip(arrays_of(copy / "checkpoints" / "8"), 0)
    path = arrays_of(copy / "checkpoints" / "8")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="checkpoints/8: .*remove it and those after it"):
        make(experiment, copy)
    for step in ("8", "12", "16"):
        shutil.rmtree(copy / "checkpoints" / step)
    assert without_times(make(experiment, copy)) == without_times(result)


@pytest.mark.parametrize("step", ["newest", "all"])
def test_checkpoints_of_another_seed_are_refused(whole, copy, step):
    experiment, folder, _, _ = whole
    for path in list((copy / "checkpoints").iterdir()) if step == "all" else [newest(copy)]:
        shutil.rmtree(path)
        shutil.copytree(folder / "other" / "checkpoints" / path.name, path)
    with pytest.raises(UserError, match="holds a run with another config.seed"):
        make(experiment, copy)
    with pytest.raises(UserError, match="holds a run with another config.seed"):
        load(copy).predict(INPUTS, "retrained")


@pytest.mark.parametrize("name", ["config.json", "result.json", "calibration.npz"])
def test_a_file_of_another_run_is_named(name, whole, copy, tmp_path):
    experiment, folder, result, _ = whole
    before = (copy / name).read_bytes()
    shutil.copy(folder / "other" / name, copy / name)
    what = "config.json and result.json are of two runs" if "json" in name else f"{name}: is damag"
    with pytest.raises(UserError, match=what):
        read(copy, tmp_path / "report.html")
    if name == "config.json":
        with pytest.raises(UserError, match="holds a run with another config.seed"):
            make(experiment, copy)
        (copy / name).unlink()
    assert make(experiment, copy) == result
    assert (copy / name).read_bytes() == before


def test_a_damaged_config_or_result_is_written_again(whole, copy):
    experiment, _, result, _ = whole
    for name in ("config.json", "result.json"):
        text = (copy / name).read_text()
        for damaged in (text.replace("0.5", "0.6"), "", "[1]", text[:-9]):
            assert damaged != text
            (copy / name).write_text(damaged)
            with pytest.raises(UserError, match=f"{name}: is damaged, or was edited"):
                load(copy)
        assert make(experiment, copy) == result
        assert (copy / name).read_text() == text


# --- Random damages -------------------------------------------------------------------------------


def damage(folder, other, rng) -> str:
    """Damages a file or a folder of a run at random; returns what was done."""
    kinds = {
        "checkpoint": [p for p in (folder / "checkpoints").rglob("*") if p.is_file()],
        "table": [folder / name for name in TABLES],
        "text": [folder / n for n in ("metrics.jsonl", "config.json", "result.json")],
        "folder": [*(folder / "checkpoints").iterdir(), folder / "checkpoints"],
    }
    kind = rng.choice([*kinds])
    path = rng.choice(sorted(path for path in kinds[kind] if path.exists()))
    how = rng.choice(["flip", "digit", "cut", "empty", "remove", "swap", "double"])
    if kind == "folder":
        how = rng.choice(["remove", "swap", "hollow"])
    same = other / path.relative_to(folder)
    if how == "remove" or (how == "swap" and not same.exists()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif how == "swap" and path.is_dir():
        shutil.rmtree(path)
        shutil.copytree(same, path)
    elif how == "swap":
        shutil.copy(same, path)
    elif how == "hollow":
        for child in path.iterdir():
            if rng.random() < 0.5:
                shutil.rmtree(child) if child.is_dir() else child.unlink()
    else:
        content = path.read_bytes()
        place = rng.randrange(len(content)) if content else 0
        digits = [i for i, byte in enumerate(content) if 48 <= byte < 57]
        lines = content.splitlines(keepends=True) or [b""]
        if how == "flip" and content:
            flip(path, place, 1 << rng.randrange(8))
        elif how == "digit" and digits:
            place = rng.choice(digits)
            path.write_bytes(content[:place] + bytes([content[place] + 1]) + content[place + 1 :])
        elif how == "double":
            place = rng.randrange(len(lines))
            path.write_bytes(b"".join([*lines[: place + 1], *lines[place:]]))
        else:
            path.write_bytes(content[:place] if how == "cut" else b"")
    return f"{how} {path.relative_to(folder)}"


@pytest.mark.slow
def test_random_damage_changes_no_result(whole, tmp_path):
    experiment, folder, result, expected = whole
    outcomes = {"same": 0, "refused": 0}
    for seed in range(NUM_DAMAGES):
        copy = tmp_path / "run"
        shutil.copytree(folder / "run", copy)
        if seed % 3 == 2:  # as a kill leaves it
            (copy / "result.json").unlink()
            shutil.rmtree(newest(copy))
        done = damage(copy, folder / "other", random.Random(seed))
        try:
            assert_same(read(copy, tmp_path / "report.html"), expected, f"{seed} {done}")
        except UserError as error:
            assert "\n" not in str(error), (seed, done)
        try:
            again = make(experiment, copy)
            assert without_times(again) == without_times(result), (seed, done)
            outcomes["same"] += 1
        except UserError as error:
            assert "\n" not in str(error), (seed, done)
            outcomes["refused"] += 1
        shutil.rmtree(copy)
    print(outcomes)
    assert outcomes["same"] > outcomes["refused"]  # most damage can be repaired


def test_the_folder_of_a_run_has_nothing_half_written(whole):
    assert not [*pathlib.Path(whole[1]).rglob("*.part")]
