"""What ends a command with one message instead of a traceback."""


class UserError(ValueError):
    """A setting or a file is wrong; the message names it, its value and the remedy. Exit code 2."""


class RunError(Exception):
    """The run cannot go on; the message names what happened and the remedy. Shown without a traceback."""

    exit_code = 1
