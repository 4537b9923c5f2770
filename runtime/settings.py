"""The settings of a runtime: one TOML file, validated as a whole before anything starts."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from runtime.registers import Mode
from runtime.validate import read_toml


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CameraSettings(Section):
    """Where pictures come from.

    Attributes:
      source: "line" for the embedded line, an rtsp:// address, or the path of a video file or of a folder of pictures.
      loop: start a file or folder again at its end.
      replay: take every frame of a file or folder, as fast as the model can, instead of at its own pace.
      seed: of the embedded line.
    """

    source: Annotated[str, Field(min_length=1)]
    loop: bool = False
    replay: bool = False
    seed: Annotated[int, Field(ge=0)] = 0


class PlcSettings(Section):
    """The PLC. `address` is "host:port", `registers` the path of the register map."""

    address: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]
    unit: Annotated[int, Field(ge=0, le=255)] = 1
    registers: Path


class ActSettings(Section):
    """What is asked of the feeder on an alarm: this speed, for at least so long and until the alarm ends."""

    slow_to: Annotated[float, Field(gt=0, lt=1)] = 0.1
    hold_s: Annotated[float, Field(ge=0, le=60)] = 4.5


class Settings(Section):
    """Everything. Relative paths start from the working directory."""

    bundle: Path
    out: Path
    mode: Literal["off", "shadow", "advise", "act"] = "shadow"
    camera: CameraSettings
    plc: PlcSettings | None = None
    act: ActSettings = ActSettings()

    @property
    def mode_number(self) -> Mode:
        return Mode[self.mode.upper()]


def read_settings(path: Path) -> Settings:
    """Reads a settings file; raises InputError."""
    return read_toml(Settings, path)
