"""Tells an MQTT broker how Flinch does, for whoever else in the plant wants to know. All of it is retained:

    TOPIC/online    1 while the runtime runs, else 0; the broker itself says 0 once it is gone
    TOPIC/state     JSON: mode, score, alarm, faults
    TOPIC/alarms    JSON: the standing alarms, as the page lists them

A topic is told at most once a second, or at once where more has changed than score, time and words. The latest wins:
nothing waits for a broker that does not take it.
"""

import hashlib
import json
import os
import ssl
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

from paho.mqtt.client import Client, ConnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from runtime.desk import Desk
from runtime.loop import Tick
from runtime.settings import MqttSettings
from wm.errors import InputError

PASSWORD = "FLINCH_MQTT_PASSWORD"
KEEPALIVE_S = 5  # without an answer for up to twice as long a broker is frozen
ANSWER_S = 5.0
BACKOFF_S = 0.5, 15.0  # shortest and longest pause before the next attempt
TURN_S = 0.1
FAREWELL_S = 0.5
EVERY_S = 1.0
PASSING = {"score", "for_s", "faults"}

Rows = list[dict[str, Any]]


class Publisher:
    """A thread that keeps a broker told. One name belongs to one topic, so that a broker lets go of a connection that
    broke off unseen, and says 0, before it says 1 for the next.

    Raises:
      InputError: the authority cannot be used.
    """

    def __init__(self, settings: MqttSettings) -> None:
        self._settings, self._tls = settings, trust(settings.authority)
        self._name = f"flinch-{hashlib.sha256(settings.topic.encode()).hexdigest()[:16]}"
        self._latest: dict[str, Rows] = {}
        self._fault: str | None = f"MQTT {settings.address}: not connected yet"
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str | None:
        """Why nobody is told, None while the broker listens."""
        return self._fault

    def show(self, tick: Tick, desk: Desk) -> None:
        """One turn."""
        state = {
            "mode": desk.mode.name.lower(),
            "score": None if tick.fault else round(tick.score, 3),
            "alarm": tick.alarm.on,
            "faults": desk.faults,
        }
        self._latest = {"state": [state], "alarms": desk.standing()}

    def close(self) -> None:
        """Says that the runtime is gone, if the broker takes it in time."""
        self._stopping.set()
        self._thread.join(timeout=2 * FAREWELL_S)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            began = monotonic()
            try:
                self._serve()
            except Exception as error:  # whatever a broken broker makes of the library, the next attempt comes
                pause = 0.0 if monotonic() - began > BACKOFF_S[1] else pause
                pause = min(max(2 * pause, BACKOFF_S[0]), BACKOFF_S[1])
                self._fault = f"MQTT {self._settings.address}: {reason(error)}"
            self._stopping.wait(pause)

    def _serve(self) -> None:
        """Keeps the broker told until the connection ends, or the runtime; then says so."""
        topic = self._settings.topic
        client = connect(self._settings, self._tls, name=self._name, will=f"{topic}/online")
        client.publish(f"{topic}/online", "1", qos=1, retain=True)
        self._fault = None
        told: dict[str, tuple[Rows, float]] = {}
        while not self._stopping.is_set():
            turn(client)
            if client.want_write():
                continue
            for name, rows in self._latest.items():
                if name not in told or due(*told[name], rows, monotonic()):
                    client.publish(f"{topic}/{name}", json.dumps(rows[0] if name == "state" else rows), retain=True)
                    told[name] = rows, monotonic()
        client.publish(f"{topic}/online", "0", qos=1, retain=True)
        leave(client)


def due(before: Rows, at: float, rows: Rows, now: float) -> bool:
    """Whether rows must be told now, where those `before` were told `at`: seconds of one clock."""
    return rows != before and (now - at >= EVERY_S or _lasting(rows) != _lasting(before))


def _lasting(rows: Rows) -> Rows:
    return [{name: value for name, value in row.items() if name not in PASSING} for row in rows]


def trust(authority: Path | None) -> ssl.SSLContext | None:
    """By whom a broker must be vouched for; raises InputError where that file cannot be used."""
    try:
        return None if authority is None else ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise InputError(
            f"{authority} cannot be used ({error.strerror or error}); give the PEM file of the broker's authority."
        ) from error


def connect(settings: MqttSettings, tls: ssl.SSLContext | None, *, name: str = "", will: str | None = None) -> Client:
    """A client that the broker has let in. With `will` the broker says 0 there once the client is gone.

    Raises:
      OSError, ValueError: it was not let in.
    """
    client = Client(CallbackAPIVersion.VERSION2, client_id=name)
    client.connect_timeout = ANSWER_S
    if settings.username is not None:
        client.username_pw_set(settings.username, os.environ.get(PASSWORD))
    if tls is not None:
        client.tls_set_context(tls)
    if will is not None:
        client.will_set(will, "0", qos=1, retain=True)
    client.on_connect = _answered
    host, _, port = settings.address.rpartition(":")
    client.connect(host, int(port), KEEPALIVE_S)
    until = monotonic() + ANSWER_S
    while not client.is_connected():
        if monotonic() > until:
            raise TimeoutError("no answer in time")
        turn(client)
    return client


def turn(client: Client) -> None:
    """Sends and receives what there is; raises ConnectionError where the broker is gone."""
    if client.loop(TURN_S) is not MQTTErrorCode.MQTT_ERR_SUCCESS:
        raise ConnectionError("connection lost")


def leave(client: Client) -> None:
    """Sends what is left and a farewell, after which there is no last will, if the broker takes them in time."""
    client.disconnect()
    until = monotonic() + FAREWELL_S
    while client.want_write() and monotonic() < until:
        client.loop(TURN_S)


def _answered(_: Client, __: object, ___: ConnectFlags, code: ReasonCode, ____: Properties | None) -> None:
    if code.is_failure:
        raise ConnectionRefusedError(str(code))


def reason(error: Exception) -> str:
    """A phrase for the log."""
    told = error.strerror if isinstance(error, OSError) else None
    return told or str(error) or repr(error)


def probe(settings: MqttSettings) -> str:
    """Asks to be let in, tells nobody anything, and returns what was found.

    Raises:
      InputError: it was not let in.
    """
    try:
        client = connect(settings, trust(settings.authority))
        leave(client)
    except (OSError, ValueError) as error:
        raise InputError(
            f"MQTT {settings.address}: {reason(error)}; check address, username, {PASSWORD} and the broker."
        ) from error
    return f"{settings.address} lets in, {settings.topic}/online, state and alarms are told there"
