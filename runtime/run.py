"""A runtime: camera, loop, PLC, alarms and journal, held together until the camera ends or somebody says stop."""

import json
import logging
import re
import signal
from collections.abc import Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from time import monotonic

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from runtime.alarm import AlarmSettings, permitted
from runtime.alarms import BUNDLE, MQTT, PAGE
from runtime.camera import Frame, open_cameras
from runtime.clip import Moment
from runtime.desk import Desk
from runtime.foresight import Branch, Foresight, looking
from runtime.journal import Entry, Journal
from runtime.known_good import Chosen, Probation, choose
from runtime.loop import Loop, Tick
from runtime.mqtt import Publisher
from runtime.plc import NOT_YET, Fault, PlcLink, connect
from runtime.policy import PLANNED, Actor, InTime, Planner, Policy, search
from runtime.recorder import Recorder, drawable, masked
from runtime.registers import Mode, RegisterMap, Status, read_map
from runtime.scribe import Lines, Scribe
from runtime.settings import Settings
from runtime.systemd import notify
from runtime.window import Window
from wm import bundle
from wm.bundle import Bundle
from wm.config import FootageSpec
from wm.errors import InputError

log = logging.getLogger("flinch")

HELD_S = 1.0
FIRST_FRAME_S = 5.0


def run(settings: Settings) -> None:
    """Watches until the camera ends or SIGINT or SIGTERM comes; the last write to the PLC withdraws the request.

    Raises:
      InputError: bundle, camera or register map cannot be used.
    """
    found = load(settings)
    cameras = open_cameras(settings, found.model.spec)
    stop = Event()
    watch = Watch(settings, found)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    why, patient = "it failed", monotonic() + FIRST_FRAME_S
    try:
        while not stop.is_set() and not cameras.ended:
            frames = cameras.next()
            if not all(frames) and monotonic() < patient:
                continue  # a camera that is still connecting is no alarm
            if not cameras.ended or all(frames):
                patient = 0.0
                watch.turn(frames, cameras.dropped)
                notify("READY=1\nWATCHDOG=1")
        why = "told to stop" if stop.is_set() else "the camera ended"
    finally:
        notify("STOPPING=1")
        watch.close(why)
        cameras.close()


class Watch:
    """All that a runtime holds together, but for the camera: what every frame goes through.

    Raises:
      InputError: register map, folder or journal cannot be used.
    """

    def __init__(self, settings: Settings, found: Chosen) -> None:
        self._model = (model := found.model)
        simulator = simulator_of(settings, found)
        if found.why is not None:
            log.warning("watches with %s: %s", found.path, found.why)
        if simulator.why is not None:
            log.warning("foresees nothing: %s", simulator.why)
        self._amiss = " ".join(filter(None, (found.why, simulator.why))) or None
        registers = None if settings.plc is None else read_map(settings.plc.registers)
        self._tags = Tags() if registers is None else Tags.of(registers, model.spec, settings)
        names = [camera.name for camera in settings.cameras]
        policy = None if simulator.why else policy_of(settings, simulator.model)
        foresees = settings.page is not None and len(model.spec.actions) == 1 and not simulator.why
        own = simulator.model if simulator.model is not model and (policy or foresees) else None
        self._loop = Loop(model, alarm_settings(model, settings), settings.mode_number, names, policy, own)
        self._loop.warm_up(shown=settings.page is not None)
        self._loop.time = monotonic() if settings.cameras[0].live else 0.0
        self._lines = open_log(settings)
        self._tick_log = TickLog(self._lines)
        journal = settings.out / "journal.db"
        written = Journal(journal)
        forgotten = written.retain(settings.retention.journal_days)
        self._scribe = Scribe(written)
        if forgotten:
            why = f"older than {settings.retention.journal_days:g} days"
            self._scribe.post([Entry("lost", "journal", str(forgotten), "0", why)])
        about = f"bundle {bundle.digest(found.path)}"
        if own is not None:
            about += f", simulator {bundle.digest(simulator.path)}"
        self._desk = Desk(self._scribe, settings.mode_number, about, allowed(settings, model))
        self._probation = Probation(found.path, bundles(settings), model.spec.rate_hz, self._kept)
        clips = settings.out / "clips"
        self._mqtt = None if settings.mqtt is None else Publisher(settings.mqtt)
        self._window = (
            None if settings.page is None else Window(settings.page, journal, clips, names, model.spec.image or ())
        )
        self._recorders = {}
        if settings.recorder is not None:
            self._recorders = {
                name: Recorder(settings.recorder, clips, model.spec.rate_hz, self._written) for name in names
            }
        self._masks, self._alarmed = [camera.masks for camera in settings.cameras], False
        self._foresight = None
        if foresees:
            self._foresight = Foresight(looking(simulator.model, self._masks[0]), *self._loop.present(None))
        self._link = None
        if settings.plc is not None and registers is not None:
            self._link = PlcLink(connect(settings.plc, registers))

    def turn(self, frames: Sequence[Frame | None], dropped: int) -> None:
        """A frame of each camera, None where none came in time: score, tell the PLC, write down and show what there
        is.
        """
        if self._window is not None:
            self._window.keep()
            self._window.hear(self._desk)
        self._loop.mode = self._desk.mode
        status = None if self._link is None else self._link.refreshed()
        tick, action = self._scored(frames, status)
        if self._link is not None:
            state = status.state if isinstance(status, Status) else None
            tick = tick._replace(command=permitted(tick.command, state, muted=self._desk.muted))
            self._link.post(tick.command, min((frame.arrived for frame in frames if frame), default=None))
        latency_s = None if self._link is None else self._link.latency_s
        self._probation.turn(tick)
        served = {PAGE: self._window, MQTT: self._mqtt}
        others = {name: None if part is None else part.fault for name, part in served.items()}
        self._desk.take(tick, status, {**others, BUNDLE: self._amiss or tick.unforeseen})
        if self._mqtt is not None:
            self._mqtt.show(tick, self._desk)
        self._tick_log.write(tick, status, dropped, latency_s)
        images = [frame and masked(frame.image, masks) for frame, masks in zip(frames, self._masks, strict=True)]
        self._record(tick, images)
        if self._window is not None:
            ahead = self._loop.look_ahead(action)
            shown = [
                None if each is None else masked(drawable(np.asarray(each)[self._model.monitor.shown]), masks)
                for each, masks in zip(ahead, self._masks, strict=True)
            ]
            self._window.show(tick, status, self._desk, images, shown, dropped, latency_s, self._branches(tick, action))

    def _branches(self, tick: Tick, action: NDArray[np.float32] | None) -> tuple[Branch, ...]:
        """What would come at other speeds, nothing while nobody knows what is there."""
        if self._foresight is None or tick.fault or not self._loop.settled:
            return ()
        self._foresight.show(*self._loop.present(action))
        return self._foresight.branches

    def _record(self, tick: Tick, images: Sequence[NDArray[np.uint8] | None]) -> None:
        """Every camera's turn; of an alarm the loudest camera keeps a clip."""
        raised, self._alarmed = tick.alarm.on and not self._alarmed, tick.alarm.on
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
        for number, (name, recorder) in enumerate(self._recorders.items()):
            image, surprise = images[number], tick.glances[number].surprise
            if image is None or surprise is None or surprise.expected is None:
                continue
            expected = masked(drawable(surprise.expected), self._masks[number])
            moment = Moment(image, expected, np.asarray(surprise.map), float(surprise.score))
            recorder.take(moment, f"{stamp}-{name}" if raised and number == tick.loudest else None)

    def _written(self, clip: str | None, why: str) -> None:
        self._scribe.post([Entry("clip", clip or "clip", "", "written" if clip else "lost", why)])

    def _kept(self, name: str, why: str | None) -> None:
        told = "lost" if why else "kept"
        self._scribe.post([Entry("bundle", name, "", told, why or "it has watched soundly for a minute")])

    def _scored(
        self, frames: Sequence[Frame | None], status: Status | Fault | None
    ) -> tuple[Tick, NDArray[np.float32] | None]:
        """What the loop makes of it, and the action that it was under."""
        known = self._tags.known
        sensors, action = self._tags.take(status)
        if self._tags.known != known:
            self._loop.restart()
        return self._loop.tick(frames, sensors, action), action

    def close(self, why: str) -> None:
        """Withdraws the request, and writes down why it ends."""
        if self._link is not None:
            self._link.close(self._loop.fault("stopped").command)
        for recorder in self._recorders.values():
            recorder.close()
        mode = self._desk.mode.name.lower()
        self._scribe.post([Entry("stop", "flinch", mode, "", why, time=f"{self._loop.time:.2f}")])
        self._scribe.close()
        self._lines.close()
        if self._mqtt is not None:
            self._mqtt.close()
        if self._foresight is not None:
            self._foresight.close()
        if self._window is not None:
            self._window.close()


def load(settings: Settings) -> Chosen:
    """The bundle, or the one to fall back on, if it can do what the settings ask of it; InputError where it cannot."""
    found = choose(settings.bundle, bundles(settings))
    if found.model.spec.image is None:
        raise InputError(f"{found.path}: this model has no camera; give a bundle that was trained on pictures.")
    if settings.mode == "act" and not found.model.spec.actions:
        raise InputError(
            f"{found.path}: this model knows no action, so a slowed line would surprise it; use mode advise, or a "
            "bundle that was trained on footage with the feeder's speed."
        )
    return found


def simulator_of(settings: Settings, found: Chosen) -> Chosen:
    """The bundle that policy and what-if dream with: the one that is named for it, or else the one that watches. Where
    the one that is named is damaged it is done without: by the plain rule the line is watched all the same.

    Raises:
      InputError: there is none at the path, or it cannot do what the settings ask of it.
    """
    path = settings.act.simulator or found.path
    try:
        one = found.model if path == found.path else bundle.load(path)
    except (InputError, OSError) as error:
        if not path.is_dir():
            raise
        return found._replace(why=f"{error} Until then there is no simulator, and the plain rule has it.")
    if one.spec != found.model.spec:
        raise InputError(f"{path} is for other pictures, tags or actions than {found.path}; train both on one line.")
    if one.calibration is None:
        raise InputError(f"{path} is not calibrated; run experiments.calibrate on normal footage first.")
    if settings.act.policy != "rule" and one.behavior is None:
        raise InputError(
            f"{path}: this bundle holds no actor, which policy {settings.act.policy} needs; name the bundle that "
            "experiments.learn wrote as 'simulator' in section [act], or use policy rule."
        )
    return Chosen(one, path)


def policy_of(settings: Settings, model: Bundle) -> Policy | None:
    """Who chooses the speed while nothing is alarming; None for the plain rule."""
    match settings.act.policy:
        case "rule":
            return None
        case "actor":
            return InTime(Actor(model), settings.act.deadline_s)
        case "plan":
            return InTime(Planner(*search(model, PLANNED)), settings.act.deadline_s)


def bundles(settings: Settings) -> Path:
    """Where bundles are kept that were sound."""
    return settings.out / "bundles"


def allowed(settings: Settings, model: Bundle) -> Set[Mode]:
    """The modes that an operator may choose: act only where the settings could have it, and the model knows the
    feeder's speed.
    """
    try:
        Settings.model_validate({**settings.model_dump(), "mode": "act"})
    except ValidationError:
        return frozenset(Mode) - {Mode.ACT}
    return frozenset(Mode) if model.spec.actions else frozenset(Mode) - {Mode.ACT}


def alarm_settings(model: Bundle, settings: Settings) -> AlarmSettings:
    return AlarmSettings.of(model.alarm, settings.act, model.spec.rate_hz)


class Tags:
    """What the PLC's tags say to the model. A hiccup of the link changes nothing: the last tags stand for `HELD_S`."""

    def __init__(self, sensors: Sequence[int] = (), actions: Sequence[int] = ()) -> None:
        self._sensors, self._actions = list(sensors), list(actions)
        self._values: NDArray[np.float32] | None = None
        self._at = 0.0

    @classmethod
    def of(cls, registers: RegisterMap, spec: FootageSpec, settings: Settings) -> "Tags":
        """Raises InputError where the register map lacks a tag that the model needs."""
        names = registers.tag_names
        for name in (*spec.tags, *spec.actions):
            if name not in names:
                raise InputError(
                    f"{settings.plc and settings.plc.registers}: has no tag '{name}', which the model in "
                    f"{settings.bundle} needs; add it to the register map."
                )
        return cls([names.index(name) for name in spec.tags], [names.index(name) for name in spec.actions])

    @property
    def known(self) -> bool:
        return self._values is not None

    def take(self, status: Status | Fault | None) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Sensors [S] and action [A], or nothing while the PLC does not tell."""
        if isinstance(status, Status):
            self._values, self._at = np.asarray(status.tags, np.float32), monotonic()
        elif monotonic() - self._at > HELD_S:
            self._values = None
        if self._values is None:
            return None, None
        return self._values[self._sensors], self._values[self._actions]


def open_log(settings: Settings) -> Lines:
    """Opens ticks.jsonl of the run; raises InputError where the folder cannot be made."""
    out = settings.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        return Lines(out / "ticks.jsonl", settings.retention.ticks_mb)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another 'out'.") from error


class TickLog:
    """One JSON line a tick, with its number, `at` by the wall clock and `time` by the source's; a line in the log where
    something changes."""

    def __init__(self, lines: Lines) -> None:
        self._lines, self._turns = lines, 0
        self._alarm, self._fault, self._plc = False, "", NOT_YET.reason

    def write(self, tick: Tick, status: Status | Fault | None, dropped: int, latency_s: float | None) -> None:
        plc_fault = status.reason if isinstance(status, Fault) else ""
        self._turns += 1
        line = {
            "turn": self._turns,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "time": round(tick.time, 3),
            "score": None if tick.fault else round(tick.score, 4),
            "drift": None if tick.drift is None else round(tick.drift, 4),
            "camera": tick.camera or None,
            "alarm": tick.alarm.on,
            "slow": tick.alarm.speed < 1.0,
            "heartbeat": tick.command.heartbeat,
            "speed_request": tick.command.speed_request,
            "chosen": None if tick.chosen is None else round(tick.chosen, 3),
            "fault": tick.fault,
            "plc": plc_fault or None,
            "in_force": isinstance(status, Status) and status.in_force,
            "dropped": dropped,
            "latency_ms": None if latency_s is None else round(1000 * latency_s, 2),
        }
        self._lines.put(json.dumps(line))
        if tick.alarm.on != self._alarm:
            log.info("%s at %.1f s, score %.2f", "alarm" if tick.alarm.on else "alarm ends", tick.time, tick.score)
        if _kind(tick.fault or "") != _kind(self._fault):
            log.warning("%s at %.1f s", tick.fault or "camera and model are fresh again", tick.time)
        if status is not None and plc_fault != self._plc:
            log.warning("%s", plc_fault or "PLC answers")
        self._alarm, self._fault, self._plc = tick.alarm.on, tick.fault or "", plc_fault


def _kind(fault: str) -> str:
    """A fault without its numbers, which change from frame to frame."""
    return re.sub(r"[\d.]+", "", fault)
