"""The page: in a process of its own, for those who may look, and as an operator uses it in a browser."""

import base64
import http.client
import io
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from runtime import journal
from runtime.alarm import AlarmState
from runtime.alarms import PAGE
from runtime.desk import Desk
from runtime.foresight import PICTURES, Branch
from runtime.journal import Journal
from runtime.loop import Tick
from runtime.page.health import ailing
from runtime.plc import Fault
from runtime.registers import Command, Mode
from runtime.scribe import Scribe
from runtime.settings import PageSettings
from runtime.window import Window, _facts

CHROMIUM = shutil.which("chromium")
PICTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
BRANCHES = [
    Branch(speed, np.full((64, 64 * PICTURES, 3), 200 * speed, np.uint8), {"blocked_s": 1.25 - speed}, worth)
    for speed, worth in ((1.0, 3.5), (0.5, None))
]


class Runtime:
    """A desk and a window without a model behind them."""

    def __init__(self, folder: Path, port: int) -> None:
        self.path, self.port, self.time = folder / "journal.db", port, 0.0
        self.scribe = Scribe(Journal(self.path))
        self.desk = Desk(self.scribe, Mode.SHADOW, "bundle 1234", frozenset(Mode) - {Mode.ACT})
        self.window = Window(PageSettings(port=port), self.path, folder / "clips", ["belt", "infeed"], (64, 64, 3))

    def turn(self, *, alarm: bool = False, camera: str | None = None, plc: str | None = None) -> None:
        self.window.keep()
        self.window.hear(self.desk)
        state, score = (
            AlarmState(on=alarm, slow=alarm, speed=0.1 if alarm else 1.0),
            float("nan") if camera else 1.5 if alarm else 0.25,
        )
        command = Command(1, self.desk.mode, False, 0.0, 1.0, 500)
        tick = Tick(self.time, score, state, command, camera)
        status = None if plc is None else Fault(plc)
        self.desk.take(tick, status, {PAGE: self.window.fault})
        self.window.show(tick, status, self.desk, [PICTURE, None], [PICTURE, None], 3, 0.004, BRANCHES)
        self.time += 0.1

    def turns(self, seconds: float, **facts: Any) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.turn(**facts)
            time.sleep(0.05)

    def close(self) -> None:
        self.window.close()
        self.scribe.close()

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        return self.request("GET", path, None, headers)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Asks while the loop turns."""
        body = json.dumps(request)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", "/ask", body, {"x-flinch": "1"})
        self.turns(0.3)
        return json.loads(connection.getresponse().read())

    def request(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()

    def wait(self) -> None:
        """Until the page is served."""
        for _ in range(200):
            self.turn()
            try:
                if self.get("/")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the page never came")


@pytest.fixture
def running(tmp_path: Path, free_port: int) -> Iterator[Runtime]:
    found = Runtime(tmp_path, free_port)
    found.wait()
    yield found
    found.close()


def test_the_page_is_for_this_machine_alone_and_nothing_is_changed_from_another_site(running: Runtime) -> None:
    assert running.get("/", host="evil.example:80")[0] == 421
    assert running.get("/journal")[0] == 200
    asked = json.dumps({"what": "mode", "mode": "off", "who": "somebody"})
    assert running.request("POST", "/ask", asked, {})[0] == 403
    running.turns(0.3)
    assert running.desk.mode is Mode.SHADOW


def test_what_would_come_at_other_speeds_is_told_with_its_pictures(running: Runtime) -> None:
    running.turn()
    first, second = json.loads(running.get("/whatif")[1])
    assert (first["speed"], first["worth"], first["tags"]) == (1.0, 3.5, {"blocked_s": 0.25})
    assert (second["speed"], second["worth"], second["tags"]) == (0.5, None, {"blocked_s": 0.75})
    drawn = Image.open(io.BytesIO(base64.b64decode(second["picture"].removeprefix("data:image/png;base64,"))))
    assert drawn.size == (PICTURES * 64, 64) and drawn.getpixel((100, 10)) == (100, 100, 100)


def test_machines_are_told_whether_it_is_well_and_its_figures(running: Runtime) -> None:
    running.turn()
    assert running.get("/healthz") == (200, b"well\n")
    samples = {sample.name: sample.value for sample in figures(running)}
    assert samples["flinch_well"] == 1
    assert samples["flinch_score"] == 0.25
    assert samples["flinch_frames_dropped_total"] == 3
    assert samples["flinch_camera_to_register_seconds"] == 0.004
    turns = samples["flinch_turns_total"]
    running.turn(alarm=True)
    samples = {sample.name: sample.value for sample in figures(running)}
    assert (samples["flinch_turns_total"], samples["flinch_alarm"]) == (turns + 1, 1)
    assert ("flinch_alarm_standing", {"name": "jam ahead"}) in [(each.name, each.labels) for each in figures(running)]
    running.turn(camera="the camera's picture is blank")
    assert running.get("/healthz") == (503, b"the camera's picture is blank\n")
    assert "flinch_score" not in {sample.name for sample in figures(running)}
    running.turn()
    time.sleep(1.2)
    status, told = running.get("/healthz")
    assert (status, told.startswith(b"the runtime has not turned for 1.")) == (503, True)


def test_a_clock_that_is_set_back_does_not_hide_that_the_runtime_hangs(monkeypatch) -> None:
    told = Tick(0.0, 0.25, AlarmState(), Command(1, Mode.SHADOW, False, 0.0, 1.0, 500))
    facts = {**_facts(told, None), "alarms": []}
    assert ailing(facts) is None
    monkeypatch.setattr("runtime.page.health.time", lambda: 0.0, raising=False)
    time.sleep(1.1)
    assert (ailing(facts) or "").startswith("the runtime has not turned for 1.")


def figures(running: Runtime) -> list[Any]:
    text = running.get("/metrics")[1].decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def test_what_is_asked_is_done_and_durable_once_it_is_answered(running: Runtime) -> None:
    assert running.ask(what="mode", mode="advise", who="Anna")["done"]
    entry = list(journal.read(running.path))[-1].entry
    assert (entry.kind, entry.before, entry.after, entry.who) == ("mode", "shadow", "advise", "Anna")
    assert running.desk.mode is Mode.ADVISE
    refused = running.ask(what="mode", mode="act", who="Anna")
    assert (refused["done"], refused["told"]) == (False, "this bundle and these settings do not allow mode act")
    assert running.ask(what="acknowledge", name="nothing", who="Anna")["told"] == "there is no alarm 'nothing'"


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"what": "dance", "who": "Anna"}, "dance"),
        ({"what": "shelve", "name": "jam ahead", "minutes": 1e9, "who": "Anna"}, "minutes"),
        ({"what": "acknowledge", "name": "jam ahead"}, "who"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(running: Runtime, request_: dict[str, Any], told: str) -> None:
    answer = running.ask(**request_)
    assert not answer["done"]
    assert told in answer["told"]


def test_a_shelved_jam_is_muted_until_it_is_unshelved(running: Runtime) -> None:
    running.turns(0.2, alarm=True)
    assert running.ask(what="shelve", name="jam ahead", minutes=10, who="Anna")["done"]
    assert running.desk.muted
    assert running.ask(what="shelve", name="jam ahead", minutes=0, who="Anna")["done"]
    assert not running.desk.muted


def test_a_killed_page_is_an_alarm_and_comes_again_and_the_loop_never_waits(running: Runtime) -> None:
    running.window._process.send_signal(signal.SIGKILL)
    running.window._process.wait()
    longest, began = 0.0, time.monotonic()
    while time.monotonic() - began < 0.8:
        before = time.monotonic()
        running.turn()
        longest = max(longest, time.monotonic() - before)
        time.sleep(0.02)
    assert any(row["name"] == "page" for row in running.desk.standing())
    assert longest < 0.1
    running.wait()
    running.turn()
    assert not any(row["name"] == "page" for row in running.desk.standing())


def test_beyond_loopback_there_is_no_page_without_a_token(monkeypatch) -> None:
    monkeypatch.delenv("FLINCH_TOKEN", raising=False)
    with pytest.raises(ValueError, match="set FLINCH_TOKEN"):
        PageSettings(host="0.0.0.0")
    monkeypatch.setenv("FLINCH_TOKEN", "secret")
    assert PageSettings(host="0.0.0.0").port == 8760


def test_with_a_token_only_who_knows_it_may_look(tmp_path: Path, free_port: int, monkeypatch) -> None:
    monkeypatch.setenv("FLINCH_TOKEN", "secret")
    found = Runtime(tmp_path, free_port)
    try:
        for _ in range(100):
            found.turn()
            try:
                assert found.get("/")[0] == 401
                break
            except OSError:
                time.sleep(0.1)
        assert found.get("/?token=wrong")[0] == 401
        assert found.get("/?token=secret")[0] == 200
        assert found.get("/", cookie="token=secret")[0] == 200
    finally:
        found.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install it to look at the page")
def test_an_operator_sees_an_alarm_acknowledges_and_shelves_it_and_changes_the_mode(running: Runtime) -> None:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"http://127.0.0.1:{running.port}/")
        running.turns(1.0, alarm=True)
        assert page.inner_text("#mode") == "shadow"
        assert page.inner_text("#now") == "1.50"
        assert "jam ahead" in page.inner_text("#alarms")
        assert page.eval_on_selector("#pictures .now", "picture => picture.naturalWidth") == 64
        assert page.eval_on_selector_all("#pictures .now", "pictures => pictures.length") == 2
        assert "infeed, now" in page.inner_text("#pictures").lower()

        page.click("button:text-is('Acknowledge')")
        assert "Who are you?" in page.inner_text("#told")
        page.fill("#who", "Anna")
        page.click("button:text-is('Acknowledge')")
        running.turns(1.0, alarm=True)
        assert page.inner_text("#told") == "acknowledged"
        page.click("#tell")
        page.wait_for_selector("#account td")
        assert [page.inner_text(f"#account td >> nth={cell}") for cell in (0, 3)] == ["shadow", "0"]
        assert "The journal is as it was written." in page.inner_text("#account")
        assert "acknowledged" in page.inner_text("#alarms")
        assert "unacknowledged" not in page.inner_text("#alarms")

        page.click("button:text-is('Shelve 10 min')")
        running.turns(1.0, alarm=True)
        assert "shelved for 10 min more" in page.inner_text("#alarms")

        page.click("#change")
        page.select_option("#choice", "advise")
        page.click("#yes")
        running.turns(1.0)
        assert page.inner_text("#mode") == "advise"
        assert "Anna" in page.inner_text("#journal")

        time.sleep(2.0)
        assert page.is_visible("#stale")
        browser.close()
    assert wrong == []
