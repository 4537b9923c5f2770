"""The one exception that a user may see."""


class InputError(Exception):
    """What the user gave cannot be used. The message is one sentence: what is wrong, where, and what to do."""
