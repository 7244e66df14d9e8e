"""Which run a folder may hold, and files that are whole or not there."""

import functools
import json
import os
import stat

import pytest

from reweight_jax.errors import UserError
from reweight_jax.records.workdir import Workdir, identity, write_atomically
from reweight_jax.sealed import read_sealed

FACTS = {"classes": [4, 9], "num_train": 96}


def test_a_config_is_kept_with_the_facts_of_its_data(digits_config, tmp_path):
    config = digits_config()
    with Workdir(tmp_path / "new" / "run", config, FACTS).locked():
        pass
    Workdir(tmp_path / "new" / "run", config, FACTS).write_config()
    saved = read_sealed(tmp_path / "new" / "run" / "config.json")
    assert saved.pop("dataset") == FACTS
    assert saved == json.loads(config.to_json())


@pytest.mark.parametrize(
    "before, after, differing",
    [
        ({}, {"learning_rate": 0.5}, "config.learning_rate"),
        ({}, {"data.num_clean": 2}, "config.data.num_clean"),
        ({}, {"num_steps": 8}, None),
        ({"method": "mentornet"}, {"method": "mentornet", "num_steps": 8}, "config.num_steps"),
        ({"lr_schedule": "cosine"}, {"lr_schedule": "cosine", "num_steps": 8}, "config.num_steps"),
        ({"finetune_from": "last"}, {"finetune_from": "last", "num_steps": 8}, "config.num_steps"),
        ({}, {"finetune_from": "last", "finetune_steps": 9}, None),
        ({"finetune_from": "last"}, {"finetune_from": "both"}, None),
        ({"finetune_from": "both"}, {"finetune_from": "best"}, "config.finetune_from"),
        ({}, {"data.resident": False, "data.workers": 3, "confusion_from": "x"}, None),
        ({}, {"log_every_steps": 1, "steps_per_dispatch": 5, "data.data_dir": "x"}, None),
        # What comes after all that is there may be added, and nothing before it.
        ({}, {"retrain": "drop"}, None),
        ({}, {"judge_for": 0.5, "retrain": "drop"}, None),
        ({"judge_for": 0.5}, {"judge_for": 0.2}, "config.judge_for"),
        ({"judge_for": 0.5}, {}, "config.judge_for"),
        (
            {"finetune_from": "last"},
            {"finetune_from": "last", "judge_for": 0.5},
            "config.judge_for",
        ),
        ({}, {"compare_plain": True, "retrain": "relabel", "finetune_from": "both"}, None),
        ({"finetune_from": "last"}, {"finetune_from": "last", "compare_plain": True}, None),
        ({"finetune_from": "last"}, {"finetune_from": "both", "retrain": "drop"}, None),
        ({"compare_plain": True}, {"compare_plain": True, "retrain": "drop"}, None),
        ({"compare_plain": True}, {"compare_plain": False}, "config.compare_plain"),
        ({"retrain": "drop"}, {"retrain": "drop", "compare_plain": True}, "config.compare_plain"),
        ({"retrain": "drop"}, {"retrain": "relabel"}, "config.retrain"),
        ({"retrain": "drop"}, {"retrain": "none"}, "config.retrain"),
        (
            {"compare_plain": True},
            {"compare_plain": True, "finetune_from": "last"},
            "config.finetune_from",
        ),
        ({"retrain": "drop"}, {"retrain": "drop", "finetune_from": "last"}, "config.finetune_from"),
        ({"retrain": "drop"}, {"retrain": "drop", "finetune_from": "retrained"}, None),
        (
            {"finetune_from": "last"},
            {"finetune_from": "retrained", "retrain": "drop"},
            "config.finetune_from",
        ),
        (
            {"finetune_from": "retrained", "retrain": "drop"},
            {"retrain": "drop"},
            "config.finetune_from",
        ),
        # A later phase begins where num_steps ends, and settling at a fraction of it.
        ({"retrain": "drop"}, {"retrain": "drop", "num_steps": 8}, "config.num_steps"),
        ({"compare_plain": True}, {"compare_plain": True, "num_steps": 8}, "config.num_steps"),
        ({}, {"retrain": "drop", "num_steps": 8}, "config.num_steps"),
        ({"settle_at": 0.5}, {"settle_at": 0.5, "num_steps": 8}, "config.num_steps"),
        ({"warm_up": 1.0}, {"warm_up": 1.0, "num_steps": 8}, "config.num_steps"),
        ({"warm_up": 1.0}, {}, "config.warm_up"),
        ({"judge_for": 0.5}, {"judge_for": 0.5, "num_steps": 8}, "config.num_steps"),
        (
            {"method": "baseline", "warm_up": 1.0},
            {"method": "baseline", "warm_up": 1.0, "num_steps": 8},
            None,
        ),
        ({"settle_at": 0.5}, {}, "config.settle_at"),
        ({}, {"settle_at": 0.5}, "config.settle_at"),
        # The rates judge at the end, and choose what is retrained on.
        ({}, {"labels.false_alarm_rate": 0.1, "labels.false_discovery_rate": 0.2}, None),
        ({"compare_plain": True}, {"compare_plain": True, "labels.false_alarm_rate": 0.1}, None),
        (
            {"retrain": "drop"},
            {"retrain": "drop", "labels.false_alarm_rate": 0.1},
            "config.labels.false_alarm_rate",
        ),
        (
            {"retrain": "drop"},
            {"retrain": "drop", "labels.false_discovery_rate": 0.1},
            "config.labels.false_discovery_rate",
        ),
        ({}, {"on_zero_weights": "uniform"}, "config.on_zero_weights"),
        ({}, {"observe_alignment": True}, "config.observe_alignment"),
        ({}, {"remember_megabytes": 0}, "config.remember_megabytes"),
        ({}, {"data.num_calibration": 5}, "config.data.num_calibration"),
    ],
)
def test_what_may_differ(before, after, differing, digits_config, tmp_path):
    Workdir(tmp_path, digits_config(**before), FACTS).write_config()
    (tmp_path / "checkpoints" / "99").mkdir(parents=True)  # of a step of the last phase
    folder = Workdir(tmp_path, digits_config(**after), FACTS)
    if differing is None:
        with folder.locked():
            return
    old = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=f"holds a run with another {differing};"), folder.locked():
        pass
    assert (tmp_path / "config.json").read_bytes() == old


@pytest.mark.parametrize(
    ("before", "after", "differing"),
    [
        ({"finetune_from": "last"}, {"finetune_from": "both", "finetune_learning_rate": 1e-4}, ""),
        ({"retrain": "drop"}, {"compare_plain": True, "labels.false_alarm_rate": 0.1}, ""),
        ({"judge_for": 0.5}, {"judge_for": 0.2}, ""),
        ({"retrain": "drop"}, {"num_steps": 8}, "num_steps"),
        (
            {"settle_at": 0.5},
            {"settle_at": 0.5, "labels.false_alarm_rate": 0.1},
            "labels.false_alarm_rate",
        ),
    ],
)
def test_phases_that_have_not_begun_may_change(before, after, differing, digits_config, tmp_path):
    old = Workdir(tmp_path, digits_config(**before), FACTS).content
    new = Workdir(tmp_path, digits_config(**after), FACTS)
    if differing:
        with pytest.raises(UserError, match=f"another config.{differing};"):
            new.check(old, 6)
    else:
        new.check(old, 6)
        with pytest.raises(UserError, match="another config"):
            new.check(old, 7)


def test_a_step_that_knew_another_end_is_of_another_run(digits_config, tmp_path):
    for fields in ({"lr_schedule": "cosine"}, {"method": "mentornet"}, {"settle_at": 0.5}, {}):
        folder, other = (
            Workdir(tmp_path, digits_config(**fields, num_steps=n), FACTS) for n in (6, 9)
        )
        assert identity(folder.content) == identity(other.content)
        if fields:
            with pytest.raises(UserError, match="another config.num_steps"):
                folder.check_checkpoint(other.content)
        else:
            folder.check_checkpoint(other.content)


def test_fields_that_are_new_since_the_run_have_their_defaults(digits_config, tmp_path):
    Workdir(tmp_path, digits_config(), FACTS).write_config()
    saved = read_sealed(tmp_path / "config.json") | {"gone": 1}
    del saved["optimizer"], saved["data"]["image_size"]
    Workdir(tmp_path, digits_config(), FACTS).check(saved, 6)
    with pytest.raises(UserError, match="another config.optimizer"):
        Workdir(tmp_path, digits_config(optimizer="adam"), FACTS).check(saved, 6)


def test_other_data_is_refused(digits_config, tmp_path):
    old, new = (Workdir(tmp_path, digits_config(), FACTS | {"num_train": n}) for n in (96, 97))
    with pytest.raises(UserError, match="holds a run with other data"):
        new.check(old.content, 6)
    with pytest.raises(UserError, match="holds a run with other data"):
        new.check_checkpoint(old.content)


@pytest.mark.parametrize("more", [0, 1])
def test_a_part_of_the_data_that_is_gone_or_new_is_refused(more, digits_config, tmp_path):
    facts = [FACTS | {"fingerprint": parts} for parts in ({"train": 1}, {"train": 1, "test": 2})]
    old, new = (Workdir(tmp_path, digits_config(), facts[k]) for k in (more, 1 - more))
    for check in (functools.partial(new.check, step=6), new.check_checkpoint):
        check(new.content)
        with pytest.raises(UserError, match="holds a run with other data"):
            check(old.content)


def test_a_digest_of_many_rows_is_compared_where_both_have_it(digits_config, tmp_path):
    digests = {"train": 1}, {"train": 1, "train_rows": 2}, {"train": 1, "train_rows": 3}
    lazy, read, other = (
        Workdir(tmp_path, digits_config(), FACTS | {"fingerprint": each}) for each in digests
    )
    for old, new in ((lazy, read), (read, lazy), (lazy, other)):
        new.check(old.content, 6)
        new.check_checkpoint(old.content)
    with pytest.raises(UserError, match="holds a run with other data"):
        other.check(read.content, 6)


def test_a_process_that_does_not_write_leaves_nothing(digits_config, tmp_path):
    folder = Workdir(tmp_path / "run", digits_config(), FACTS, writes=False)
    folder.write("a.txt", "text")
    folder.write_config()
    assert not (tmp_path / "run").exists()


def test_a_folder_is_locked_while_its_run_lasts(digits_config, tmp_path):
    folder = Workdir(tmp_path, digits_config(), FACTS)
    other = Workdir(tmp_path, digits_config(), FACTS)
    with folder.locked():
        holder = rf"in use by process {os.getpid()} on .+, since 20\d\d-"
        with pytest.raises(UserError, match=holder), other.locked():
            pass
    with pytest.raises(ZeroDivisionError), other.locked():
        _ = 1 / 0
    with folder.locked():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_files_that_a_killed_process_leaves_do_not_block(digits_config, tmp_path):
    folder = Workdir(tmp_path, digits_config(), FACTS)
    (tmp_path / "lock").touch()
    (tmp_path / "lock_holder").write_text("process 1 on a, since then\n")
    with folder.locked():
        assert (tmp_path / "lock_holder").read_text().startswith(f"process {os.getpid()} on ")


def test_what_is_no_folder_is_named(digits_config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--workdir .*file: cannot be used"):
        Workdir(tmp_path / "file", digits_config(), FACTS).locked().__enter__()
    with pytest.raises(UserError, match="--workdir ~nobody-is-called-so/run: cannot be used"):
        Workdir("~nobody-is-called-so/run", digits_config(), FACTS)


@pytest.mark.parametrize("text", ["[1]", "{", "", '{"seed": 1}', '{"seed": 1, "checksum": "0"}'])
def test_a_damaged_config_is_named_if_no_checkpoint_has_it_too(text, digits_config, tmp_path):
    (tmp_path / "config.json").write_text(text)
    folder = Workdir(tmp_path, digits_config(), FACTS)
    with pytest.raises(UserError, match="config.json is damaged, or was edited"), folder.locked():
        pass
    (tmp_path / "checkpoints").mkdir()
    with folder.locked():
        pass


def test_a_checkpoint_of_another_seed_is_refused_and_one_before_later_phases_is_not(
    digits_config, tmp_path
):
    folder = Workdir(tmp_path, digits_config(num_steps=8, retrain="drop"), FACTS)
    folder.check_checkpoint(Workdir(tmp_path, digits_config(num_steps=4), FACTS).content)
    with pytest.raises(UserError, match="holds a run with another config.seed"):
        folder.check_checkpoint(Workdir(tmp_path, digits_config(seed=1), FACTS).content)


def test_what_cannot_be_written_is_one_line(digits_config, tmp_path):
    folder = Workdir(tmp_path, digits_config(), FACTS)
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match="a.txt: cannot be written"):
        folder.write("a.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_write_atomically_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    kinds = []

    def fsync(descriptor):
        kinds.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    monkeypatch.setattr("os.fsync", fsync)
    write_atomically(tmp_path / "a" / "b.txt", "old")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a" / "b.txt", "new")
    assert (tmp_path / "a" / "b.txt").read_text() == "old"
    assert kinds == ["file", "folder", "file"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_folder_that_was_moved_or_emptied_is_not_written_to(digits_config, tmp_path):
    workdir = Workdir(tmp_path / "run", digits_config(), FACTS)
    with workdir.locked():
        workdir.write_config()
        workdir.check_there()
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(UserError, match="run: cannot be written"):
            workdir.write("result.json", "{}")
        assert not (tmp_path / "run").exists()
        with pytest.raises(UserError, match="run: cannot be written"):
            workdir.check_there()
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").touch()
        with pytest.raises(UserError, match="was moved or emptied"):
            workdir.check_there()
        (tmp_path / "run" / "config.json").unlink()
        (tmp_path / "run").rmdir()
        (tmp_path / "moved").rename(tmp_path / "run")
        workdir.check_there()
        (tmp_path / "run" / "config.json").unlink()
        with pytest.raises(UserError, match="was moved or emptied"):
            workdir.check_there()


def test_half_written_files_of_a_killed_process_are_removed(digits_config, tmp_path):
    left = [tmp_path / ".config.json.99999.part", tmp_path / "plots" / ".weights.png.99999.part"]
    (tmp_path / ".film.mkv.part").touch()  # somebody else's
    (tmp_path / "plots").mkdir()
    for path in left:
        path.touch()
    with Workdir(tmp_path, digits_config(), FACTS).locked():
        assert not any(path.exists() for path in left)
        assert (tmp_path / ".film.mkv.part").exists()


def test_the_name_of_a_folder_is_utf8(digits_config, tmp_path):
    with pytest.raises(UserError, match="must be UTF-8"):
        Workdir(f"{tmp_path}/\udcff", digits_config(), FACTS)
