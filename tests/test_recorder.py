"""Clips of jams ahead: from before to after, whole or not at all, no more than may be kept, and nobody on them."""

import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from runtime import clip, recorder
from runtime.clip import Moment
from runtime.recorder import Recorder, keep, masked
from runtime.settings import RecorderSettings

SETTINGS = RecorderSettings(before_s=0.5, after_s=0.8)


def moment(number: int, score: float = 0.5) -> Moment:
    picture = np.full((16, 16, 3), 10 * (number % 25), np.uint8)
    return Moment(picture, picture, np.zeros((2, 2), np.float32), score)


def recorded(
    folder: Path, alarms: dict[int, str], turns: int, settings: RecorderSettings = SETTINGS
) -> list[str | None]:
    told: list[str | None] = []
    film = Recorder(settings, folder, 10.0, lambda name, why: told.append(name))
    for number in range(turns):
        film.take(moment(number), alarms.get(number))
    film.close()
    film._thread.join(timeout=60)
    return told


def frames(path: Path) -> list[int]:
    """The number of the moment that each frame shows."""
    return [round(float(frame[8:56, 8:56].mean()) / 10) for frame in imageio.imiter(path, plugin="pyav")]


def test_a_clip_shows_what_came_before_the_alarm_and_after_it(tmp_path):
    assert recorded(tmp_path, {9: "first"}, 25) == ["first.mp4"]
    assert frames(tmp_path / "first.mp4") == [*range(4, 9), *range(9, 17)]
    assert imageio.improps(tmp_path / "first.mp4", plugin="pyav").shape[1:] == (80, 192, 3)


def test_an_alarm_at_the_start_has_what_there_is_before_it_and_one_at_the_end_what_there_is_after(tmp_path):
    assert recorded(tmp_path, {2: "start", 20: "end"}, 23) == ["start.mp4", "end.mp4"]
    assert frames(tmp_path / "start.mp4") == [*range(10)]
    assert frames(tmp_path / "end.mp4") == [*range(15, 23)]


def test_another_alarm_prolongs_a_clip_that_runs(tmp_path):
    assert recorded(tmp_path, {6: "first", 10: "second"}, 25) == ["first.mp4"]
    assert frames(tmp_path / "first.mp4") == [*range(1, 18)]


def test_an_alarm_that_comes_and_goes_all_the_time_makes_clips_that_end(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "LONGEST_S", 2.0)
    told = recorded(tmp_path, {number: f"{number:03}" for number in range(0, 60, 4)}, 60)
    assert len(told) == 3
    assert max(len(frames(file)) for file in tmp_path.iterdir()) <= 20 + 8


def test_where_it_surprises_is_red_and_the_score_a_bar(tmp_path):
    surprised = moment(5, score=1.0)._replace(map=np.array([[0.0, 3.0], [0.0, 0.0]], np.float32))
    frame = clip.drawn(surprised, 2.0).astype(int)
    assert frame.shape == (64 + 16, 192, 3)
    assert np.all(frame[:32, 160:192, 0] > frame[:32, 160:192, 1] + 80)
    np.testing.assert_array_equal(frame[:64, :128], 50)
    assert [tuple(frame[70, column]) for column in (0, 95, 96, 97)] == [(210, 40, 40)] * 2 + [(255,) * 3, (40,) * 3]


def test_the_oldest_clips_go_when_there_are_too_many(tmp_path):
    for number in range(4):
        (tmp_path / f"2026{number}.mp4").write_bytes(bytes(1_000_000))
    keep(tmp_path, 2.5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["20262.mp4", "20263.mp4"]


def test_a_disk_that_takes_nothing_is_told_and_leaves_no_half_clip(tmp_path, monkeypatch):
    def full(clip, path, rate_hz):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder, "write", full)
    told: list[tuple[str | None, str]] = []
    film = Recorder(SETTINGS, tmp_path, 10.0, lambda name, why: told.append((name, why)))
    film.take(moment(0), "first")
    film.close()
    assert told == [(None, "clip first could not be written (No space left on device)")]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_told_by_the_process_that_writes(tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory"):
        clip.write([moment(0), moment(1)], tmp_path / "taken" / "clip.mp4", 10.0)


def test_half_a_clip_is_never_written(tmp_path):
    packed = io.BytesIO()
    np.savez(packed, *(np.stack(part) for part in zip(moment(0), moment(1), strict=True)))
    command = [sys.executable, "-m", "runtime.clip", str(tmp_path / "clip.mp4"), "10.0"]
    done = subprocess.run(command, input=packed.getvalue()[:-100], capture_output=True, check=False)
    assert done.returncode and not list(tmp_path.iterdir())


def test_a_slow_disk_costs_the_loop_nothing_and_a_clip_is_told_lost(tmp_path, monkeypatch):
    held, told = threading.Event(), []
    monkeypatch.setattr(recorder, "write", lambda clip, path, rate_hz: held.wait())
    film = Recorder(SETTINGS, tmp_path, 10.0, lambda name, why: told.append(why))
    began = time.monotonic()
    for number in range(200):
        film.take(moment(number), str(number) if number % 20 == 0 else None)
    assert time.monotonic() - began < 0.2
    assert set(told) == {"the disk is too slow for clips"}
    assert len(told) in {5, 6}
    film.close()
    assert told[-1] == "not written within 5 s of the end"
    held.set()


def test_a_clip_that_is_not_written_in_time_at_the_end_is_told_lost(tmp_path, monkeypatch):
    held, told = threading.Event(), []
    monkeypatch.setattr(recorder, "CLOSING_S", 0.2)
    monkeypatch.setattr(recorder, "write", lambda clip, path, rate_hz: held.wait())
    film = Recorder(SETTINGS, tmp_path, 10.0, lambda name, why: told.append((name, why)))
    film.take(moment(0), "first")
    film.close()
    assert told == [(None, "not written within 0.2 s of the end")]
    held.set()


@pytest.mark.parametrize("masks", [(), ((0, 0, 4, 8), (12, 12, 9, 9))])
def test_what_is_masked_is_grey_and_the_rest_as_it_was(masks):
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    found = masked(picture, masks)
    grey = np.zeros((16, 16), bool)
    for left, top, width, height in masks:
        grey[top : top + height, left : left + width] = True
    assert np.all(found[grey] == 128)
    np.testing.assert_array_equal(found[~grey], picture[~grey])
