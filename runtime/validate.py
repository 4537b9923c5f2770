"""A TOML file to a validated, frozen pydantic model, or one clear sentence that says what is wrong with it."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from wm.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


def read_toml(model: type[Model], path: Path) -> Model:
    """Reads `path` as a `model`.

    Raises:
      InputError: the file is missing, is not TOML, or a key is unknown, missing or out of its range.
    """
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid TOML ({error}); correct it there.") from error
    except ValidationError as error:
        raise InputError(f"{path}: {_sentence(error)}") from error


def _sentence(error: ValidationError) -> str:
    """The first complaint of pydantic as one sentence that names the key and what to do."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key '{key}'; remove it or correct its spelling."
        case "missing":
            return f"key '{key}' is missing; add it."
        case "value_error":
            message = str(first["ctx"]["error"])
            return f"key '{key}': {message}." if key else f"{message}."
        case _:
            complaint = first["msg"][0].lower() + first["msg"][1:]
            return f"key '{key}': {complaint}, but it is {first['input']!r}; correct it."
