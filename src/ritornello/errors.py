"""Errors that are the user's to mend: the command line prints them as one line and exits with code 2."""


class RitornelloError(Exception):
    """Bad input or a bad place to write to. The message names the thing, what is wrong and what to do."""
