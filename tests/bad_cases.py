"""The table of wrong inputs: fields, config files, data, other commands, folders of runs."""

import json
import os
import shutil
import zipfile

import numpy as np
from bad_inputs import (
    CSV,
    IMAGES,
    NPZ,
    SHORT,
    TRAIN_CSV,
    Case,
    arrays,
    table,
    write_images,
    write_table,
)
from PIL import Image

from configs import default
from reweight_jax.records.workdir import flatten


def cases() -> list[Case]:
    """All of them."""
    found = [*of_fields(), *of_flags(), *of_config_files(), *of_npz(), *of_npz_settings()]
    found += [*of_csv(), *of_csv_settings(), *of_corrections(), *of_images()]
    return [*found, *of_predict(), *of_report(), *of_sweep(), *of_choose_trusted(), *of_folders()]


# --- Fields of the config -------------------------------------------------------------------------

AT_LEAST_ONE = "num_steps finetune_steps batch_size clean_batch_size log_every_steps"
AT_LEAST_ONE += " eval_every_steps checkpoint_every_steps model.width model.num_layers"
AT_LEAST_ONE += " model.num_heads model.features model.depth"
NAMED = "task method epsilon_method lr_schedule optimizer on_zero_weights finetune_from retrain"
NAMED += " model.name model.dtype data.name data.clean_in_train data.noise"
# What has to be set besides, so that the field is used.
BESIDES = {
    "data.dominant_class": ("data.imbalance_ratio=10", "data.num_train=20"),
    "data.background_class": ("data.noise=background_flip", "data.noise_ratio=0.1"),
    "data.noise_ratio": ("data.noise=uniform_flip",),
    "model.depth": ("model.name=resnet",),
    "model.width": ("model.name=resnet",),
    "model.num_layers": ("model.name=transformer",),
    "model.num_heads": ("model.name=transformer",),
    "model.features": ("model.name=transformer",),
    "model.vocabulary": ("model.name=transformer",),
}
FREE_BELOW = {"data.dominant_class", "data.background_class"}  # -1 may be a label, or has a meaning


def of_fields() -> list[Case]:
    """Wrong values of every field of configs/default.py, by its type."""
    found = []
    for field, default_value in flatten(json.loads(default.get_config().to_json())).items():
        for value in wrong_values(field, default_value):
            besides = [f"--config.{setting}" for setting in BESIDES.get(field, ())]
            named = "config." if field == "trial" else field.rpartition(".")[2]  # it is seed too
            arguments = (*NPZ, *besides, f"--config.{field}={value}")
            found.append(Case(f"{field}={value}", "main", arguments, (named,)))
    return found


def wrong_values(field: str, value) -> list[str]:
    """Values that a field with the default `value` cannot have."""
    if isinstance(value, bool):
        return ["maybe", "2", "nan"]
    if isinstance(value, int):
        values = ["many", "1.5", "nan", "True", "1e3", str(10**21)]
        return values + ["-1"] * (field not in FREE_BELOW) + ["0"] * (field in AT_LEAST_ONE.split())
    if isinstance(value, float):
        negative = "-2" if field == "weight_decay" else "-1"  # whose -1 depends on the data
        return ["high", "nan", "inf", "-inf", negative, "True", "(1,)"]
    if isinstance(value, list):
        return ["(1.5,)", "(True,)", "(-3,)", "({{}},)"]
    if field in NAMED.split():
        return ["nonsense", "''", "1"]
    return []


# --- Flags and config files -----------------------------------------------------------------------


def of_flags() -> list[Case]:
    """Flags of reweight_jax.main."""
    address, two = "--coordinator_address=", ("--num_processes=2", "--process_id=0")
    wrong = {
        "no config": ((), "--config is missing"),
        "empty config": (("--config=",), "--config"),
        "config is a folder": (("--config={c}",), "a folder"),
        "config of nobody": (("--config=~nosuchuser/a.py",), "nosuchuser"),
        "config is missing": (("--config=none.py",), "none.py"),
        "config has a long name": (("--config=" + "a" * 5000,), "--config"),
        "config is a device": (("--config=/dev/zero",), "/dev/zero"),
        "config is an npz": (("--config={d}/a.npz",), "a.npz"),
        "no variant": (("--config=configs/own_data.py:none",), "no variant 'none'"),
        "unknown flag": ((*NPZ, "--speed=9"), "'speed'"),
        "unknown flag before": (("--speed=9", *NPZ), "speed"),
        "unknown field": ((*NPZ, "--config.metod=x"), "did you mean method?"),
        "like no field": ((*NPZ, "--config.xyzzy=1"), "no field xyzzy; configs/default.py has all"),
        "unknown group": ((*NPZ, "--config.date.path=x"), "date"),
        "field of a field": ((*NPZ, "--config.seed.x=1"), "seed"),
        "a group": ((*NPZ, "--config.data=1"), "data"),
        "no value": ((*NPZ, "--config.seed"), "seed"),
        "stray": ((*NPZ, "stray"), "'stray'"),
        "stray before": (("stray", *NPZ), "stray"),
        "field before config": (("--config.seed=1", *NPZ), "seed"),
        "two configs": ((*NPZ, "--config=none.py"), "none.py"),
        "flagfile": ((*NPZ, "--flagfile=none"), "none"),
        "workdir is a file": ((*NPZ, "--workdir={d}/a.npz"), "--workdir"),
        "workdir in a file": ((*NPZ, "--workdir={d}/a.npz/run"), "--workdir"),
        "workdir of nobody": ((*NPZ, "--workdir=~nosuchuser/run"), "--workdir"),
        "workdir is a device": ((*NPZ, "--workdir=/dev/null"), "--workdir"),
        "workdir in /proc": ((*NPZ, "--workdir=/proc/run"), "--workdir"),
        "workdir has a long name": ((*NPZ, "--workdir=" + "a" * 300), "--workdir"),
        "workdir has a long path": ((*NPZ, "--workdir=" + "a/" * 3000), "--workdir"),
        "workdir is an image": ((*NPZ, "--workdir={d}/images/cat/0.png"), "--workdir"),
        "port": ((*NPZ, f"{address}localhost:99999", *two), "99999"),
        "port 0": ((*NPZ, f"{address}localhost:0", *two), "HOST:PORT"),
        "port of letters": ((*NPZ, f"{address}localhost:x", *two), "HOST:PORT"),
        "no port": ((*NPZ, f"{address}localhost", *two), "HOST:PORT"),
        "no host": ((*NPZ, f"{address}:1234", *two), "HOST:PORT"),
        "negative port": ((*NPZ, f"{address}a:-1", *two), "HOST:PORT"),
        "process_id": ((*NPZ, f"{address}a:1", two[0], "--process_id=2"), "--process_id: 2"),
        "negative id": ((*NPZ, f"{address}a:1", two[0], "--process_id=-1"), "--process_id: -1"),
        "no process_id": ((*NPZ, f"{address}a:1234", two[0]), "--process_id"),
        "no address": ((*NPZ, *two), "--coordinator_address"),
        "no process": ((*NPZ, f"{address}a:1", "--num_processes=0", two[1]), "--num_processes: 0"),
        "many processes": (
            (*NPZ, f"{address}a:1", f"--num_processes={10**9}", two[1]), "--num_processes"),
        "processes of letters": ((*NPZ, "--num_processes=x"), "num_processes"),
        "name outside": ((*NPZ[:2], "--config.name=../../x"), "config.name"),
        "variant outside": ((*NPZ[:2], "--config.variant=a/../../x"), "config.variant"),
        "absolute name": ((*NPZ[:2], "--config.name={c}/x"), "config.name"),
        "hidden name": ((*NPZ[:2], "--config.name=.x"), "config.name"),
        "long name": ((*NPZ[:2], "--config.name=" + "x" * 300), "config.name"),
        "name of two lines": ((*NPZ[:2], "--config.name=a\nb"), "config.name"),
    }  # fmt: skip
    return [Case(f"flags: {name}", "main", a, (word,)) for name, (a, word) in wrong.items()]


INSIDE = {  # a line of get_config -> what the message must have
    "config.lerning_rate = 1": "line 5: no field lerning_rate; did you mean learning_rate?",
    "config.data.num_claen = 3": "did you mean num_clean?",
    "config.learning_rate = 'high'": "learning_rate",
    "config.learning_rate = -1.0": "config.learning_rate",
    "config.num_steps = True": "config.num_steps: True",
    "config.lr_drop_steps = (True,)": "config.lr_drop_steps",
    "config.model.hidden = (64, False)": "config.model.hidden",
    "config.name = '../x'": "config.name",
    "config.seed = None": "seed",
    "1 / 0": "line 5: ZeroDivisionError",
    "import nosuchmodule": "line 5: ModuleNotFoundError: No module named 'nosuchmodule'",
    "from reweight_jax import nothing": "nothing",
    "import sys; sys.exit(0)": "config.py, line 5: SystemExit",
    "raise SystemExit": "config.py, line 5: SystemExit",
    "raise SystemExit('enough')": "enough",
    "exit(3)": "config.py, line 5",
    "{}['a']": "KeyError",
    "ConfigDict.nothing": "nothing",
    "open('none.txt')": "none.txt",
    r"b'\xff'.decode()": "line 5: UnicodeDecodeError",
    "raise ValueError": "line 5: ValueError",
    r"raise ValueError('a\nb')": "a b",
    "(f := lambda: f())()": "RecursionError",
    "raise BaseException('odd')": "odd",
    "import math; math.sqrt(-1)": "line 5: ValueError",
    "import json; json.loads('{')": "line 5: JSONDecodeError",
    "assert config.seed": "line 5: AssertionError",
    "del config.unlock().num_steps": "config.num_steps: missing",
    "del config.unlock().data": "config.data.",
    "del config.data.unlock().path": "config.data.path: missing",
    "config.unlock().new = 1": "config.new: no such field",
    "del config.unlock().seed; config.seed = 'x'": "config.seed",
    "del config.unlock().data; config.data = 'x'": "config.data",
    "return None": "must be a ConfigDict",
    "return dict(config)": "must be a ConfigDict",
    "return 3": "must be a ConfigDict",
    "return ConfigDict": "must be a ConfigDict",
    "return [config]": "must be a ConfigDict",
    "return ConfigDict()": "config.",
}
PROGRAMS = {
    "syntax": ("def get_config(:\n", "config.py, line 1"),
    "indent": ("def get_config():\nreturn 1\n", "config.py, line 2"),
    "empty": ("", "get_config"),
    "no function": ("x = 1\n", "get_config"),
    "function is a number": ("get_config = 3\n", "not callable"),
    "needs an argument": ("def get_config(x):\n    return x\n", "missing 1 required"),
    "raises at once": ("raise OSError('gone')\n", "line 1: OSError: gone"),
    "exits at once": ("import sys\nsys.exit(0)\n", "config.py, line 2"),
    "null bytes": ("x = '\x00'\n", "null byte"),
}


def of_config_files() -> list[Case]:
    """Programs that should make a config."""
    start = "from reweight_jax.configs import own_data\nfrom ml_collections import ConfigDict\n"
    start += "def get_config():\n    config = own_data.get_config('npz')\n"
    programs = dict(PROGRAMS)
    for line, word in INSIDE.items():
        programs[line] = (f"{start}    {line}\n    return config\n", word)
    arguments = ("--config={c}/config.py", "--workdir={c}/run")
    found = [
        Case(f"config file: {n}", "main", arguments, (word,), with_text("config.py", text))
        for n, (text, word) in programs.items()
    ]
    of_bytes = {
        "latin-1": with_bytes("config.py", b"# \xe9\nx = 1\n"),
        "fifo": lambda folder, good: os.mkfifo(folder / "config.py"),
        "compiled": with_bytes("config.py", bytes(range(256))),
    }
    found += [
        Case(f"config file: {name}", "main", arguments, ("config.py",), make)
        for name, make in of_bytes.items()
    ]
    others = {
        "sweep": ("--workdir={c}/w", "--results={c}/r"),
        "choose_trusted": ("--output={c}/o",),
        "predict": ("--workdir={d}/run", "--input={d}/new.npz", "--output={c}/p.csv"),
    }
    for command, flags in others.items():
        for name in ("exits at once", "return None", "syntax", "1 / 0"):
            text, word = programs[name]
            wrong, make = ("--config={c}/config.py", *flags), with_text("config.py", text)
            found.append(Case(f"config file: {command}: {name}", command, wrong, (word,), make))
    return found


# --- npz ------------------------------------------------------------------------------------------


def with_bytes(name: str, content: bytes):
    return lambda folder, good: (folder / name).write_bytes(content)


def with_text(name: str, text: str):
    return with_bytes(name, text.encode())


def with_arrays(**changes):
    def make(folder, good):
        found = arrays() | changes
        np.savez(folder / "bad.npz", **{n: a for n, a in found.items() if a is not None})

    return make


def with_header(shape, dtype="<f4", name="train_input"):
    """An npz with an array whose header says another shape than it has bytes for."""

    def make(folder, good):
        np.savez(folder / "bad.npz", **{n: a for n, a in arrays().items() if n != name})
        header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
        header += b" " * (-(len(header) + 11) % 64) + b"\n"
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(480)
        with zipfile.ZipFile(folder / "bad.npz", "a") as file:
            file.writestr(f"{name}.npy", content)

    return make


def with_member(folder, good):
    np.savez(folder / "bad.npz", **arrays())
    with zipfile.ZipFile(folder / "bad.npz", "a") as file:
        file.writestr("readme.txt", b"hello")


def with_a_flipped_bit(folder, good):
    content = bytearray((good / "a.npz").read_bytes())
    content[300] ^= 1
    (folder / "bad.npz").write_bytes(content)


def cut(folder, good):
    content = (good / "a.npz").read_bytes()
    (folder / "bad.npz").write_bytes(content[: len(content) // 2])


def of_npz() -> list[Case]:
    """npz files as training data."""
    x, y = arrays()["train_input"], arrays()["train_label"]
    rows = {"train": 40, "clean": 10, "test": 10}

    def changed(array, row, value):
        array = array.copy()
        array[row] = value
        return array

    floats = np.where(y == "up", 1.0, 0.0)
    of_arrays = {  # arrays that are changed -> what the message must have
        "nan": ({"train_input": changed(x, 7, np.nan)}, "train_input: row 7"),
        "inf in test": ({"test_input": changed(x[:10], 3, np.inf)}, "test_input: row 3"),
        "nan in clean": ({"clean_input": changed(x[:10], 9, np.nan)}, "clean_input: row 9"),
        "overflow": ({"train_input": changed(x.astype(float), 2, 1e39)}, "train_input: row 2"),
        "nan label": ({"train_label": changed(floats, 5, np.nan)}, "train_label: row 5"),
        "inf label": ({"train_label": changed(floats, 5, np.inf)}, "train_label: row 5"),
        "half label": ({"train_label": changed(floats, 5, 0.5)}, "train_label: row 5"),
        "unknown label": ({"test_label": changed(y[:10].astype("U9"), 4, "left")}, "left"),
        "one class": ({f"{s}_label": np.full(n, "up") for s, n in rows.items()}, "two classes"),
        "fewer labels": ({"train_label": y[:-1]}, "40 rows"),
        "no labels": ({"train_label": None}, "train_label"),
        "no inputs": ({"train_input": None}, "train_input"),
        "no train": ({"train_input": None, "train_label": None}, "train_input"),
        "one more": ({"weights": x}, "nothing reads the array weights"),
        "typing error": ({"tain_label": y}, "did you mean train_label"),
        "no row": ({"train_input": x[:0], "train_label": y[:0]}, "empty"),
        "no column": ({f"{s}_input": np.zeros((n, 0)) for s, n in rows.items()}, "empty"),
        "a number": ({"train_input": np.float32(3)}, "train_input"),
        "flat inputs": ({"train_input": x[:, 0]}, "train_input"),
        "complex": ({"train_input": x.astype(complex)}, "complex"),
        "text inputs": ({"train_input": x.astype(str)}, "train_input"),
        "dates": ({"train_input": np.zeros((40, 3), "datetime64[s]")}, "datetime64"),
        "records": ({"train_input": np.zeros(40, "i4,f4")}, "train_input"),
        "objects": ({"train_input": np.array([None] * 40)}, "pickled"),
        "objects as labels": ({"train_label": np.array([None] * 40)}, "pickled"),
        "matrix of labels": ({"train_label": np.zeros((40, 2), int)}, "train_label"),
        "a label": ({"train_label": np.float32(1)}, "train_label"),
        "dates as labels": ({"train_label": np.zeros(40, "datetime64[s]")}, "datetime64"),
        "labels of two types": ({"clean_label": np.zeros(10, int)}, "different types"),
        "other width": ({"test_input": np.zeros((10, 4), np.float32)}, "test_input"),
        "other type": ({"test_input": np.zeros((10, 3), np.uint8)}, "test_input"),
        "large ids": ({"train_input": np.full((40, 3), 2**40)}, "32 bits"),
        "both names": ({"train_image": x}, "train_image"),
        "nested and not": ({"train_input.a": x}, "train_input.a"),
        "dict and array": ({"train_input": None, "train_input.a": x}, "clean_input"),
        "dict of two lengths": (
            {"train_input": None, "train_input.a": x, "train_input.b": x[1:]}, "different length"),
        "labels not in UTF-8": ({"train_label": np.full(40, b"\xff")}, "train_label"),
        "empty labels": ({"test_label": np.full(10, "")}, "test_label"),
        "a label of 10^19": ({"train_label": np.full(40, 10**19, np.uint64)}, "train_label"),
    }  # fmt: skip
    made = {name: (with_arrays(**changes), word) for name, (changes, word) in of_arrays.items()}
    made |= {
        "header of 10^12 rows": (with_header((10**12, 3)), "train_input"),
        "header of 10^12 labels": (with_header((10**12,), name="train_label"), "train_label"),
        "header of 10^30 rows": (with_header((10**30,)), "train_input"),
        "header of 10^10 rows": (with_header((10**10, 3)), "train_input"),
        "header of fewer rows": (with_header((39, 3)), "train_input"),
        "header of negative rows": (with_header((-1, 3)), "train_input"),
        "header of long text": (with_header((40,), "<U1000000000", "train_label"), "train_label"),
        "header of no type": (with_header((40, 3), "<z9"), "train_input"),
        "header of objects": (with_header((40, 3), "|O"), "train_input"),
        "header is a program": (with_header("__import__('os').abort()"), "train_input"),
        "no array": (lambda folder, good: np.savez(folder / "bad.npz"), "none"),
        "empty file": (with_bytes("bad.npz", b""), "bad.npz"),
        "text": (with_bytes("bad.npz", b"hello"), "bad.npz"),
        "half a zip": (with_bytes("bad.npz", b"PK\x03\x04" + bytes(100)), "bad.npz"),
        "zeros": (with_bytes("bad.npz", bytes(1000)), "bad.npz"),
        "a pickle": (with_bytes("bad.npz", b"\x80\x04N."), "bad.npz"),
        "one array": (lambda folder, good: _save_one(folder / "bad.npz", x), "np.savez"),
        "another file inside": (with_member, "readme.txt"),
        "folder": (lambda folder, good: (folder / "bad.npz").mkdir(), "a folder"),
        "fifo": (lambda folder, good: os.mkfifo(folder / "bad.npz"), "no regular file"),
        "link to itself": (lambda folder, good: (folder / "bad.npz").symlink_to("bad.npz"), "bad"),
        "link to nothing": (lambda folder, good: (folder / "bad.npz").symlink_to("none"), "bad"),
        "flipped bit": (with_a_flipped_bit, "bad.npz"),
        "cut": (cut, "bad.npz"),
    }
    path = "--config.data.path={c}/bad.npz"
    return [Case(f"npz: {n}", "main", (*NPZ, path), (w,), make) for n, (make, w) in made.items()]


def _save_one(path, array):
    with path.open("wb") as file:
        np.save(file, array)


def with_damaged_tfds(folder, good):
    (folder / "tfds/mnist/3.0.1").mkdir(parents=True)
    (folder / "tfds/mnist/3.0.1/dataset_info.json").write_text("{")
    (folder / "tfds/mnist/3.0.1/features.json").write_text("[]")


def with_half_a_tfds(folder, good):
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": "array_record", "splits": []}
    (folder / "half/mnist/3.0.1").mkdir(parents=True)
    (folder / "half/mnist/3.0.1/dataset_info.json").write_text(json.dumps(info))
    (folder / "half/mnist/3.0.1/features.json").write_text("{}")


def of_npz_settings() -> list[Case]:
    """Fields that do not fit the data of an npz file, or each other."""
    imbalanced, conf = "data.imbalance_ratio=10", "method=s_model_conf"
    settings = {  # fields -> what the message must have
        "tags": (("task=multi_label",), "train_label"),
        "numbers": (("task=regression",), "train_label"),
        "no path": (("data.path=",), "config.data.path: empty"),
        "missing": (("data.path={c}/none.npz",), "none.npz"),
        "path of nobody": (("data.path=~nosuchuser/a.npz",), "nosuchuser"),
        "device": (("data.path=/dev/zero",), "/dev/zero"),
        "null device": (("data.path=/dev/null",), "/dev/null"),
        "long path": (("data.path=" + "a" * 5000,), "data.path"),
        "in a file": (("data.path={d}/a.npz/b.npz",), "b.npz"),
        "is a csv": (("data.path={d}/a.csv",), "a.csv"),
        "is a folder": (("data.path={d}/images",), "a folder"),
        "classes": (("data.num_classes=10",), "num_classes"),
        "many classes": ((f"data.num_classes={10**7}",), "num_classes"),
        "num_classes of 1": (("data.num_classes=1",), "num_classes"),
        "chosen classes": (("data.classes=(1,2)",), "config.data.classes"),
        "one chosen class": (("data.classes=(1,)",), "config.data.classes"),
        "hyper_val": (("data.num_hyper_val=1000",), "num_hyper_val"),
        "huge hyper_val": ((f"data.num_hyper_val={10**9}",), "num_hyper_val"),
        "calibration": (("data.num_calibration=1000",), "num_calibration"),
        "all calibration": (("data.num_calibration=10",), "num_calibration"),
        "huge clean": (("data.labels_are_right=True", f"data.num_clean={10**9}",
                        "data.path={c}/bad.npz"), "num_clean"),
        "train": ((f"data.num_train={10**9}",), "num_train"),
        "huge batch": ((f"batch_size={10**9}",), "config.batch_size"),
        "large batch": ((f"batch_size={10**6}",), "config.batch_size"),
        "no clean": (("data.path={c}/bad.npz",), "trusted set"),
        "crop": (("data.crop_padding=2",), "crop_padding"),
        "flip": (("data.flip=True",), "flip"),
        "lenet": (("model.name=lenet",), "config.model.name"),
        "resnet": (("model.name=resnet",), "config.model.name"),
        "transformer": (("model.name=transformer", "model.vocabulary=9"), "config.model"),
        "own model": (("model.name=own",), "config.model.name"),
        "dtype": (("model.dtype=float64",), "config.model.dtype"),
        "huge layers": ((f"model.hidden=({10**9},{10**9})",), "config.model"),
        "huge layer": ((f"model.hidden=({2 * 10**9},)",), "config.model"),
        "layer of nothing": (("model.hidden=(16,0)",), "config.model.hidden"),
        "dropout": (("model.dropout=1.0",), "dropout"),
        "percentile": (("mentor_percentile=100.5",), "config.mentor_percentile"),
        "over": (("epsilon_over=nothing",), "config.epsilon_over"),
        "pattern": (("epsilon_over=[",), "config.epsilon_over"),
        "ratio": (("data.noise=uniform_flip", "data.noise_ratio=1.5"), "noise_ratio"),
        "ratio without noise": (("data.noise_ratio=0.5",), "noise is none"),
        "background": (("data.noise=background_flip", "data.background_class=2"), "background"),
        "factor": (("data.imbalance_factor=0.5",), "imbalance_factor"),
        "imbalance of all": ((imbalanced,), "num_train"),
        "two imbalances": (
            (imbalanced, "data.imbalance_factor=2", "data.num_train=20"), "imbalance_factor"),
        "dominant": (
            (imbalanced, "data.num_train=20", "data.dominant_class=9"), "dominant_class"),
        "s_model_conf": ((conf,), "confusion_from: empty"),
        "confusion_from": ((conf, "confusion_from={c}/none"), "confusion_from"),
        "confusion_from nobody": ((conf, "confusion_from=~nosuchuser"), "confusion_from"),
        "confusion_from a file": ((conf, "confusion_from={d}/a.npz"), "confusion_from"),
        "confusion_from a fifo": ((conf, "confusion_from={c}"), "confusion_from"),
        "confusion_from another": ((conf, "confusion_from={d}/run"), "confusion_from"),
        "evaluations": (("eval_every_steps=150",), "log_every_steps"),
        "checkpoints": (("checkpoint_every_steps=150",), "log_every_steps"),
        "steps in all": ((f"num_steps={2**31 - 1}", "compare_plain=True"), "num_steps"),
        "tfds is not there": (("data.name=mnist", "data.data_dir={c}/none"), "is not prepared"),
        "tfds is a file": (("data.name=mnist", "data.data_dir={d}/a.npz"), "mnist"),
        "tfds of nobody": (("data.name=mnist", "data.data_dir=~nosuchuser"), "nosuchuser"),
        "tfds damaged": (("data.name=mnist", "data.data_dir={c}/tfds"), "cannot be read"),
        "tfds without records": (("data.name=mnist", "data.data_dir={c}/half"), "mnist"),
        "arrays": (("data.name=arrays",), "config.data.name"),
    }  # fmt: skip

    def result_fifo(folder, good):
        os.mkfifo(folder / "result.json")

    makers = dict.fromkeys(
        ("no clean", "huge clean"), with_arrays(clean_input=None, clean_label=None)
    )
    makers |= {"tfds damaged": with_damaged_tfds, "tfds without records": with_half_a_tfds}
    makers |= {"confusion_from a fifo": result_fifo}
    found = []
    for name, (fields, word) in settings.items():
        arguments = (*NPZ, *(f"--config.{field}" for field in fields))
        found.append(Case(f"npz: {name}", "main", arguments, (word,), makers.get(name)))
    return found


# --- CSV ------------------------------------------------------------------------------------------

HEADER = "x,y,label,red,big,checked\n"


def with_cells(*changes, rows=None):
    """A good table with some cells changed: (row, column, text); row 0 is the header."""

    def make(folder, good):
        lines = table()[:rows]
        for row, column, text in changes:
            lines[row][column] = text
        write_table(folder / "bad.csv", lines)

    return make


def of_csv() -> list[Case]:
    """CSV files as training data."""
    made = {
        "text cell": (with_cells((3, 0, "many")), "line 4, column x"),
        "empty cell": (with_cells((3, 1, "")), "line 4, column y"),
        "nan": (with_cells((5, 1, "nan")), "line 6, column y"),
        "inf": (with_cells((5, 1, "inf")), "line 6, column y"),
        "overflow": (with_cells((5, 1, "1e999")), "line 6, column y"),
        "float overflow": (with_cells((5, 1, "1e39")), "row 4"),
        "no label": (with_cells((5, 2, " ")), "line 6, column label"),
        "no label column": (with_cells((0, 2, "lable")), "label"),
        "two columns": (with_cells((0, 1, "x")), "'x'"),
        "no column name": (with_cells((0, 1, "")), "column 2"),
        "one more cell": (with_cells((4, 1, "1,2")), "line 5"),
        "quote": (with_cells((4, 1, '"1')), "bad.csv"),
        "header only": (with_cells(rows=1), "no row"),
        "one row": (with_cells(rows=2), "two classes"),
        "file and others": (with_cells((0, 0, "file")), "nothing reads"),
        "empty": (with_text("bad.csv", ""), "empty"),
        "blank": (with_text("bad.csv", "\n\n\n"), "empty"),
        "few cells": (with_text("bad.csv", HEADER + "1,2\n"), "line 2"),
        "latin-1": (with_bytes("bad.csv", HEADER.encode() + b"\xe9,1,a,0,0,0\n"), "UTF-8"),
        "utf-16": (with_bytes("bad.csv", "x,label\n1,a\n".encode("utf-16")), "UTF-8"),
        "null byte": (with_text("bad.csv", HEADER + "1,\x00,a,0,0,0\n"), "bad.csv"),
        "semicolons": (with_text("bad.csv", "x;label\n1;a\n2;b\n"), "bad.csv"),
        "a long cell": (with_text("bad.csv", HEADER + "1" * 200_000), "CSV"),
        "zip": (with_bytes("bad.csv", b"PK\x03\x04" + bytes(range(256))), "bad.csv"),
        "folder": (lambda folder, good: (folder / "bad.csv").mkdir(), "a folder"),
        "fifo": (lambda folder, good: os.mkfifo(folder / "bad.csv"), "no regular file"),
    }
    path = "--config.data.path={c}/bad.csv"
    return [
        Case(f"csv: {name}", "main", (*TRAIN_CSV, path), (word,), make)
        for name, (make, word) in made.items()
    ]


def of_csv_settings() -> list[Case]:
    """Fields that do not fit the data of a CSV file."""
    every = "data.ignore_columns=()"
    settings = {
        "missing": (("data.path={c}/none.csv",), "none.csv"),
        "device": (("data.path=/dev/zero",), "/dev/zero"),
        "nobody": (("data.path=~nosuchuser/a.csv",), "nosuchuser"),
        "label column": (("data.label_column=",), "label_column: empty"),
        "other label column": (("data.label_column=klass",), "'klass'"),
        "no tag": (("data.label_column=red,blue",), "'blue'"),
        "text as tags": (("data.label_column=label,x", "task=multi_label"), "label"),
        "values as classes": (("data.label_column=red,big",), "label"),
        "text as numbers": (("task=regression",), "train_label"),
        "ignored": (("data.ignore_columns=('z',)",), "'z'"),
        "all ignored": (("data.ignore_columns=('x','y','red','big','checked')",), "no column is"),
        "mark": (("data.clean_column=z",), "'z'"),
        "mark of numbers": (("data.clean_column=x", every), "must be 0 or 1"),
        "mark and file": (("data.clean_column=checked", every,
                           "data.clean_path={d}/trusted.csv"), "clean_path and clean_column"),
        "clean is train": (("data.clean_path={d}/a.csv",), "must be different"),
        "clean is missing": (("data.clean_path={c}/none.csv",), "none.csv"),
        "clean is an npz": (("data.clean_path={d}/a.npz",), "a.npz"),
        "clean fifo": (("data.clean_path={c}/fifo",), "fifo"),
        "test fifo": (("data.test_path={c}/fifo",), "fifo"),
        "calibration fifo": (("data.calibration_path={c}/fifo",), "fifo"),
        "corrections fifo": (("data.corrections={c}/fifo",), "fifo"),
        "corrections zero": (("data.corrections=/dev/zero",), "/dev/zero"),
        "corrections of nobody": (("data.corrections=~nosuchuser/a.csv",), "nosuchuser"),
        "corrections list": (("data.corrections={d}/a.csv,{c}/none.csv",), "a.csv"),
        "corrections long": (("data.corrections=" + "a" * 5000,), "aaa"),
        "corrections npz": (("data.corrections={d}/a.npz",), "a.npz"),
        "corrections folder": (("data.corrections={d}",), "a folder"),
        "test lacks a column": (("data.test_path={c}/narrow.csv",), "lacks the column"),
        "test has one more": (("data.test_path={c}/wide.csv",), "one more column"),
        "test has no row": (("data.test_path={c}/no_row.csv",), "no row"),
    }  # fmt: skip

    def make(folder, good):
        os.mkfifo(folder / "fifo")
        write_table(folder / "narrow.csv", [line[1:3] for line in table()])
        write_table(folder / "wide.csv", [[*line, f"z{i}"] for i, line in enumerate(table())])
        write_table(folder / "no_row.csv", table()[:1])

    found = []
    for name, (fields, word) in settings.items():
        arguments = (*TRAIN_CSV, *(f"--config.{field}" for field in fields))
        found.append(Case(f"csv settings: {name}", "main", arguments, (word,), make))
    return found


def of_corrections() -> list[Case]:
    """Files of decisions about the training labels."""
    columns = "index,decision,new_label\n"
    texts = {
        "no index": "decision,new_label\ndrop,\n",
        "no decision": "index\n0\n",
        "no new label": "index,decision\n0,drop\n",
        "other decision": columns + "0,remove,\n",
        "other label": columns + "0,relabel,c\n",
        "no label": columns + "0,relabel,\n",
        "far row": columns + "1000,drop,\n",
        "huge row": columns + f"{10**30},drop,\n",
        "negative row": columns + "-1,drop,\n",
        "half row": columns + "0.5,drop,\n",
        "row twice": columns + "0,drop,\n0,drop,\n",
        "ragged": columns + "0\n",
        "Arabic digits": columns + "\u0663,drop,\n",
        "other id": "index,id,decision,new_label\n0,99,drop,\n",
        "given label": "index,given_label,decision,new_label\n0,b,drop,\n",
        "all": columns + "".join(f"{i},drop,\n" for i in range(12)),
        "empty": "",
    }
    arguments = (*TRAIN_CSV, "--config.data.corrections={c}/bad.csv")
    return [
        Case(f"corrections: {name}", "main", arguments, ("bad.csv",), with_text("bad.csv", text))
        for name, text in texts.items()
    ]


# --- Images ---------------------------------------------------------------------------------------


def with_images(change):
    """Good images in the folder `bad`, which `change` then changes."""

    def make(folder, good):
        write_images(folder / "bad")
        change(folder / "bad")

    return make


def with_two_loops(folder):
    for name in "ab":
        (folder / "cat" / name).symlink_to(".")


def with_a_cut_image(folder):
    path = folder / "cat/0.png"
    path.write_bytes(path.read_bytes()[:-40])


def of_images() -> list[Case]:
    """Folders of images as training data."""
    png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (10**6).to_bytes(4, "big") * 2
    png += b"\x08\x02\x00\x00\x00"
    changes = {  # a change of the folder -> what the message must have
        "text": (lambda folder: (folder / "cat/9.png").write_text("hello"), "9.png"),
        "empty file": (lambda folder: (folder / "cat/9.png").touch(), "9.png"),
        "other file": (lambda folder: (folder / "cat/notes.txt").touch(), "notes.txt"),
        "stray": (lambda folder: (folder / "9.png").touch(), "9.png"),
        "empty class": (lambda folder: (folder / "owl").mkdir(), "owl"),
        "other size": (
            lambda folder: Image.new("RGB", (9, 8)).save(folder / "cat/9.png"), "image_size"),
        "deep": (lambda folder: Image.new("I;16", (8, 8)).save(folder / "cat/9.png"), "8 bits"),
        "huge header": (lambda folder: (folder / "cat/9.png").write_bytes(png), "9.png"),
        "fifo": (lambda folder: os.mkfifo(folder / "cat/9.png"), "no regular file"),
        "fifo as class": (lambda folder: os.mkfifo(folder / "owl"), "owl"),
        "device": (lambda folder: (folder / "cat/9.png").symlink_to("/dev/zero"), "9.png"),
        "link to nothing": (lambda folder: (folder / "cat/9.png").symlink_to("none"), "9.png"),
        "loop": (lambda folder: (folder / "cat/again").symlink_to(".."), "again"),
        "two loops": (with_two_loops, "cat"),
        "cut": (with_a_cut_image, "0.png"),
    }  # fmt: skip
    made = {name: (with_images(change), word) for name, (change, word) in changes.items()}
    made |= {
        "missing": (None, "bad"),
        "empty": (lambda folder, good: (folder / "bad").mkdir(), "no image"),
        "a file": (with_text("bad", "hello"), "bad"),
    }
    path = "--config.data.path={c}/bad"
    found = [
        Case(f"images: {name}", "main", (*IMAGES, path), (word,), make)
        for name, (make, word) in made.items()
    ]
    settings = {
        "huge size": (("data.image_size=100000000",), "image_size"),
        "more than memory": (("data.image_size=10000", "data.path={c}/many"), "resident"),
        "crop": (("data.crop_padding=8",), "crop_padding"),
        "huge crop": (("data.crop_padding=1000000000",), "crop_padding"),
        "clean is missing": (("data.clean_path={c}/none",), "none"),
        "clean is train": (("data.clean_path={d}/images",), "must be different"),
        "clean is a file": (("data.clean_path={d}/a.npz",), "a.npz"),
        "test has another class": (("data.test_path={c}/other",), "bird"),
        "many workers": (("data.workers=100000",), "workers"),
        "transformer": (("model.name=transformer", "model.vocabulary=9"), "model"),
        "no path": (("data.path=",), "data.path: empty"),
        "nobody": (("data.path=~nosuchuser",), "nosuchuser"),
    }

    def other(folder, good):
        write_images(folder / "other")
        (folder / "other/cat").rename(folder / "other/bird")

    def many(folder, good):  # links to one image: 300 MB each, if they are that large
        for name in ("cat", "dog"):
            (folder / "many" / name).mkdir(parents=True)
            for i in range(5_000 if name == "cat" else 1):
                (folder / "many" / name / f"{i}.png").symlink_to(good / "images/cat/0.png")

    for name, (fields, word) in settings.items():
        arguments = (*IMAGES, *(f"--config.{field}" for field in fields))
        make = many if name == "more than memory" else other
        found.append(Case(f"image settings: {name}", "main", arguments, (word,), make))
    return found


# --- Other commands, and the folders of runs ------------------------------------------------------

KINDS = {
    "fifo": os.mkfifo,
    "folder": os.mkdir,
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("hello"),
    "list": lambda path: path.write_text("[1]"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "gone": lambda path: None,
}


def with_run(name: str = "", kind: str = ""):
    """The finished run in the case's folder, with a file of it that is of another kind."""

    def make(folder, good):
        shutil.copytree(good / "run", folder / "run")
        path = folder / "run" / name
        if name:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            KINDS[kind](path)

    return make


def of_predict() -> list[Case]:
    """Flags and inputs of reweight_jax.predict."""
    run, new, to = "--workdir={d}/run", "--input={d}/new.npz", "--output={c}/p.csv"
    wrong = {
        "no workdir": ((new, to), "--workdir is missing"),
        "no input": ((run, to), "--input is missing"),
        "no run": (("--workdir={c}/none", new, to), "none"),
        "workdir is a file": (("--workdir={d}/a.npz", new, to), "a.npz"),
        "workdir of nobody": (("--workdir=~nosuchuser", new, to), "nosuchuser"),
        "input is missing": ((run, "--input={c}/none.npz", to), "none.npz"),
        "input of nobody": ((run, "--input=~nosuchuser/a.npz", to), "nosuchuser"),
        "input is zero": ((run, "--input=/dev/zero", to), "/dev/zero"),
        "input is images": ((run, "--input={d}/images", to), "images"),
        "input is an image": ((run, "--input={d}/images/cat/0.png", to), "image"),
        "input is text": ((run, "--input={c}/a.txt", to), "a.txt"),
        "input is a fifo": ((run, "--input={c}/fifo.npz", to), "fifo.npz"),
        "input is a csv fifo": ((run, "--input={c}/fifo.csv", to), "fifo.csv"),
        "input is an image fifo": ((run, "--input={c}/fifo.png", to), "fifo.png"),
        "input is an empty folder": ((run, "--input={c}/empty", to), "no image"),
        "input has a long name": ((run, "--input=" + "a" * 5000, to), "aaa"),
        "csv without columns": ((run, "--input={d}/a.csv", to), "file"),
        "other width": ((run, "--input={c}/wide.npz", to), "shape"),
        "nan": ((run, "--input={c}/nan.npz", to), "row 1"),
        "no array": ((run, "--input={c}/labels.npz", to), "input"),
        "no row": ((run, "--input={c}/no_row.npz", to), "empty"),
        "header": ((run, "--input={c}/bad.npz", to), "bad.npz"),
        "output is a folder": ((run, new, "--output={d}"), "--output"),
        "output in a file": ((run, new, "--output={d}/a.npz/p.csv"), "--output"),
        "output of nobody": ((run, new, "--output=~nosuchuser/p.csv"), "--output"),
        "output is a device": ((run, new, "--output=/dev/full"), "/dev/full"),
        "output is null": ((run, new, "--output=/dev/null"), "/dev/null"),
        "output is a fifo": ((run, new, "--output={c}/fifo.csv"), "fifo.csv"),
        "output has a long name": ((run, new, "--output=" + "a" * 300), "aaa"),
        "output is empty": ((run, new, "--output="), "--output"),
        "step": ((run, new, to, "--step=first"), "step"),
        "step of no phase": ((run, new, to, "--step=retrained"), "step"),
        "stray": ((run, new, to, "x"), "'x'"),
    }

    def make(folder, good):
        for suffix in ("npz", "csv", "png"):
            os.mkfifo(folder / f"fifo.{suffix}")
        (folder / "a.txt").write_text("hello")
        (folder / "empty").mkdir()
        np.savez(folder / "wide.npz", input=np.zeros((2, 9), np.float32))
        np.savez(folder / "nan.npz", input=np.array([[0, 0, 0], [0, np.nan, 0]], np.float32))
        np.savez(folder / "labels.npz", label=[1])
        np.savez(folder / "no_row.npz", input=np.zeros((0, 3), np.float32))
        with_header((10**12, 3))(folder, good)

    found = [Case(f"predict: {n}", "predict", a, (w,), make) for n, (a, w) in wrong.items()]
    arguments = ("--workdir={c}/run", new, to)
    for name in ("config.json", "result.json", "examples.npz", "checkpoints"):
        for kind in KINDS:
            case = f"predict: {name} is {kind}"
            found.append(Case(case, "predict", arguments, ("run",), with_run(name, kind)))
    return found


def of_report() -> list[Case]:
    """Flags of reweight_jax.report."""
    run, to = "--workdir={d}/run", "--output={c}/o"
    alarm, discovery = "--false_alarm_rate=", "--false_discovery_rate="
    wrong = {
        "no workdir": ((to,), "--workdir is missing"),
        "no run": (("--workdir={c}/none", to), "none"),
        "workdir is a file": (("--workdir={d}/a.npz", to), "a.npz"),
        "workdir of nobody": (("--workdir=~nosuchuser", to), "nosuchuser"),
        "output is a file": ((run, "--output={d}/a.npz"), "--output"),
        "output of nobody": ((run, "--output=~nosuchuser"), "--output"),
        "output in a device": ((run, "--output=/dev/null/o"), "--output"),
        "stray": ((run, to, "x"), "'x'"),
    }
    for value in ("0", "1", "nan", "inf", "-1", "low", "True"):
        wrong[f"alarm {value}"] = (run, to, alarm + value), "false_alarm_rate"
    for value in ("1", "nan", "inf", "-0.1", "low"):
        wrong[f"discovery {value}"] = (run, to, discovery + value), "false_discovery_rate"
    found = [Case(f"report: {n}", "report", a, (word,)) for n, (a, word) in wrong.items()]
    for name in ("config.json", "examples.npz", "suspect_inputs.npz", "calibration.npz"):
        for kind in ("fifo", "folder", "empty", "text", "device"):
            case, arguments = f"report: {name} is {kind}", ("--workdir={c}/run", to)
            found.append(Case(case, "report", arguments, ("run",), with_run(name, kind)))
    return found


def of_sweep() -> list[Case]:
    """Flags of scripts/sweep.py."""
    folders = ("--workdir={c}/w", "--results={c}/r")
    sweep = (*NPZ[:2], *folders)
    wrong = {
        "no config": (folders, "--config is missing"),
        "seed": ((*sweep, "--seeds=x"), "--seeds"),
        "half a seed": ((*sweep, "--seeds=1.5"), "--seeds"),
        "negative seed": ((*sweep, "--seeds=0,-1"), "seed"),
        "huge seed": ((*sweep, f"--seeds={10**30}"), "seed"),
        "no seed": ((*sweep, "--seeds="), "--seeds"),
        "ratio": ((*sweep, "--ratios=x"), "--ratios"),
        "nan ratio": ((*sweep, "--ratios=nan"), "ratio"),
        "inf ratio": ((*sweep, "--ratios=10,inf"), "ratio"),
        "negative ratio": ((*sweep, "--ratios=-1"), "ratio"),
        "no ratio": ((*sweep, "--ratios="), "--ratios"),
        "method": ((*sweep, "--methods=magic"), "'magic'"),
        "no method": ((*sweep, "--methods="), "--methods"),
        "workers": ((*sweep, "--workers=0"), "workers"),
        "many workers": ((*sweep, f"--workers={10**9}"), "workers"),
        "workers of text": ((*sweep, "--workers=x"), "workers"),
        "finetune": ((*sweep, "--finetune_from=x"), "finetune_from"),
        "also": ((*sweep, "--also=none.py"), "none.py"),
        "also a folder": ((*sweep, "--also={c}"), "--also"),
        "also of nobody": ((*sweep, "--also=~nosuchuser/a.py"), "nosuchuser"),
        "also a fifo": ((*sweep, "--also={c}/fifo.py"), "fifo.py"),
        "also exits": ((*sweep, "--also={c}/exits.py"), "exits.py"),
        "also raises": ((*sweep, "--also={c}/raises.py"), "raises.py"),
        "also returns none": ((*sweep, "--also={c}/none.py"), "ConfigDict"),
        "also lacks a field": ((*sweep, "--also={c}/lacks.py"), "config.seed: missing"),
        "also outside": ((*sweep, "--also={c}/outside.py"), "config.name"),
        "name outside": ((*sweep, "--config.name=../x"), "config.name"),
        "workdir is a file": ((*sweep, "--workdir={d}/a.npz"), "--workdir"),
        "results is a file": ((*sweep, "--workdir={c}", "--results={d}/a.npz"), "--results"),
        "results of nobody": ((*sweep, "--results=~nosuchuser"), "nosuchuser"),
        "field": ((*sweep, "--config.num_steps=0"), "num_steps"),
        "stray": ((*sweep, "x"), "'x'"),
    }
    start = "from reweight_jax.configs import own_data\ndef get_config():\n"
    start += "    config = own_data.get_config()\n"
    texts = {
        "exits": "import sys\nsys.exit(0)\n",
        "raises": start + "    raise RuntimeError('odd')\n",
        "none": start + "    return None\n",
        "lacks": start + "    del config.unlock().seed\n    return config\n",
        "outside": start + "    config.name = '../x'\n    return config\n",
    }

    def make(folder, good):
        os.mkfifo(folder / "fifo.py")
        for name, text in texts.items():
            (folder / f"{name}.py").write_text(text)

    return [Case(f"sweep: {n}", "sweep", a, (word,), make) for n, (a, word) in wrong.items()]


def of_choose_trusted() -> list[Case]:
    """Flags of scripts/choose_trusted.py and prepare_data.py."""
    to = "--output={c}/o"
    csv = (*CSV, "--num=2")
    wrong = {
        "no output": (csv, "--output is missing"),
        "no config": ((to,), "--config is missing"),
        "output is there": ((*csv, "--output={d}/images"), "--output"),
        "output is a file": ((*csv, "--output={d}/a.npz"), "--output"),
        "output in a file": ((*csv, "--output={d}/a.npz/o"), "--output"),
        "output of nobody": ((*csv, "--output=~nosuchuser/o"), "nosuchuser"),
        "output has a long name": ((*csv, "--output=" + "a" * 300), "--output"),
        "num 0": ((*csv, to, "--num=0"), "num"),
        "num": ((*csv, to, "--num=1000"), "--num"),
        "huge num": ((*csv, to, f"--num={10**12}"), "--num"),
        "num of text": ((*csv, to, "--num=x"), "num"),
        "digits": (("--config=configs/mnist_imbalance.py:digits", to), "config.data.name"),
        "workdir": ((*csv, to, "--workdir={c}/none"), "--workdir"),
        "missing data": ((*csv, to, "--config.data.path={c}/none.csv"), "none.csv"),
        "answers are missing": (("--finish={c}/none.csv", to), "config.json"),
        "answers of nobody": (("--finish=~nosuchuser/a.csv", to), "nosuchuser"),
        "answers": ((*csv, "--finish={d}/a.csv", to), "a.csv"),
        "answers are a fifo": ((*csv, "--finish={c}/fifo", to), "fifo"),
        "answers are empty": ((*csv, "--finish={c}/unfilled.csv", to), "fill it in"),
        "answers of no class": ((*csv, "--finish={c}/other.csv", to), "'c'"),
        "stray": ((*csv, to, "x"), "'x'"),
    }

    def make(folder, good):
        os.mkfifo(folder / "fifo")
        (folder / "unfilled.csv").write_text("index,label\n0,\n")
        (folder / "other.csv").write_text("index,label\n0,c\n")

    name = "choose_trusted"
    found = [Case(f"{name}: {n}", name, a, (word,), make) for n, (a, word) in wrong.items()]
    wrong = {
        "nothing": ((), "name the sets"),
        "unknown": (("svhn",), "'svhn'"),
        "one unknown": (("mnist", "svhn"), "'svhn'"),
        "folder is a file": (("mnist", "--data_dir={d}/a.npz"), "mnist"),
        "folder of nobody": (("mnist", "--data_dir=~nosuchuser"), "nosuchuser"),
        "flag": (("mnist", "--dir=x"), "dir"),
    }
    name = "prepare_data"
    return found + [Case(f"{name}: {n}", name, a, (word,)) for n, (a, word) in wrong.items()]


def of_folders() -> list[Case]:
    """The folder of a run, whose files are of another kind, or of another run."""
    same, found = (*NPZ, *SHORT), []
    kinds = {name: ["folder"] for name in ("config.json", "metrics.jsonl", "result.json")}
    kinds |= {name: ["fifo", "text", "device", "loop"] for name in ("checkpoints", "plots")}
    kinds |= {"lock": ["folder", "device", "loop"]}
    for name, of_it in kinds.items():
        for kind in of_it:
            case, make = f"folder: {name} is {kind}", with_run(name, kind)
            found.append(Case(case, "main", same, ("run",), make))
    for field in ("seed=1", "method=baseline", "batch_size=12", "model.hidden=(5,)"):
        arguments = (*same, f"--config.{field}")
        found.append(Case(f"folder: {field}", "main", arguments, ("another config",), with_run()))
    return found
