"""The fault matrix: what a runtime as it is installed makes of a PLC, a camera, a disk and a clock that fail, and of
its own processes being killed. Each fault befalls a runtime of its own, beside a PLC in another process, whose speed is
limited at that moment by a bundle that alarms all the time: so a command that outlives its validity would show.
"""

import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import runfolder, stand
from experiments.cli import main, progress
from experiments.stand import ACTIVE_LIVES, FILM, Runtime, waited
from experiments.stream import RtspCamera, film
from experiments.tap import STALE_S, Onlooker, Plc, Tap, oldest, still
from runtime import journal
from runtime.alarms import CAMERA, DRIFT, JOURNAL, PAGE, PLC
from wm import bundle
from wm.errors import InputError

SETTLED_S, LIMIT_S, HOLD_S, WATCHED_S = 60.0, 30.0, 3.0, 5.0
LATE_S, KILL_S = 1.0, 2.0
CONNECTIONS = 100
DISK_MB = 16
UNLIMITED = {"longest_s": 600.0}
CLOCK = Path(__file__).with_name("clock.c")


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.faults."""

    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    bundle: Path = Path("runtime/line/bundle")
    """Calibrated bundle that watches."""
    kills: int = 50
    """How often the runtime is killed."""
    seed: int = 0
    """Of the instants of the kills, and of the garbage."""
    only: tuple[str, ...] = ()
    """Only these faults, by their names."""
    report: Path | None = None
    """Folder for runtime.json, where the faults go beside what else is there."""


@dataclass(frozen=True)
class Stand:
    """A runtime with all that it rests on, each within reach."""

    runtime: Runtime
    plc: Plc
    tap: Tap
    onlooker: Onlooker
    camera: RtspCamera

    def obeyed(self) -> None:
        """Waits until the PLC limits its speed by the runtime's request and all is well."""
        since = time.monotonic()
        if waited(lambda: self.onlooker.in_force(since) and self.well(since), SETTLED_S) is None:
            raise InputError(f"the PLC never did as asked; look at {self.runtime.folder / 'runtime.log'}.")

    def well(self, since: float) -> bool:
        """Whether the heartbeat has advanced at the PLC since then, and the runtime says that it is well."""
        return self.onlooker.beats(since) and self.runtime.health() == "well"

    def oldest(self, since: float) -> float:
        """How old, in seconds, a command was at most that limited the PLC's speed since then."""
        return oldest((view for view in self.onlooker.views if view.at > since), self.tap.written)

    def last_row(self) -> int:
        return self.runtime.journal()[-1].id


class Fault(NamedTuple):
    """A fault that comes and goes.

    Attributes:
      alarm: which of the runtime's alarms it is to raise.
      remove: ends it; None where it ends by itself.
      stream: whether the camera is an RTSP stream, and no file.
      said: what /healthz must say as well, a pattern: where the alarm comes for another reason too.
    """

    name: str
    alarm: str
    inject: Callable[[Stand], object]
    remove: Callable[[Stand], object] | None
    stream: bool = False
    said: str = ""
    note: str = ""


def run(flags: Flags) -> None:
    """Injects one fault after another and measures alarm and recovery."""
    unknown = sorted(set(flags.only) - MATRIX.keys())
    if unknown or flags.kills < 1:
        raise InputError(f"--only knows {', '.join(MATRIX)}, and --kills must be above 0.")
    folder = runfolder.start(flags.out, flags)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no runtime outlives it
    rows = []
    names = flags.only or tuple(MATRIX)
    with progress() as bar:
        task = bar.add_task("faults", total=len(names), unit="faults")
        for name in names:
            place = folder / re.sub(r"\W+", "_", name)
            place.mkdir(exist_ok=True)
            rows.append(runfolder.kept(place / "row.json", partial(MATRIX[name], place, flags)))
            bar.advance(task)
    found, source = {"faults": rows}, runfolder.provenance(flags)
    if flags.report:
        runfolder.merge(flags.report / "runtime.json", found, {"faults": source})
    runfolder.finish(folder, {**found, "provenance": {"faults": source}})
    Console(stderr=True).print(_table(rows), f"wrote {folder}", sep="\n", highlight=False)


@contextmanager
def standing(
    folder: Path, flags: Flags, *, stream: bool = False, environment: dict[str, str] | None = None, **settings: Any
) -> Iterator[Stand]:
    """A stand whose PLC does as the runtime asks, which it does all the time."""
    with Plc() as plc, Tap(plc.port) as tap, Onlooker(plc.port) as onlooker, RtspCamera(film(FILM)) as camera:
        told = {
            "bundle": anxious(flags),
            "mode": "act",
            "cameras": [{"source": camera.address} if stream else {"source": FILM, "loop": True}],
            "plc": stand.plc(tap.address),
            "act": UNLIMITED,
        }
        with Runtime(folder, {**told, **settings}, environment) as runtime:
            runtime.turning()
            found = Stand(runtime, plc, tap, onlooker, camera)
            found.obeyed()
            yield found


def anxious(flags: Flags) -> Path:
    """The bundle with such a threshold that it alarms all the time."""
    path = flags.out.absolute() / "anxious"
    if not path.exists():
        model = bundle.load(flags.bundle)
        if model.calibration is None:
            raise InputError(f"{flags.bundle} is not calibrated; run experiments.calibrate first.")
        threshold = jnp.full_like(model.calibration.threshold, 1e-6)
        bundle.save(replace(model, calibration=model.calibration.replace(threshold=threshold)), path)
    return path


def tried(fault: Fault, folder: Path, flags: Flags) -> dict[str, Any]:
    """One fault that comes and goes, on a stand of its own."""
    with standing(folder, flags, stream=fault.stream) as found:
        return befallen(found, fault)


def befallen(found: Stand, fault: Fault) -> dict[str, Any]:
    """Injects a fault, waits for its alarm, removes it and waits until all is normal."""
    after, began = found.last_row(), time.monotonic()
    fault.inject(found)

    def alarmed() -> bool:
        return active(found.runtime.alarms(fault.alarm, after)) and bool(re.search(fault.said, found.runtime.health()))

    came = waited(alarmed, LIMIT_S)
    alarmed_s = None if came is None else time.monotonic() - began
    alarm = None if came is None else f"{fault.alarm}: {reason(found, fault, after)}"
    removed = began
    if fault.remove is not None:
        time.sleep(HOLD_S)
        fault.remove(found)
        removed = time.monotonic()

    def normal() -> bool:
        return not active(found.runtime.alarms(fault.alarm, after)) and found.well(removed)

    recovered_s = None if waited(normal, SETTLED_S) is None else time.monotonic() - removed
    if recovered_s is not None:
        found.obeyed()
    notes = [fault.note, "" if alarm else f"no alarm for it within {LIMIT_S:.0f} s"]
    return row(fault.name, found.oldest(began), alarm, alarmed_s, recovered_s, "; ".join(filter(None, notes)))


def reason(found: Stand, fault: Fault, after: int) -> str:
    """Why the alarm stands, as the runtime says."""
    return found.runtime.health() if fault.said else found.runtime.alarms(fault.alarm, after)[0].entry.why


def row(
    name: str,
    oldest_s: float | None,
    alarm: str | None,
    alarmed_s: float | None,
    recovered_s: float | None,
    note: str = "",
    **more: Any,
) -> dict[str, Any]:
    """A row of the matrix; `oldest_s` is the age of the oldest command that limited the PLC's speed."""
    return {
        "injected": name,
        "alarm": alarm,
        "alarmed_s": rounded(alarmed_s),
        "recovered_s": rounded(recovered_s),
        "oldest_command_s": rounded(oldest_s),
        "stale_command": None if oldest_s is None else oldest_s > STALE_S,
        **more,
        "note": note,
    }


def active(lives: list[journal.Row]) -> bool:
    """Whether an alarm stands after these changes of its life."""
    return bool(lives) and lives[-1].entry.after in ACTIVE_LIVES


def rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def quiet(found: Stand, began: float, after: int) -> tuple[list[str], float]:
    """Alarms of camera, PLC, journal and page since then, and for how long the heartbeat stood still at most."""
    rows = found.runtime.journal(after)
    names = {row.entry.name for row in rows if row.entry.kind == "alarm" and row.entry.after in ACTIVE_LIVES}
    views = [view for view in found.onlooker.views if view.at > began]
    return sorted(names & {CAMERA, PLC, JOURNAL, PAGE}), still(views)


def restarted(name: str, folder: Path, flags: Flags) -> dict[str, Any]:
    """The PLC is killed and comes back at once, without any memory."""
    with standing(folder, flags) as found:
        after, began = found.last_row(), time.monotonic()
        found.plc.kill()
        found.plc.start()
        up = time.monotonic()
        recovered_s = waited(lambda: found.well(up), SETTLED_S)
        found.obeyed()
        names, _ = quiet(found, began, after)
        note = f"down for {up - began:.1f} s; an alarm is wanted above a second"
        return row(name, found.oldest(began), ", ".join(names) or None, None, recovered_s, note)


def garbage(name: str, folder: Path, flags: Flags) -> dict[str, Any]:
    """Random bytes, and requests that were cut off, on the PLC's port."""
    generator = np.random.default_rng(flags.seed)
    with standing(folder, flags) as found:
        after, began = found.last_row(), time.monotonic()
        for _ in range(CONNECTIONS):
            found.plc.send(generator.bytes(generator.integers(1, 400)))
        time.sleep(WATCHED_S)
        names, longest = quiet(found, began, after)
        well = found.well(time.monotonic() - WATCHED_S)
        note = f"no alarm is wanted; {CONNECTIONS} connections, after which the PLC {'serves' if well else 'is dead'}"
        return row(name, found.oldest(began), ", ".join(names) or None, None, None, note, heartbeat_still_s=longest)


def stepped(name: str, folder: Path, flags: Flags) -> dict[str, Any]:
    """The wall clock of the runtime and of its page goes forward by an hour, and back by two."""
    compiler = shutil.which("cc")
    if compiler is None:
        return row(name, None, None, None, None, "not tried: it needs a C compiler")
    shift, library = folder.absolute() / "shift", folder.absolute() / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, CLOCK, "-ldl"], check=True)
    shift.write_bytes(struct.pack("l", 0))
    with standing(folder, flags, environment={"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}) as found:
        after, began = found.last_row(), time.monotonic()
        for seconds in (3600, -3600):
            with shift.open("r+b") as file:
                file.write(struct.pack("l", seconds))
            time.sleep(WATCHED_S)
        names, longest = quiet(found, began, after)
        well = found.well(time.monotonic() - WATCHED_S)
        note = f"no alarm is wanted; forward by an hour, back by two; then it is {'well' if well else 'not well'}"
        return row(name, found.oldest(began), ", ".join(names) or None, None, None, note, heartbeat_still_s=longest)


def swapped(name: str, folder: Path, flags: Flags) -> dict[str, Any]:
    """A byte of the bundle is changed while it is in use; then the runtime is started again, and once more when the
    bundle is whole.
    """
    copy = folder / "bundle"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(anxious(flags), copy)
    with standing(folder, flags, bundle=copy.absolute()) as found:
        after, began = found.last_row(), time.monotonic()
        largest = max((file for file in copy.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
        whole = largest.read_bytes()
        largest.write_bytes(bytes((whole[0] ^ 1,)) + whole[1:])
        time.sleep(WATCHED_S)
        names, longest = quiet(found, began, after)
        age = found.oldest(began)
        found.runtime.process.terminate()
        found.runtime.process.wait(LIMIT_S)
        log = found.runtime.folder / "runtime.log"
        told, started = log.stat().st_size, time.monotonic()
        code = found.runtime.start().wait(LIMIT_S)
        refused_s = time.monotonic() - started
        said = log.read_bytes()[told:].decode().replace(f"{folder.absolute()}/", "")
        largest.write_bytes(whole)
        started = time.monotonic()
        found.runtime.start()
        found.obeyed()
        note = "while it runs no alarm is wanted; alarmed_s until it refuses to start, recovered_s until it is obeyed"
        more = {"exit_code": code, "lines": said.count("\n"), "while_running": names, "heartbeat_still_s": longest}
        return row(name, age, said.strip(), refused_s, time.monotonic() - started, note, **more)


def full(name: str, folder: Path, flags: Flags) -> dict[str, Any]:
    """No room on the disk of the runtime's folder, a tmpfs, while there is something for the journal."""
    disk = (folder / "disk").absolute()
    disk.mkdir(exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        return row(name, None, None, None, None, "not tried: a small disk needs root, for mount")
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", str(disk)], check=True)
        found = stack.enter_context(standing(folder, flags, out=disk / "watch"))
        after, began = found.last_row(), time.monotonic()
        fill(disk / "filler")
        asked = Thread(
            target=found.runtime.ask, kwargs={"what": "shelve", "who": "faults", "name": DRIFT, "minutes": 1}
        )
        asked.start()
        said = f"{JOURNAL} is at fault"
        alarmed_s = waited(lambda: found.runtime.health() == said, LIMIT_S)
        time.sleep(HOLD_S)
        (disk / "filler").unlink()
        removed = time.monotonic()
        recovered_s = waited(lambda: found.well(removed), SETTLED_S)
        asked.join()
        found.obeyed()
        rows, (_, longest) = found.runtime.journal(), quiet(found, began, after)
        kept = any(each.entry.who == "faults" for each in rows) and any(each.entry.name == JOURNAL for each in rows)
        intact = journal.broken(rows) is None and kept
        more = {"journal_intact": intact, "torn_ticks": torn(disk / "watch"), "heartbeat_still_s": longest}
        note = "a tmpfs; seen in /healthz, since the journal cannot take it; request and alarm are in it afterwards"
        return row(name, found.oldest(began), f"/healthz: {said}", alarmed_s, recovered_s, note, **more)


def fill(file: Path) -> None:
    """Writes until there is no room left, not even for a byte."""
    with file.open("wb", buffering=0) as filler:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                continue


def torn(out: Path) -> int:
    """How many whole lines of ticks.jsonl are not what was written."""
    *lines, _ = (out / "ticks.jsonl").read_text().split("\n")
    return sum(not (line.startswith("{") and line.endswith("}") and line.count("{") == 1) for line in lines)


def killed(name: str, folder: Path, flags: Flags) -> dict[str, Any]:
    """SIGKILL to the runtime, again and again."""
    instants = np.random.default_rng(flags.seed).uniform(0.0, KILL_S, flags.kills)
    kills = [
        runfolder.kept(folder / f"kill{number:02}.json", partial(kill, number, instant, folder, flags))
        for number, instant in enumerate(instants.tolist())
    ]
    note = f"{flags.kills} times; nobody is left to alarm; recovered_s: the longest until the PLC had its own speed"
    more = {
        "kills": flags.kills,
        "acknowledged": sum(each["acknowledged"] for each in kills),
        "lost": sum(each["lost"] for each in kills),
        "chains_broken": sum(each["broken"] for each in kills),
    }
    oldest_s = max(each["oldest_s"] for each in kills)
    return row(name, oldest_s, None, None, max(each["back_s"] for each in kills), note, **more)


def kill(number: int, instant: float, folder: Path, flags: Flags) -> dict[str, Any]:
    """Kills it so many seconds after the PLC does as asked, while an operator asks one thing after another."""
    who = f"operator of kill {number}"
    with standing(folder, flags) as found:
        before = found.last_row()
        began = time.monotonic()
        answered = 0

        def asks() -> None:
            nonlocal answered
            for count in range(1_000_000):
                if not found.runtime.ask(what="shelve", who=who, name=DRIFT, minutes=(count + 1) % 2):
                    return
                answered += 1

        operator = Thread(target=asks)
        operator.start()
        time.sleep(instant)
        found.runtime.process.kill()
        dead = time.monotonic()
        found.runtime.process.wait()
        back_s = waited(lambda: not found.onlooker.in_force(dead) and found.onlooker.views[-1].at > dead, LIMIT_S)
        operator.join()
        rows = found.runtime.journal()
        durable = sum(each.entry.who == who for each in rows if each.id > before)
        return {
            "acknowledged": answered,
            "lost": max(0, answered - durable),
            "broken": journal.broken(rows) is not None,
            "back_s": back_s,
            "oldest_s": found.oldest(began),
        }


def lens(change: Callable[[Any], Any]) -> Callable[[Stand], None]:
    """Something comes before the lens."""

    def put(found: Stand) -> None:
        found.camera.lens = change

    return put


def frozen(found: Stand) -> None:
    first = found.camera.pictures[0]
    found.camera.lens = lambda _: first


def flickering(found: Stand) -> None:
    """Frozen, but for what an encoder may make of it: two grey levels, up and down."""
    first = found.camera.pictures[0]
    both = cycle((first, np.where(first < 254, first + 2, first).astype(np.uint8)))
    found.camera.lens = lambda _: next(both)


def swap(change: Callable[[Any], Any]) -> Callable[[Stand], None]:
    """Another camera answers at its address."""

    def put(found: Stand) -> None:
        found.camera.lens = change
        found.camera.hang_up()

    return put


def clear(picture: Any) -> Any:
    return picture


def cropped(picture: Any) -> Any:
    """Its upper three quarters."""
    return picture[: 3 * len(picture) // 4]


def reddened(picture: Any) -> Any:
    """Red for blue, and blue for red."""
    return picture[..., ::-1].copy()


def spoil(**how: Any) -> Callable[[Stand], None]:
    """Changes what the tap does."""

    def do(found: Stand) -> None:
        for name, value in how.items():
            setattr(found.tap, name, value)

    return do


OTHER = "something else|has moved|light is|colours are"
FAULTS = (
    Fault("PLC killed", PLC, lambda found: found.plc.kill(), lambda found: found.plc.start()),
    Fault("PLC frozen, and thawed", PLC, lambda found: found.plc.freeze(), lambda found: found.plc.thaw()),
    Fault("PLC slow: a second a request", PLC, spoil(delay_s=LATE_S), spoil(delay_s=0.0)),
    Fault("PLC refuses connections", PLC, lambda found: found.tap.shut(), lambda found: found.tap.open()),
    Fault("PLC answers with exceptions", PLC, spoil(busy=True), spoil(busy=False)),
    Fault("requests come to another unit", PLC, spoil(unit=7), spoil(unit=None)),
    Fault("camera killed", CAMERA, lambda found: found.camera.shut(), lambda found: found.camera.open(), stream=True),
    Fault("camera stalls", CAMERA, lens(lambda _: None), lens(clear), stream=True),
    Fault("picture frozen", CAMERA, frozen, lens(clear), stream=True, said="frozen"),
    Fault("picture frozen, encoder not", CAMERA, flickering, lens(clear), stream=True, said="frozen"),
    Fault("picture black", CAMERA, lens(np.zeros_like), lens(clear), stream=True),
    Fault("picture of another size", CAMERA, swap(cropped), swap(clear), stream=True, said=OTHER),
    Fault("picture of another colour order", CAMERA, swap(reddened), swap(clear), stream=True, said=OTHER),
    Fault("page killed", PAGE, lambda found: found.runtime.page().kill(), None),
)
MATRIX: dict[str, Callable[[Path, Flags], dict[str, Any]]] = {
    **{fault.name: partial(tried, fault) for fault in FAULTS},
    **{
        name: partial(function, name)
        for name, function in {
            "PLC restarted": restarted,
            "runtime killed": killed,
            "disk full": full,
            "clock stepped": stepped,
            "bundle damaged": swapped,
            "garbage on the PLC's port": garbage,
        }.items()
    },
}


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = ("injected", "alarm", "alarmed_s", "recovered_s", "stale_command", "note")
    table = Table(*columns)
    for each in rows:
        table.add_row(*("-" if each[name] is None else str(each[name]) for name in columns))
    return table


if __name__ == "__main__":
    main(run)
