"""The one exception that a user may see, and the ways to end early."""

import os
import sys
from typing import NoReturn


class InputError(Exception):
    """What the user gave cannot be used. The message is one sentence: what is wrong, where, and what to do."""


def refuse(error: InputError) -> NoReturn:
    """Ends the process with exit code 2 and the message in one line on stderr."""
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    sys.exit(2)


def interrupted() -> NoReturn:
    """Ends the process at once with exit code 130. An orderly end would wait for compilations under way, and crash in
    those of their threads that outlive the interpreter.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)
