"""The folder of a run: its lock, whether it may be used, its config.json, and atomic writes."""

import contextlib
import functools
import json
import os
import pathlib
import platform
import time

import filelock
from flax.traverse_util import flatten_dict

from reweight_jax.configs import default
from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS
from reweight_jax.models.outputs import same_outputs
from reweight_jax.paths import expand
from reweight_jax.sealed import DamagedError, MissingError, checksum, read_sealed, seal

# Fields that change no number of a run: what is logged, how data is read, and the place of files:
# what is in them is compared by its fingerprint.
FREE = {"log_every_steps", "checkpoint_every_steps", "steps_per_dispatch", "confusion_from"}
PATHS = {"data.path", "data.clean_path", "data.calibration_path", "data.test_path"}
FREE |= {"data.resident", "data.workers", "data.data_dir", "data.corrections"} | PATHS
# Fields that say what follows the steps taken so far; `_may_differ` says when.
LATER = {"num_steps", "judge_for", "compare_plain", "retrain"}
LATER |= {"finetune_from", "finetune_steps", "finetune_learning_rate"}
OWN_MODEL = "dataset.own_model"  # by platform, `outputs_of` the user's own model
RATES = {"labels.false_alarm_rate", "labels.false_discovery_rate"}
LATER |= RATES
TUNED_LAST = {"none", "retrained"}  # values of finetune_from
# Those that add a phase, the last one first -> the value without it.
ADDED = {"retrain": "none", "compare_plain": False, "finetune_from": "none", "judge_for": 0}


# {"a": {"b": 1}} -> {"a.b": 1}
flatten = functools.partial(flatten_dict, sep=".")


class Workdir:
    """The folder of a run.

    Attributes:
      path: absolute path of the folder.
      writes: whether this process writes there; of several processes only the first one does.
      content: what config.json holds: the config, and in "dataset" the facts of the data.
    """

    def __init__(self, path: str | os.PathLike, config, facts: dict, *, writes: bool = True):
        """`config`: ConfigDict of the run; `facts`: what of the data it depends on, JSON."""
        self.path = expand(path, "--workdir").absolute()
        try:
            str(self.path).encode()
        except UnicodeEncodeError:  # orbax cannot write to it
            raise UserError(f"--workdir {self.path}: a run's folder must be UTF-8") from None
        self.writes, self._place = writes, None
        self.content = json.loads(json.dumps(json.loads(config.to_json()) | {"dataset": facts}))

    @contextlib.contextmanager
    def locked(self):
        """Makes the folder, and holds its lock, which also a kill frees.

        Raises:
          UserError: the folder cannot be used, another process holds it, or config.json is of
            another run. Only fields that do not change the steps already taken may differ: FREE,
            `num_steps` if no step depends on it, and later phases that have not begun.
        """
        with contextlib.ExitStack() as stack:
            if self.writes:
                try:
                    self.path.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(_lock(self.path))
                    self._place = os.stat(self.path)
                except OSError as error:
                    raise UserError(f"--workdir {self.path}: cannot be used ({error})") from None
                self._check_kinds()
                self._check_config()
                self._remove_parts()
            yield

    def _remove_parts(self):
        """Removes what `write_atomically` left of a process that was killed."""
        for folder in (self.path, self.path / "plots"):
            for left in folder.glob(".*.part"):
                if left.name.split(".")[-2].isdecimal():
                    with writing(left):
                        left.unlink()

    def _check_kinds(self):
        """Raises UserError, before hours of training, for a name that cannot be written later."""
        for name in ("config.json", "metrics.jsonl", "result.json", "checkpoints", "plots"):
            path, is_file = self.path / name, "." in name
            if os.path.isdir(path) if is_file else os.path.lexists(path) and not path.is_dir():
                what = "a folder" if is_file else "no folder"
                raise UserError(f"--workdir {self.path}: its {name} is {what}; remove it")

    def _check_config(self):
        saved = (self.path / "checkpoints").glob("*")
        newest = max((int(step.name) for step in saved if step.name.isdecimal()), default=0)
        try:
            self.check(read_sealed(self.path / "config.json"), newest)
        except MissingError:
            pass
        except DamagedError as error:  # it is in every checkpoint too
            if not (self.path / "checkpoints").is_dir():
                raise UserError(
                    f"--workdir {self.path}: config.json is damaged, or was edited, and there is "
                    "no checkpoint that has it; remove the folder, or choose another one"
                ) from error

    def check(self, content: dict, step: int) -> None:
        """Raises UserError if `content`, as `self.content`, is of a run that cannot go on as ours.

        `step`: the one that it has reached. Fields that are new since then have their defaults.
        """
        old, new = with_defaults(content), flatten(self.content)
        self._refuse(_differing(old, new) - _may_differ(old, new, step))

    def check_checkpoint(self, content: dict) -> None:
        """Raises UserError if a checkpoint that holds `content` was not made by this run.

        What was to follow it does not matter, and may have changed twice since.
        """
        old = with_defaults(content)
        later = LATER - ({"num_steps"} if _knows_its_end(old) else set())
        self._refuse(_differing(old, flatten(self.content)) - later)

    def _refuse(self, differing):
        if differing := differing - FREE:
            name = min(differing, key=lambda name: (name.startswith("dataset."), name))
            what = "other data" if name.startswith("dataset.") else f"another config.{name}"
            if name.startswith(OWN_MODEL):
                what = "another model"
            if name == "dataset.host_input":
                what = "another confusion matrix, config.confusion_from"
            hint = "; python -m reweight_jax.report judges its labels at another rate"
            raise UserError(
                f"--workdir {self.path}: holds a run with {what}; choose another folder, or remove "
                f"this one{hint if name in RATES else ''}"
            )

    def write_config(self) -> None:
        """Writes config.json, which says from then on which run the folder holds."""
        self.write("config.json", json.dumps(seal(self.content), indent=2, sort_keys=True) + "\n")

    def check_there(self) -> None:
        """Raises UserError if the folder was moved or emptied since it was locked."""
        with writing(self.path):
            if self._place and not (
                os.path.samestat(os.stat(self.path), self._place)
                and (self.path / "config.json").exists()
            ):
                raise UserError(
                    f"--workdir {self.path}: was moved or emptied while the run was going on"
                )

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a file of the folder, whole or not at all; UserError if it cannot."""
        if self.writes:
            if name != "config.json":  # which says that the folder is ours
                self.check_there()
            write_atomically(self.path / name, content)


@contextlib.contextmanager
def writing(path: pathlib.Path):
    """Makes a UserError that names `path` of an OSError: the disk is full, the folder is gone."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def _lock(folder):
    """Holds the lock of a folder, and says in a file who does; UserError if another process does.

    The system frees it if the process is killed.
    """
    lock, holder = filelock.FileLock(folder / "lock"), folder / "lock_holder"
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        by = ""
        for _ in range(20):  # a process that has the lock takes a moment to write who it is
            with contextlib.suppress(OSError):
                by = holder.read_text(errors="replace")[:200].strip()
            if by:
                break
            time.sleep(0.05)
        raise UserError(f"--workdir {folder}: in use by {by or 'another process'}") from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder.write_text(f"process {os.getpid()} on {platform.node()}, since {since}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def identity(content: dict) -> str:
    """Returns a digest of what decides the steps of a run, from the content of its config.json."""
    return checksum({k: v for k, v in flatten(content).items() if k not in FREE | LATER})


def read_run(folder: pathlib.Path) -> tuple[dict, dict]:
    """Returns the contents of config.json and result.json of a finished run.

    Raises:
      DamagedError: one of them is damaged, or they are of two runs.
      MissingError: one is missing.
    """
    config, result = (read_sealed(folder / name) for name in ("config.json", "result.json"))
    if result.get("run", identity(config)) != identity(config):
        raise DamagedError(
            f"{folder}: config.json and result.json are of two runs; the command of its run "
            "writes them again"
        )
    return config, result


def with_defaults(content: dict) -> dict:
    """Returns a flat config.json; fields that it lacks, being newer, are as in default.py."""
    return flatten(json.loads(default.get_config().to_json())) | flatten(content)


def _differing(old: dict, new: dict) -> set[str]:
    """The fields that differ; of the facts of the data also those that only the old run has."""
    names = new.keys() | {name for name in old if name.startswith("dataset.")}
    # Of inputs that are not in memory there is no digest of many rows, and outputs of a model are
    # of one platform.
    of_one = new.keys() ^ old.keys()
    names -= {n for n in of_one if n.endswith("_rows") or n.startswith(OWN_MODEL)}
    differing = {name for name in names if old.get(name) != new.get(name)}
    models = {name for name in differing if name.startswith(OWN_MODEL)}
    return differing - {name for name in models if same_outputs(old[name], new[name])}


def _knows_its_end(content):
    method = METHODS.get(content["method"])  # None: of a user's file that was not given
    has_parts = (content["warm_up"], content["settle_at"]) != (0, 1)
    return (
        content["lr_schedule"] == "cosine"
        or getattr(method, "uses_num_steps", False)
        or (getattr(method, "needs_clean", False) and has_parts)
    )


def _may_differ(old: dict, new: dict, step: int) -> set[str]:
    """The fields that may differ without a change to the `step` steps already taken."""
    free, has_begun = set(), step > old["num_steps"]  # a later phase
    if not has_begun:
        free |= LATER - RATES - {"num_steps"}
    if old["settle_at"] == 1 and (not has_begun or old["retrain"] == "none"):
        free |= RATES  # else they have decided what it settled or retrained on
    if old["finetune_from"] == "none":
        free |= {"finetune_steps", "finetune_learning_rate"}
    # The fine-tuning of what is retrained is the last phase of all, so it may be added too.
    end_of_others = (2 + old["compare_plain"]) * old["num_steps"]  # with a judge it is later
    asked = old["finetune_from"], new["finetune_from"]
    if asked == ("none", "retrained") or (set(asked) <= TUNED_LAST and step <= end_of_others):
        free |= {"finetune_from", "finetune_steps", "finetune_learning_rate"}
    for name, none in ADDED.items():  # a phase may be added if no later one is there
        if old[name] == none or (old[name], new[name]) == ("last", "both"):
            free |= {name}
        if old[name] != none:
            break
    judges = getattr(METHODS.get(new["method"]), "needs_clean", True)
    added = [name for name in ADDED if judges or name != "judge_for"]
    has_one_phase = all(run[name] == ADDED[name] for run in (old, new) for name in added)
    return free | ({"num_steps"} if has_one_phase and not _knows_its_end(new) else set())


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a temporary file and renames it: a kill leaves the old file or the new one.

    So does a loss of power: the file and its folder are flushed to the disk, which takes 15 ms.
    UserError if it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # one for each process
        try:
            with open(temporary, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            if os.name == "posix":  # elsewhere a folder cannot be opened
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
