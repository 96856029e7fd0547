"""What ends a run without a traceback: a user's mistake, or something that happened to the run."""


class UserError(ValueError):
    """A setting or a file is wrong; the message names it, its value and the remedy.

    The command-line tools print the message alone, without a traceback, and exit with code 2.
    """


class RunError(Exception):
    """The run cannot go on; the message names what happened and the remedy. Shown without a traceback; exit code 1."""
