"""Settings: the shipped example is right, and every mistake is one clear sentence."""

from pathlib import Path

import pytest

from runtime.line.rack import REGISTERS
from runtime.registers import Mode, read_map
from runtime.settings import read_settings
from wm.errors import InputError

EXAMPLE = REGISTERS.with_name("line.toml")


def test_the_shipped_example_is_valid_and_names_the_shipped_register_map() -> None:
    settings = read_settings(EXAMPLE)
    assert settings.mode_number is Mode.SHADOW
    assert settings.plc is not None
    assert read_map(EXAMPLE.parents[2] / settings.plc.registers) == read_map(REGISTERS)


def test_shadow_is_the_mode_of_those_who_do_not_choose(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('bundle = "b"\nout = "o"\n[[cameras]]\nsource = "belt.mp4"\n')
    settings = read_settings(file)
    assert settings.mode_number is Mode.SHADOW
    assert settings.plc is None


def test_a_video_file_must_not_act_on_a_real_plc(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    text = EXAMPLE.read_text().replace("127.0.0.1:5020", "10.0.0.5:502").replace('"line"', '"belt.mp4"', 1)
    file.write_text(text)
    assert read_settings(file).mode_number is Mode.SHADOW
    file.write_text(text.replace('"shadow"', '"act"'))
    with pytest.raises(InputError, match=r"pictures from belt\.mp4 must not drive the PLC at 10\.0\.0\.5:502"):
        read_settings(file)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("mode =", "mood ="), "unknown key 'mood'"),
        (('"shadow"', '"attack"'), "key 'mode'"),
        (("slow_to = 0.1", "slow_to = 1.5"), "key 'act.slow_to'"),
        (("slow_to = 0.1", "slow_to = nan"), "key 'act.slow_to'"),
        (("hold_s = 12.0", 'hold_s = "long"'), "key 'act.hold_s'"),
        (("127.0.0.1:5020", "127.0.0.1"), "key 'plc.address'"),
        (("127.0.0.1:5020", "127.0.0.1:70000"), "has no port from 1 to 65535"),
        (("127.0.0.1:5020", "10.0.0.5:502"), "the embedded line brings its own PLC"),
        (("hold_s = 12.0", "hold_s = 45"), "longest_s = 30 is less than hold_s = 45"),
        (("unit = 1", "unit = 999"), "key 'plc.unit'"),
        (("# tail_rate = 0.05", "tail_rate = 5"), "key 'cameras.0.tail_rate'"),
        (("[page]", '[mqtt]\naddress = "127.0.0.1:1883"\ntopic = "plant/#"\n[page]'), "key 'mqtt.topic'"),
        (("bundle =", "# bundle ="), "key 'bundle' is missing"),
        (("[[cameras]]", "[cameras"), "is not valid TOML"),
        (("[plc]", '[[cameras]]\nsource = "belt.mp4"\n[plc]'), "two cameras are called 'camera'"),
        (("[plc]", '[[cameras]]\nname = "b"\nsource = "line"\n[plc]'), "the embedded line has one camera"),
        (("[plc]", '[[cameras]]\nname = "b"\nsource = "b.mp4"\nreplay = true\n[plc]'), "one camera is replayed"),
        (('policy = "rule"', 'policy = "dream"'), "key 'act.policy'"),
        (('policy = "rule"', 'policy = "plan"\n[[cameras]]\nname = "b"\nsource = "b.mp4"'), "plan sees one camera"),
        (("[plc]", '[[cameras]]\nname = "../b"\nsource = "b.mp4"\n[plc]'), "key 'cameras.1.name'"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_key(
    tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    text = EXAMPLE.read_text()
    assert change[0] in text
    file = tmp_path / "settings.toml"
    file.write_text(text.replace(*change, 1))
    with pytest.raises(InputError) as error:
        read_settings(file)
    message = str(error.value)
    assert message.startswith(str(file))
    assert complaint in message
    assert "\n" not in message
