"""Looks at everything that a runtime will need, and writes nothing: neither to a disk nor to the PLC."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from rich.console import Console

from runtime import mqtt
from runtime.camera import Camera, open_camera
from runtime.eyes import Eyes
from runtime.known_good import Chosen
from runtime.loop import Loop
from runtime.plc import Fault, PlcClient, connect
from runtime.registers import RegisterMap, Status, read_map, state_name
from runtime.run import Tags, alarm_settings, load, simulator_of
from runtime.settings import CameraSettings, Settings
from runtime.sight import View
from wm.bundle import Bundle
from wm.errors import InputError

FIRST_FRAME_S = 15.0
WATCHED_S = 2.0
PLC_S = 2.0
SCANS_S = 0.2


class Finding(NamedTuple):
    """What was looked at, whether it is in order, and what was seen."""

    name: str
    sound: bool
    told: str


def check(settings: Settings) -> int:
    """Tells what is found, as it is found; returns the exit code, 0 where all is in order."""
    console, sound = Console(highlight=False, markup=False, soft_wrap=True), True
    for finding in findings(settings):
        console.print(f"{finding.name:10}{'ok' if finding.sound else 'FAULT':7}{finding.told}")
        sound = sound and finding.sound
    return 0 if sound else 1


def findings(settings: Settings) -> Iterator[Finding]:
    """Bundles, folder, camera, PLC and broker, one after the other; a fault of one keeps none of the others from being
    seen.
    """
    with ExitStack() as stack:
        loaded: list[Chosen] = []
        yield _found("bundle", lambda: _bundle(settings, loaded))
        if loaded and (settings.act.simulator is not None or settings.act.policy != "rule"):
            yield _found("simulator", lambda: _simulator(settings, loaded[0]))
        yield _found("out", lambda: _folder(settings.out))
        if loaded:
            for camera in settings.cameras:
                yield _found(camera.name, partial(_camera, settings, camera, loaded[0].model, stack))
        if settings.plc is not None:
            yield _found("PLC", lambda: _plc(settings, loaded))
        if (broker := settings.mqtt) is not None:
            yield _found("MQTT", lambda: mqtt.probe(broker))


def _found(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except InputError as error:
        return Finding(name, False, str(error))


def _bundle(settings: Settings, loaded: list[Chosen]) -> str:
    found = load(settings)
    model = found.model
    loaded.append(found)
    Loop(model, alarm_settings(model, settings), settings.mode_number).warm_up()
    assert model.spec.image
    height, width, _ = model.spec.image
    view = "knows its view" if View.of(model) else "knows no view, so a moved camera and failing light will not be told"
    tags = ", ".join(model.spec.tags) or "none"
    told = f"{found.path}: {width}x{height} pixels at {model.spec.rate_hz:g} Hz, tags {tags}; {view}"
    if found.why is not None:
        raise InputError(f"{found.why} Flinch would run on an earlier model, {told}")
    return told


def _simulator(settings: Settings, watching: Chosen) -> str:
    found = simulator_of(settings, watching)
    if found.why is not None:
        raise InputError(found.why)
    return f"{found.path}: foresees for policy {settings.act.policy} and for the page"


def _folder(out: Path) -> str:
    place = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"{place} cannot be written; choose another 'out'.")
    return f"{out} can be written"


def _plc(settings: Settings, loaded: list[Chosen]) -> str:
    assert settings.plc is not None
    plc, registers = settings.plc, read_map(settings.plc.registers)
    if loaded:
        Tags.of(registers, loaded[0].model.spec, settings)
    with closing(connect(plc, registers)) as client:
        first = _answer(client)
        sleep(SCANS_S)
        second = _answer(client)
    if first.heartbeat == second.heartbeat:
        raise InputError(f"the PLC at {plc.address} answers, but its heartbeat stands still; is its program running?")
    return f"{plc.address} answers, state {state_name(second.state)}, {_tags(registers, second.tags)}"


def _answer(client: PlcClient) -> Status:
    until = monotonic() + PLC_S
    while isinstance(found := client.read(), Fault):
        if monotonic() > until:
            raise InputError(f"{found.reason}; check address, unit, network and the PLC.")
        sleep(SCANS_S)
    return found


def _tags(registers: RegisterMap, values: tuple[float, ...]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(registers.tag_names, values, strict=True))


def _camera(settings: Settings, camera: CameraSettings, model: Bundle, stack: ExitStack) -> str:
    """The camera stays open, as the embedded line's PLC lives as long as it does."""
    return _watched(stack.enter_context(closing(open_camera(settings, camera, model.spec))), model)


def _watched(camera: Camera, model: Bundle) -> str:
    """What comes in two seconds from the first frame on."""
    until, frame = monotonic() + FIRST_FRAME_S, None
    while frame is None and not camera.ended and monotonic() < until:
        frame = camera.next()
    if frame is None:
        raise InputError("no picture comes; check the camera's address, its power and the network.")
    eyes, began, count = Eyes(model, 1), monotonic(), 0
    while frame is not None and monotonic() - began < WATCHED_S:
        count += 1
        (glance,) = eyes.look([frame], None, None)
        if glance.fault:
            raise InputError(f"{glance.fault}; mend it, or train and calibrate on what it sees now.")
        frame = camera.next()
    return f"{count} pictures in {monotonic() - began:.1f} s, as they were taught"
