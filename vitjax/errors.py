"""The one exception that a user's mistake raises."""


class UserError(ValueError):
    """A setting or a file is wrong; the message names it, its value and the remedy.

    The command-line tools print the message alone, without a traceback, and exit with code 2.
    """
