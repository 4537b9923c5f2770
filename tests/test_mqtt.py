"""What a broker is told, by a real one that nobody here wrote: what is retained, the last will, faults and recovery."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from conftest import noise_bundle
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from runtime import mqtt
from runtime.alarm import AlarmState
from runtime.alarms import MQTT
from runtime.camera import Frame
from runtime.desk import Desk
from runtime.journal import Journal
from runtime.known_good import Chosen
from runtime.loop import Tick
from runtime.mqtt import Publisher, due
from runtime.registers import Command, Mode
from runtime.run import Watch
from runtime.scribe import Scribe
from runtime.settings import CameraSettings, MqttSettings, Settings
from wm import bundle
from wm.config import FootageSpec, ModelConfig
from wm.errors import InputError

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
TOPIC = "plant/line1"
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto: install it to tell a broker")


class Broker:
    """Mosquitto on a port, and who listens to everything there."""

    def __init__(self, folder: Path, port: int, *lines: str) -> None:
        self.port, self.heard = port, list[tuple[str, bool, str]]()
        self._file = folder / "mosquitto.conf"
        first = f"user {getpass.getuser()}", f"listener {port} 127.0.0.1"
        self._file.write_text("\n".join([*first, *(lines or ["allow_anonymous true"]), ""]))
        self.start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(self._file)], stderr=subprocess.DEVNULL)
        wait_for(lambda: answers(self.port))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Puts what comes into `heard`: topic, whether it was retained for who comes late, text."""
        self.heard.clear()
        client = Client(CallbackAPIVersion.VERSION2)
        client.on_message = lambda _, __, come: self.heard.append((come.topic, come.retain, come.payload.decode()))
        client.on_connect = lambda *_: client.subscribe("#", qos=1)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        yield
        client.loop_stop()

    def last(self, name: str) -> Any:
        """What was heard last of a topic, None where nothing was."""
        texts = [text for topic, _, text in self.heard if topic == f"{TOPIC}/{name}"]
        return json.loads(texts[-1]) if texts else None


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(wanted: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


class Runtime:
    """A desk and a publisher without a model behind them."""

    def __init__(self, folder: Path, port: int, **settings: Any) -> None:
        self.scribe, self.time = Scribe(Journal(folder / "journal.db")), 0.0
        self.desk = Desk(self.scribe, Mode.SHADOW, "bundle 1234")
        self.publisher = Publisher(MqttSettings(address=f"127.0.0.1:{port}", topic=TOPIC, **settings))
        self.longest = 0.0

    def turn(self, *, alarm: bool = False, camera: str | None = None) -> None:
        began = time.monotonic()
        tick = Tick(
            self.time, 0.25 + self.time, AlarmState(on=alarm), Command(1, Mode.SHADOW, False, 0, 1, 500), camera
        )
        self.desk.take(tick, None, {MQTT: self.publisher.fault})
        self.publisher.show(tick, self.desk)
        self.longest = max(self.longest, time.monotonic() - began)
        self.time += 0.1

    def until(self, wanted: Callable[[], object], **facts: Any) -> None:
        """Turns until then."""

        def turned() -> object:
            self.turn(**facts)
            return wanted()

        wait_for(turned)

    @property
    def alarmed(self) -> bool:
        return any(row["name"] == "MQTT" for row in self.desk.standing())

    def close(self) -> None:
        self.publisher.close()
        self.scribe.close()


@pytest.fixture
def broker(tmp_path: Path, free_port: int) -> Iterator[Broker]:
    found = Broker(tmp_path, free_port)
    with found.listening():
        yield found
    found.process.send_signal(signal.SIGCONT)
    found.kill()


@pytest.fixture
def running(tmp_path: Path, free_port: int) -> Iterator[Runtime]:
    found = Runtime(tmp_path, free_port)
    yield found
    found.close()


@needs_broker
def test_who_listens_hears_mode_score_alarm_faults_and_the_standing_alarms(broker: Broker, running: Runtime) -> None:
    running.until(lambda: broker.last("state") and broker.last("alarms") is not None)
    assert (broker.last("online"), broker.last("alarms")) == (1, [])
    assert set(broker.last("state")) == {"mode", "score", "alarm", "faults"}
    assert (broker.last("state")["mode"], broker.last("state")["alarm"]) == ("shadow", False)
    running.until(lambda: broker.last("alarms"), alarm=True)
    (row,) = broker.last("alarms")
    assert (row["name"], row["life"]) == ("jam ahead", "unacknowledged")
    assert row.keys() == running.desk.standing()[0].keys()
    running.until(lambda: broker.last("state")["faults"], camera="the camera's picture is blank")
    assert broker.last("state") == {
        "mode": "shadow",
        "score": None,
        "alarm": False,
        "faults": ["the camera's picture is blank"],
    }


@needs_broker
def test_who_comes_late_hears_what_was_said_last_and_a_runtime_that_stops_says_so(
    broker: Broker, running: Runtime
) -> None:
    running.until(lambda: broker.last("state"))
    running.close()
    wait_for(lambda: broker.last("online") == 0)
    with broker.listening():
        wait_for(lambda: len(broker.heard) == 3)
        assert all(retained for _, retained, _ in broker.heard)
        assert broker.last("online") == 0


def test_a_topic_is_told_at_once_where_more_has_changed_than_score_and_time_and_else_once_a_second() -> None:
    before = [{"mode": "shadow", "score": 0.5}]
    assert not due(before, 0.0, [{"mode": "shadow", "score": 0.6}], 0.9)
    assert due(before, 0.0, [{"mode": "shadow", "score": 0.6}], 1.0)
    assert due(before, 0.0, [{"mode": "act", "score": 0.5}], 0.1)
    assert not due(before, 0.0, before, 9.0)
    assert not due([{"name": "PLC", "for_s": 1.0}], 0.0, [{"name": "PLC", "for_s": 1.1}], 0.1)


@needs_broker
def test_of_a_runtime_that_was_killed_the_broker_says_that_it_is_gone(broker: Broker) -> None:
    code = (
        "import time; from runtime.mqtt import Publisher; from runtime.settings import MqttSettings; "
        f"Publisher(MqttSettings(address='127.0.0.1:{broker.port}', topic='{TOPIC}')); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: broker.last("online") == 1)
    process.kill()
    process.wait()
    wait_for(lambda: broker.last("online") == 0)


@needs_broker
def test_a_runtime_with_these_settings_tells_of_its_turns_and_of_its_end(broker: Broker, tmp_path: Path) -> None:
    config = ModelConfig.of(FootageSpec(10.0, (16, 16, 3)), "debug")
    model = noise_bundle(config, rate_hz=10.0, tags=(), actions=())
    bundle.save(model, tmp_path / "noise")
    settings = Settings(
        bundle=tmp_path / "noise",
        out=tmp_path / "out",
        cameras=(CameraSettings(source="belt.mp4"),),
        mqtt=MqttSettings(address=f"127.0.0.1:{broker.port}", topic=TOPIC),
    )
    watch = Watch(settings, Chosen(model, settings.bundle))
    watch.turn([Frame(np.eye(16, dtype=np.uint8)[..., None].repeat(3, -1), 0.0, 0)], 0)
    wait_for(lambda: broker.last("state") and broker.last("online") == 1)
    assert broker.last("state")["mode"] == "shadow"
    watch.close("told to stop")
    wait_for(lambda: broker.last("online") == 0)


@needs_broker
def test_a_broker_that_dies_is_an_alarm_and_costs_no_turn_and_one_that_comes_again_hears_the_latest(
    broker: Broker, running: Runtime
) -> None:
    running.until(lambda: broker.last("online"))
    broker.kill()
    running.until(lambda: running.alarmed)
    fault = running.publisher.fault
    assert fault is not None and "Connection refused" in fault
    assert running.longest < 1.0
    broker.start()
    with broker.listening():
        running.until(lambda: broker.last("online") == 1)
        running.until(lambda: not running.alarmed)
        assert running.publisher.fault is None
        running.until(lambda: broker.last("state")["faults"] == [])


@needs_broker
def test_a_frozen_broker_is_an_alarm_and_costs_no_turn_and_goes_once_it_thaws(broker: Broker, running: Runtime) -> None:
    running.until(lambda: broker.last("online"))
    broker.process.send_signal(signal.SIGSTOP)
    running.until(lambda: running.alarmed)
    assert running.longest < 1.0
    broker.process.send_signal(signal.SIGCONT)
    running.until(lambda: running.publisher.fault is None and not running.alarmed)
    with broker.listening():
        wait_for(lambda: broker.last("online") == 1)


@needs_broker
def test_two_runtimes_with_one_topic_put_each_other_out_and_that_is_an_alarm(
    broker: Broker, running: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    second = Runtime(tmp_path / "second", broker.port)

    def turned() -> bool:
        second.turn()
        return running.alarmed or second.alarmed

    running.until(turned)
    second.close()
    running.until(lambda: running.publisher.fault is None)


@needs_broker
def test_only_who_knows_the_password_is_let_in_and_a_refusal_is_told(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("flinch:secret\n")
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    broker = Broker(tmp_path, free_port, "allow_anonymous false", f"password_file {passwords}")
    settings = MqttSettings(address=f"127.0.0.1:{free_port}", topic=TOPIC, username="flinch")
    monkeypatch.setenv(mqtt.PASSWORD, "wrong")
    running = Runtime(tmp_path, free_port, username="flinch")
    try:
        with pytest.raises(InputError, match="Not authorized; check address, username, FLINCH_MQTT_PASSWORD"):
            mqtt.probe(settings)
        wait_for(lambda: running.publisher.fault and "Not authorized" in running.publisher.fault)
        monkeypatch.setenv(mqtt.PASSWORD, "secret")
        assert "lets in" in mqtt.probe(settings)
        running.until(lambda: running.publisher.fault is None)
    finally:
        running.close()
        broker.kill()


@needs_broker
def test_with_an_authority_only_a_broker_that_it_vouches_for_is_told(tmp_path: Path, free_port: int) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    for authority, name in ((ours, "ours"), (theirs, "theirs")):
        authority.cert_pem.write_to_path(tmp_path / f"{name}.pem")
    certificate = ours.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    lines = [f"{name} {tmp_path / file}" for name, file in (("certfile", "cert.pem"), ("keyfile", "key.pem"))]
    broker = Broker(tmp_path, free_port, *lines, "allow_anonymous true")
    settings = MqttSettings(address=f"127.0.0.1:{free_port}", topic=TOPIC, authority=tmp_path / "ours.pem")
    try:
        assert "lets in" in mqtt.probe(settings)
        with pytest.raises(InputError, match="CERTIFICATE_VERIFY_FAILED"):
            mqtt.probe(settings.model_copy(update={"authority": tmp_path / "theirs.pem"}))
        with pytest.raises(InputError, match=r"none\.pem cannot be used"):
            mqtt.probe(settings.model_copy(update={"authority": tmp_path / "none.pem"}))
    finally:
        broker.kill()


def test_who_accepts_and_says_nothing_is_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "ANSWER_S", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(InputError, match="no answer in time"),
    ):
        mqtt.probe(MqttSettings(address=f"127.0.0.1:{mute.getsockname()[1]}", topic=TOPIC))
