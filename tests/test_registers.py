"""The register map: what goes in comes out, and nothing else can be said."""

from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.line.rack import REGISTERS
from runtime.registers import Command, Mode, RegisterMap, Status, Tag, decode_command, encode_command, read_map
from wm.errors import InputError

words = st.integers(0, 0xFFFF)
MAP = read_map(REGISTERS)

commands = st.builds(
    Command,
    heartbeat=words,
    mode=st.sampled_from(Mode),
    alarm=st.booleans(),
    score=st.floats(0, 60),
    speed_request=st.floats(0, 1),
    valid_for_ms=words,
    sequence=words,
)


@given(commands)
def test_a_command_comes_back_to_the_nearest_thousandth(command: Command) -> None:
    again = decode_command(encode_command(command))
    assert again is not None
    assert again.score == pytest.approx(command.score, abs=0.0005 + 1e-9)
    assert again.speed_request == pytest.approx(command.speed_request, abs=0.0005 + 1e-9)
    assert again._replace(score=command.score, speed_request=command.speed_request) == command


@given(commands, st.floats(), st.floats(), st.integers(-(10**6), 10**6))
def test_whatever_the_numbers_every_word_fits_its_register(
    command: Command, score: float, request: float, valid_for_ms: int
) -> None:
    block = encode_command(command._replace(score=score, speed_request=request, valid_for_ms=valid_for_ms))
    assert all(0 <= word <= 0xFFFF for word in block)
    assert block[5] <= 1000
    assert decode_command(block) is not None


def test_a_request_that_is_not_a_number_asks_for_nothing() -> None:
    block = encode_command(Command(1, Mode.ACT, True, inf, nan, 500))
    assert block[4] == 0xFFFF
    assert block[5] == 1000


@given(st.lists(words, min_size=7, max_size=7))
def test_any_seven_words_are_a_command_or_are_refused(block: list[int]) -> None:
    command = decode_command(block)
    assert (command is None) == (block[2] > 3 or block[3] > 1 or block[5] > 1000)
    if command is not None:
        assert encode_command(command) == block


@given(st.lists(words, min_size=4 + len(MAP.tags), max_size=4 + len(MAP.tags)))
def test_every_status_survives_the_way_to_flinch_and_back(block: list[int]) -> None:
    status = MAP.decode_status(block)
    assert MAP.decode_status(MAP.encode_status(status)) == status


def test_tags_outside_their_range_saturate() -> None:
    tags = Tag(name="low", scale=0.1), Tag(name="high", scale=0.1)
    registers = RegisterMap(address=0, tags=tags)
    status = registers.decode_status(registers.encode_status(Status(0, 6, 0, False, (-1.0, 1e9))))
    assert status.tags == (0.0, pytest.approx(6553.5))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("address = 0\nfoo = 1\ntags = []", "unknown key 'foo'"),
        ("tags = []", "key 'address' is missing"),
        ("address = 65530\ntags = []", "leaves no room for 11 registers"),
        ("address = -1\ntags = []", "key 'address'"),
        ('address = 0\ntags = [{name = "a", scale = 1}, {name = "a", scale = 1}]', "tag 'a' is listed twice"),
        ('address = 0\ntags = [{name = "a", scale = 0}]', "key 'tags.0.scale'"),
        ('address = 0\ntags = [{name = "A b", scale = 1}]', "key 'tags.0.name'"),
        ("address = 0\ntags = [" + ",".join(f'{{name = "t{i}", scale = 1}}' for i in range(115)) + "]", "do not fit"),
        ("address = ", "is not valid TOML"),
    ],
)
def test_a_bad_map_is_refused_in_one_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "registers.toml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        read_map(file)
    message = str(error.value)
    assert message.startswith(str(file))
    assert complaint in message
    assert "\n" not in message


def test_a_missing_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml: cannot be read"):
        read_map(tmp_path / "nowhere.toml")
