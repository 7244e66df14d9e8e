"""The exception for a user's mistake, as opposed to a defect of the program."""

import contextlib


class UserError(ValueError):
    """A wrong config value, missing data or a malformed file; the message is one line.

    The message says what is wrong, in which field or file, and what would be right. The command
    line prints it without a traceback and exits with status 1.
    """


def choose(field: str, name: str, table: dict):
    """Returns table[name]; raises UserError that names `field` and lists the valid names."""
    if name not in table:
        raise UserError(f"{field}: unknown name {name!r}; valid: {', '.join(sorted(table))}")
    return table[name]


def one_line(error: Exception | str) -> str:
    """Returns what an error says, of a library, say, for a message of one line."""
    text = " ".join((str(error) or type(error).__name__).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


@contextlib.contextmanager
def prefix(name: str):
    """Turns a ValueError raised inside into a UserError whose message begins with `name`."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


@contextlib.contextmanager
def forward_mode():
    """Makes a UserError of what JAX raises if a function has no forward mode, when it compiles."""
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise UserError(
            "config.epsilon_method: the model has a jax.custom_vjp, which has no forward mode; "
            "set it to 'lookahead'"
        ) from error
