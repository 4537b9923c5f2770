"""python -m runtime --settings FILE: watches a machine.  python -m runtime check --settings FILE: looks at all that it
needs and writes nothing.  python -m runtime report --journal FILE: what a runtime did, or in shadow would have done.
python -m runtime --demo --seeds 11,12 --out DIR: shows what watching is good for on the embedded line."""

import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from pythonjsonlogger.json import JsonFormatter

from wm.errors import InputError, interrupted, refuse


@dataclass(frozen=True)
class Flags:
    """Watch a machine with a settings file, check one, or run the demo."""

    what: tyro.conf.Positional[Literal["watch", "check", "report"]] = "watch"
    """Watch with the settings, look at all that they name, or tell what a journal says."""
    settings: Path | None = None
    """TOML file; runtime/line/line.toml is a commented example."""
    journal: Path | None = None
    """journal.db in the folder of a runtime, for report."""
    shift_hours: float = 8.0
    """Length of a shift in hours, for report."""
    demo: bool = False
    """Run the embedded line twice from one snapshot, without and with Flinch."""
    seeds: str = ""
    """Seeds of the demo's runs, separated by commas; they need --out."""
    out: Path | None = None
    """Folder for the demo's summary and video, runs/demo if not given."""


def main(flags: Flags) -> int:
    """Returns the exit code; raises InputError."""
    if flags.what == "report":
        return _report(flags)
    if flags.journal is not None:
        raise InputError("--journal belongs to report; python -m runtime report --journal FILE.")
    if flags.demo == (flags.settings is not None):
        raise InputError("give either --settings FILE or --demo --seeds 11,12 --out DIR.")
    if flags.what == "check" and flags.settings is None:
        raise InputError("check needs --settings FILE.")
    if flags.settings is not None:
        if flags.seeds or flags.out:
            raise InputError("--seeds and --out belong to --demo; a runtime's folder is named 'out' in its settings.")
        from runtime.check import check  # noqa: PLC0415 - a wrong flag need not wait for the model
        from runtime.run import run  # noqa: PLC0415
        from runtime.settings import read_settings  # noqa: PLC0415
        from wm import compilation  # noqa: PLC0415

        compilation.keep()
        settings = read_settings(flags.settings)
        if flags.what == "check":
            return check(settings)
        if settings.logs == "json":
            fields = {"asctime": "at", "levelname": "level"}
            written = JsonFormatter("%(asctime)s %(levelname)s %(message)s", rename_fields=fields)
            logging.getLogger().handlers[0].setFormatter(written)
        run(settings)
        return 0
    if flags.seeds and flags.out is None:
        raise InputError("--seeds needs --out DIR; give the folder for the summary and video of these runs.")
    seeds = _seeds(flags.seeds) if flags.seeds else None
    from runtime import demo  # noqa: PLC0415
    from wm import compilation  # noqa: PLC0415

    compilation.keep()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no PLC process outlives the demo
    return demo.run(demo.DEMO_SEEDS if seeds is None else seeds, flags.out or demo.DEMO_OUT)


def _report(flags: Flags) -> int:
    if flags.journal is None or flags.shift_hours <= 0:
        raise InputError("report needs --journal FILE, and --shift-hours above 0.")
    from runtime.report import report  # noqa: PLC0415

    report(flags.journal, flags.shift_hours)
    return 0


def _seeds(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--seeds '{text}' is not a list of whole numbers; write them as in --seeds 11,12.")
    return tuple(int(part) for part in parts)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("flinch").setLevel(logging.INFO)
    try:
        sys.exit(main(tyro.cli(Flags, prog="runtime", description=__doc__)))
    except InputError as error:
        refuse(error)
    except KeyboardInterrupt:
        interrupted()
