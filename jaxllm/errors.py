"""The errors that a user can cause and mend."""


class InputError(ValueError):
    """Wrong input. The message is one sentence: the value, the limit, the remedy.

    The command line prints it and exits with code 2; a traceback is never shown for it.
    """
