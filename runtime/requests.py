"""What an operator may ask of a running Flinch, as JSON: acknowledge, shelve or unshelve an alarm, change the mode."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

LONGEST_SHELF_MIN = 480.0
Name = Annotated[str, Field(min_length=1, max_length=40)]


class Request(BaseModel):
    """`who` asks; `id` comes back with the answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = ""
    who: Name


class Acknowledge(Request):
    """The alarm `name` was seen."""

    what: Literal["acknowledge"]
    name: Name


class Shelve(Request):
    """The alarm `name` is not to be heard, and asks for nothing, for so long; 0 minutes end it."""

    what: Literal["shelve"]
    name: Name
    minutes: Annotated[float, Field(ge=0, le=LONGEST_SHELF_MIN)]


class SetMode(Request):
    """What Flinch may do from now on."""

    what: Literal["mode"]
    mode: Literal["off", "shadow", "advise", "act"]


class Answer(BaseModel):
    """Whether it was done, and durable in the journal, and what there is to say."""

    id: str
    done: bool
    told: str


parse = TypeAdapter(Annotated[Acknowledge | Shelve | SetMode, Field(discriminator="what")]).validate_json
