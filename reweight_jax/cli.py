"""What the command lines share: config files, flags, and one line for a user's mistake."""

import os
import pathlib
import re
import signal
import sys
import threading
import traceback
import types
import warnings

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from reweight_jax import configs, startup
from reweight_jax.errors import UserError, one_line
from reweight_jax.paths import expand, open_regular
from reweight_jax.train.orbax_threads import end_process


def check_config(config) -> None:
    """Raises UserError for a missing --config, or one that cannot be run."""
    from reweight_jax.train import checks  # with all that trains

    if config is None:
        raise UserError("--config is missing; for example --config=configs/mnist_imbalance.py")
    checks.check_config(config)


def find_config(value: str) -> str:
    """Returns FILE:VARIANT of a --config with ~ expanded, and its folder added to sys.path.

    A path configs/NAME.py that does not exist is taken from the installed package.
    """
    name, colon, variant = value.partition(":")
    path = expand(name)
    packaged = pathlib.Path(configs.__file__).parent / path.name
    is_there = os.path.exists(path)  # pathlib's raises for a name that is too long
    if not is_there and path.parent.name == "configs" and packaged.exists():
        path, is_there = packaged, True
    if is_there:
        sys.path.append(str(path.resolve().parent))
    return f"{path}{colon}{variant}"


def define_config(text: str) -> flags.FlagHolder:
    """Defines --config=FILE.py:VARIANT, and --config.FIELD=VALUE for each field of the config.

    `text` is its help. It ends the program if a --flagfile, read already, is not there.
    """
    try:
        holder = config_flags.DEFINE_config_file("config", None, text)
    except flags.Error as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    flags.FLAGS["config"].parser.parse = load_config
    return holder


def load_config(value: str) -> ConfigDict:
    """Runs FILE.py:VARIANT and returns the config that its get_config makes, locked.

    Raises UserError, with the line in the file if the program there fails.
    """
    file, colon, variant = find_config(value).partition(":")
    try:
        with open_regular(file) as source:
            text = source.read()
    except OSError as error:
        raise UserError(f"--config: {file}: cannot be read ({error.strerror})") from None
    # Registered, because what is defined there may look for its module.
    module = sys.modules[f"config:{file}"] = types.ModuleType(f"config:{file}")
    module.__file__ = file
    try:
        exec(compile(text, file, "exec"), module.__dict__)
        config = module.get_config(*([variant] if colon else []))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a program raises what it likes, SystemExit too
        raise UserError(f"--config: {_in_file(error, file)}") from error
    if not isinstance(config, ConfigDict):
        what = type(config).__name__
        raise UserError(f"--config: {file}: get_config returned {what}; must be a ConfigDict")
    return config.lock()


def make_folder(flag: str, folder: str | os.PathLike) -> pathlib.Path:
    """Makes and returns the folder that `flag` names; raises UserError if it cannot."""
    folder = expand(folder, flag)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {folder}: cannot be used ({error})") from None
    return folder


def output_file(flag: str, path: str | None) -> pathlib.Path | None:
    """Returns the file that `flag` names, or None, and makes its folder."""
    if path is None:
        return None
    path = expand(path, flag)
    if os.path.lexists(path) and not os.path.isfile(path):  # a device would be replaced
        what = "a folder; name a file in it" if os.path.isdir(path) else "no regular file"
        raise UserError(f"{flag} {path}: is {what}")
    return make_folder(flag, path.parent) / path.name


def run(main, *, resumes: bool = False, takes_names: bool = False) -> None:
    """Parses the flags and calls main; a user's mistake ends in one line and status 1.

    An argument that is no flag is a mistake, unless `takes_names`: then main(*names) gets them.
    Ctrl-C ends in one line and status 130; if the command `resumes`, the line says so.
    """
    startup.prepare()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # see reweight_jax/__init__.py
    sys.unraisablehook = _interrupt_again
    logging.set_verbosity(logging.FATAL)  # TFDS and orbax also raise what they log as an error
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # orbax's, in a failed save
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"

    def main_and_flush(argv):
        if len(argv) > 1 and not takes_names:
            raise UserError(f"unexpected argument {argv[1]!r}; options are written --name=value")
        main(*argv[1:])
        sys.stdout.flush()
        error = getattr(sys.stdout, "error", None)
        if error and not isinstance(error, BrokenPipeError):  # head -1 has read enough
            raise UserError(f"all is done, but stdout cannot be written ({error.strerror})")

    try:
        app.run(main_and_flush, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        end_process(1)
    except KeyboardInterrupt:
        rest = ": the same command goes on from the last checkpoint" if resumes else ""
        print(f"\ninterrupted{rest}", file=sys.stderr)
        end_process(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the process ends
        sys.unraisablehook = sys.__unraisablehook__


def _interrupt_again(unraisable):
    """Repeats a Ctrl-C that Python has dropped: it came in a callback, such as JAX's of the gc."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
        return
    arguments = (threading.main_thread().ident, signal.SIGINT)
    timer = threading.Timer(0.05, signal.pthread_kill, arguments)  # this is still the callback
    timer.daemon = True
    timer.start()


def _parse(argv):
    """Parses flags by absl; errors of config files and their fields become one line."""
    if not os.path.isdir(os.curdir):
        raise UserError("the current folder does not exist any more")
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        raise UserError(f"--config: {_field_error(error)}") from error
    except (flags.Error, TypeError, ValueError) as error:  # absl repeats the flag before ours
        ours = isinstance(error.__context__, UserError)
        raise error.__context__ if ours else UserError(one_line(error)) from error


def _in_file(error, file):
    """Says what is wrong with a config file, and in which line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or file}, line {error.lineno}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f"{file}, line {frames[-1].lineno}" if frames else file
    if type(error) in (AttributeError, KeyError):
        return f"{where}: {_field_error(error)}"
    return f"{where}: {type(error).__name__}: {one_line(error)}"


def _field_error(error):
    """Says which field does not exist, or what any other error says."""
    text = str(error.args[0]) if error.args else ""
    text = text.replace("\\n", "\n").replace("\\'", "'")
    near = re.search(r'[Dd]id you mean "(.+?)"', text)
    missing = re.search(r'[Kk]ey "(.+?)" does not exist|^\W*([\w.]+)\W*$', text, re.MULTILINE)
    if missing and (near or missing[1] or isinstance(error, AttributeError)):
        hint = f"did you mean {near[1]}?" if near else "configs/default.py has all fields"
        return f"no field {missing[1] or missing[2]}; {hint}"
    return f"{type(error).__name__}: {one_line(text)}"
