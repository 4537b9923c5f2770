from pathlib import Path

import pytest

from wm.files import appearing


def test_what_fails_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    file.write_text("old")
    with pytest.raises(RuntimeError), appearing(file) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("summary.json", "old")]


def test_what_is_finished_takes_the_place_of_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    file.write_text("old")
    with appearing(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("summary.json", "new")]
