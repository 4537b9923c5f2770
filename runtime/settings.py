"""The settings of a runtime: one TOML file, validated as a whole before anything starts."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from runtime.line.cartons import TAIL_RATE
from runtime.registers import Mode
from runtime.validate import read_toml

Pixel = Annotated[int, Field(ge=0)]


def _port(address: str) -> str:
    if not 0 < int(address.rpartition(":")[2]) < 65536:
        raise ValueError(f"{address} has no port from 1 to 65535; correct it")
    return address


Address = Annotated[str, Field(pattern=r"^\S+:\d{1,5}$"), AfterValidator(_port)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CameraSettings(Section):
    """Where pictures come from.

    Attributes:
      name: what it is called where there are several.
      source: "line" for the embedded line, an rtsp:// address, a device such as /dev/video0, or the path of a video
        file or of a folder of pictures.
      loop: start a file or folder again at its end.
      replay: take every frame of a file or folder, as fast as the model can, instead of at its own pace.
      seed: of the embedded line.
      tail_rate: of the embedded line, the share of its cartons that come badly.
      masks: rectangles (left, top, width, height) of the model's picture that are neither shown nor recorded.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,20}$")] = "camera"
    source: Annotated[str, Field(min_length=1)]
    loop: bool = False
    replay: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    tail_rate: Annotated[float, Field(ge=0, le=1)] = TAIL_RATE
    masks: tuple[tuple[Pixel, Pixel, Pixel, Pixel], ...] = ()

    @property
    def live(self) -> bool:
        """Whether it is a camera, and no recording of one."""
        return "://" in self.source or self.device

    @property
    def device(self) -> bool:
        return self.source.startswith("/dev/")


class TlsSettings(Section):
    """Mutual TLS (Modbus/TCP Security): PEM files of the authority that vouches for the PLC, and of Flinch's own
    certificate and key.
    """

    authority: Path
    certificate: Path
    key: Path


class PlcSettings(Section):
    """The PLC. `address` is "host:port", `registers` the path of the register map; with `tls` both sides prove who they
    are.
    """

    address: Address
    unit: Annotated[int, Field(ge=0, le=255)] = 1
    registers: Path
    tls: TlsSettings | None = None

    @property
    def loopback(self) -> bool:
        return self.address.rpartition(":")[0] in {"localhost", "127.0.0.1"}


class ActSettings(Section):
    """What is asked of the feeder on an alarm: this speed, for at least `hold_s` seconds and until the alarm ends, but
    never for more than `longest_s`, and then not before as much time has passed again: a camera that was knocked must
    not slow a line for ever.

    What has been in view for a few seconds is expected and no longer surprises, so the alarm may end while the trouble
    is still coming: `hold_s` is how long it takes at this speed from view to where it is out of the others' way.

    While nothing is alarming, a `policy` may choose the speed: an actor that learnt in the dream, or a planner, both in
    the bundle `simulator`, or in the one that watches where that is left out. It sees what is still on its way, so that
    with it an alarm is not held. What it has not decided after `deadline_s` is not waited for and stands a frame later.
    """

    slow_to: Annotated[float, Field(ge=0.1, lt=1)] = 0.1
    hold_s: Annotated[float, Field(ge=0, le=60)] = 12.0
    longest_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    policy: Literal["rule", "plan", "actor"] = "rule"
    simulator: Path | None = None
    deadline_s: Annotated[float, Field(gt=0, le=0.5)] = 0.05

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.longest_s < self.hold_s:
            raise ValueError(f"longest_s = {self.longest_s:g} is less than hold_s = {self.hold_s:g}; raise it")
        return self


class PageSettings(Section):
    """The page for people: where it is served. Beyond loopback it wants a token, in the environment: FLINCH_TOKEN."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(gt=0, lt=65536)] = 8760

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.host not in {"localhost", "127.0.0.1", "::1"} and not os.environ.get("FLINCH_TOKEN"):
            raise ValueError(f"the page at {self.host} is open to the network; set FLINCH_TOKEN, or use 127.0.0.1")
        return self


class RecorderSettings(Section):
    """Clips of jams ahead: seconds from before to after the alarm, and how much they may take in all."""

    before_s: Annotated[float, Field(ge=0, le=120)] = 5.0
    after_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    most_mb: Annotated[float, Field(gt=0)] = 500.0


class RetentionSettings(Section):
    """How much is kept: of ticks.jsonl so many megabytes, of the journal so many days, looked at when it starts."""

    ticks_mb: Annotated[float, Field(gt=0)] = 500.0
    journal_days: Annotated[float, Field(gt=0)] = 1000.0


class MqttSettings(Section):
    """A broker that is told how Flinch does, at `address`, "host:port", below `topic`, which no other runtime may have.
    The password of `username` is in the environment: FLINCH_MQTT_PASSWORD. With `authority`, a PEM file, it speaks TLS.
    """

    address: Address
    topic: Annotated[str, Field(pattern=r"^[^#+$/\s]+(/[^#+$/\s]+)*$", max_length=200)]
    username: Annotated[str, Field(min_length=1)] | None = None
    authority: Path | None = None


class Settings(Section):
    """Everything. Relative paths start from the working directory.

    Attributes:
      cameras: one or several that the same bundle watches; the first sets the pace.
      logs: how the log on standard error is written, a line or a JSON object an event.
    """

    bundle: Path
    out: Path
    logs: Literal["text", "json"] = "text"
    mode: Literal["off", "shadow", "advise", "act"] = "shadow"
    cameras: Annotated[tuple[CameraSettings, ...], Field(min_length=1, max_length=16)]
    plc: PlcSettings | None = None
    act: ActSettings = ActSettings()
    page: PageSettings | None = None
    recorder: RecorderSettings | None = None
    retention: RetentionSettings = RetentionSettings()
    mqtt: MqttSettings | None = None

    @model_validator(mode="after")
    def _cameras_are_told_apart(self) -> Self:
        names = [camera.name for camera in self.cameras]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two cameras are called '{twice}'; give each a name of its own")
        if [camera.source for camera in self.cameras].count("line") > 1:
            raise ValueError("the embedded line has one camera; name it once")
        if self.act.policy != "rule" and len(self.cameras) > 1:
            raise ValueError(f"policy {self.act.policy} sees one camera; name one, or use policy rule")
        if len({camera.replay for camera in self.cameras}) > 1:
            raise ValueError("one camera is replayed and another is not; set replay for all of them or for none")
        return self

    @model_validator(mode="after")
    def _nothing_made_up_drives_a_real_line(self) -> Self:
        made_up = min((camera.source for camera in self.cameras if not camera.live), key="line".__ne__, default=None)
        if self.plc is None or self.plc.loopback or made_up is None:
            return self
        if made_up == "line":
            raise ValueError(
                f"the embedded line brings its own PLC, and plc.address is {self.plc.address}; "
                "give the camera's source as the line's own camera, or plc.address as one of 127.0.0.1"
            )
        if self.mode == "act":
            raise ValueError(
                f"pictures from {made_up} must not drive the PLC at {self.plc.address}; "
                "give the camera's source as the line's own camera, or set mode to shadow"
            )
        return self

    @property
    def mode_number(self) -> Mode:
        return Mode[self.mode.upper()]


def read_settings(path: Path) -> Settings:
    """Reads a settings file; raises InputError."""
    return read_toml(Settings, path)
