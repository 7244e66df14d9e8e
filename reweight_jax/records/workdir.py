"""The folder of a run: whether it may be used, its lock, its config.json, and atomic writes."""

import contextlib
import json
import os
import pathlib

from reweight_jax.configs import default
from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS

# Fields that change no number of a run: what is logged, how data is read, and the place of files:
# what is in them is compared by its fingerprint.
FREE = {"log_every_steps", "checkpoint_every_steps", "steps_per_dispatch", "confusion_from"}
PATHS = {"data.path", "data.clean_path", "data.calibration_path", "data.test_path"}
FREE |= {"data.resident", "data.workers", "data.data_dir", "data.corrections"} | PATHS


class Workdir:
    """The folder of a run.

    Attributes:
      path: absolute path of the folder.
      writes: whether this process writes there; of several processes only the first one does.
    """

    def __init__(self, path: str | os.PathLike, config, facts: dict, *, writes: bool = True):
        """Makes the folder, or checks that the run in it has this `config` and these `facts`.

        Args:
          path: of the folder; a leading ~ is the home folder.
          config: ConfigDict of the run.
          facts: what of the data the run depends on; JSON.
          writes: as the attribute.

        Raises:
          UserError: the folder cannot be used, or holds a run with another config. Only fields that
            do not change the steps already taken may differ: FREE, `num_steps` if no step depends
            on it, and fine-tuning that is new.
        """
        self.path, self.writes = pathlib.Path(path).expanduser().absolute(), writes
        if not writes:
            return
        content = json.loads(config.to_json()) | {"dataset": facts}
        new = flatten(json.loads(json.dumps(content)))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError("not writable")
            written = self.path / "config.json"
            old = flatten(json.loads(written.read_text())) if written.exists() else new
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"--workdir {path}: cannot be used ({error})") from None
        old = flatten(json.loads(default.get_config().to_json())) | old  # fields new since then
        differing = {name for name in new if old.get(name) != new[name]} - FREE
        differing -= _may_differ(old, new)
        if differing:
            name = min(differing)
            what = "other data" if name.startswith("dataset.") else f"another config.{name}"
            raise UserError(
                f"--workdir {path}: holds a run with {what}; choose another folder, or remove "
                "this one"
            )
        self._config = json.dumps(content, indent=2, sort_keys=True) + "\n"

    @contextlib.contextmanager
    def locked(self):
        """Holds the folder's lock, which a kill frees; UserError if another process holds it."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(ImportError, OSError):  # a system without such locks
                import fcntl

                if self.writes:
                    folder = os.open(self.path, os.O_RDONLY)
                    stack.callback(os.close, folder)
                    try:
                        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        raise UserError(f"--workdir {self.path}: in use by another run") from None
            yield

    def write_config(self) -> None:
        """Writes config.json, which says from then on which run the folder holds."""
        if self.writes:
            self.write("config.json", self._config)

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a file of the folder, whole or not at all."""
        if self.writes:
            write_atomically(self.path / name, content)


def _may_differ(old: dict, new: dict) -> set[str]:
    """The fields that may differ without a change to the steps already taken."""
    rates, free = {"labels.false_alarm_rate", "labels.false_discovery_rate"}, set()
    before, now = old["finetune_from"], new["finetune_from"]
    # A phase may be added if no later one is there.
    if old["retrain"] == "none":
        free |= {"retrain"}
        if old["settle_at"] == 1:  # else they have decided what it settled on
            free |= rates
        if not old["compare_plain"]:
            free |= {"compare_plain"}
            if before == "none":
                free |= {"finetune_from", "finetune_steps", "finetune_learning_rate"}
            if (before, now) == ("last", "both"):
                free |= {"finetune_from"}
    is_fixed = METHODS[new["method"]].uses_num_steps or new["lr_schedule"] == "cosine"
    one_phase = [
        run["settle_at"] == 1 and run["finetune_from"] == run["retrain"] == "none"
        and not run["compare_plain"]
        for run in (old, new)
    ]  # fmt: skip
    if all(one_phase) and not is_fixed:  # no step knows of the end
        free |= {"num_steps"}
    return free


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a temporary file and renames it: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # one for each process
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def flatten(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for name, value in tree.items():
        is_group = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{name}.") if is_group else {prefix + name: value}
    return flat
