"""What the loop shows is seen whole or not at all, and costs it nothing."""

import os
import subprocess
import sys

import numpy as np

from runtime.board import COUNT, Board, Picture


def test_what_was_written_last_is_what_is_read():
    board = Board()
    assert board.read() is None
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    board.write({"score": 0.5}, [])
    board.write({"score": 1.5}, [Picture("camera", picture), Picture("map", picture[..., 0])])
    reader = Board(os.dup(board.descriptor))
    found = reader.read()
    assert found is not None
    count, told, pictures = found
    assert (count, told, [each.name for each in pictures]) == (4, {"score": 1.5}, ["camera", "map"])
    np.testing.assert_array_equal(pictures[0].pixels, picture)
    np.testing.assert_array_equal(pictures[1].pixels, picture[..., 0])
    reader.close(), board.close()


def test_a_writer_that_died_half_way_is_not_believed():
    board = Board()
    board.write({"score": 0.5}, [])
    COUNT.pack_into(board._memory, 0, 3)
    assert board.read() is None
    board.close()


WRITER = """
import sys
import numpy as np
from runtime.board import Board, Picture
board = Board(int(sys.argv[1]))
for number in range(10**9):
    board.write({"number": number}, [Picture("camera", np.full((64, 64, 3), number % 256, np.uint8))])
"""


def test_a_reader_never_sees_half_of_one_turn_and_half_of_another():
    board, seen = Board(), set()
    descriptor = board.descriptor
    with subprocess.Popen([sys.executable, "-c", WRITER, str(descriptor)], pass_fds=[descriptor]) as writer:
        while len(seen) < 500:
            found = board.read()
            if found is not None:
                _, told, ((_, pixels),) = found
                seen.add(told["number"])
                assert np.all(pixels == told["number"] % 256)
            assert writer.poll() is None
        writer.kill()
    board.close()
