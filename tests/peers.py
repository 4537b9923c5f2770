"""Modbus TCP servers that nobody here wrote, each as a process of its own.

python tests/peers.py NAME PORT ADDRESS WORDS READONLY

It says on which port it listens, and for every line that it is sent, a JSON list of all that its registers hold.
"""

import ctypes
import ctypes.util
import json
import logging
import sys
from collections.abc import Callable
from os import dup
from socket import socket
from socketserver import ThreadingTCPServer
from threading import Thread
from time import sleep

from modbus_tk import defines, hooks, modbus_tcp
from modbus_tk.exceptions import ModbusError
from pyModbusTCP.constants import EXP_DATA_ADDRESS
from pyModbusTCP.server import DataBank, DataHandler, ModbusServer
from umodbus.server.tcp import RequestHandler, get_server

HOST = "127.0.0.1"
UNIT = 1
WRITE = 16  # the function that writes registers
Look = Callable[[], list[int]]
LIBMODBUS = ctypes.util.find_library("modbus")


class Mapping(ctypes.Structure):
    """libmodbus's modbus_mapping_t."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("bits", "start_bits", "inputs", "start_inputs")),
        *((name, ctypes.c_int) for name in ("input_registers", "start_input", "registers", "start_registers")),
        *((name, ctypes.POINTER(ctypes.c_uint8)) for name in ("tab_bits", "tab_inputs")),
        *((name, ctypes.POINTER(ctypes.c_uint16)) for name in ("tab_input_registers", "tab_registers")),
    )


class Holding(DataBank):
    """Registers at one place, and nowhere else."""

    def __init__(self, start: int, words: list[int]) -> None:
        super().__init__(coils_size=0, d_inputs_size=0, i_regs_size=0, h_regs_size=start + len(words))
        self.start = start
        self.set_holding_registers(start, words)

    def get_holding_registers(self, address: int, number: int = 1, srv_info: object = None) -> list[int] | None:
        return super().get_holding_registers(address, number, srv_info) if address >= self.start else None


class ReadOnly(DataHandler):
    def write_h_regs(self, address: int, words_l: list[int], srv_info: object) -> DataHandler.Return:
        return DataHandler.Return(exp_code=EXP_DATA_ADDRESS)


def py_modbus_tcp(port: int, start: int, words: list[int], *, read_only: bool) -> tuple[int, Look]:
    bank = Holding(start, words)
    handler = (ReadOnly if read_only else DataHandler)(bank)
    server = ModbusServer(HOST, port, no_block=True, data_hdl=handler)
    server.start()
    return server._service.server_address[1], lambda: bank.get_holding_registers(start, len(words)) or []


def modbus_tk(port: int, start: int, words: list[int], *, read_only: bool) -> tuple[int, Look]:
    def refuse(_: object) -> None:
        raise ModbusError(defines.ILLEGAL_DATA_ADDRESS)

    server = modbus_tcp.TcpServer(port, HOST)
    unit = server.add_slave(UNIT)
    unit.add_block("area", defines.HOLDING_REGISTERS, start, len(words))
    unit.set_values("area", start, words)
    if read_only:
        hooks.install_hook("modbus.Slave.handle_write_multiple_registers_request", refuse)
    server.start()
    while not server._sock or not server._sock.getsockname()[1]:
        sleep(0.01)
    return server._sock.getsockname()[1], lambda: list(unit.get_values("area", start, len(words)))


def u_modbus(port: int, start: int, words: list[int], *, read_only: bool) -> tuple[int, Look]:
    ThreadingTCPServer.allow_reuse_address = True
    server = get_server(ThreadingTCPServer, (HOST, port), RequestHandler)
    memory = dict(enumerate(words, start))

    @server.route(slave_ids=[UNIT], function_codes=[3], addresses=list(memory))
    def read(slave_id: int, function_code: int, address: int) -> int:
        return memory[address]

    @server.route(slave_ids=[UNIT], function_codes=[WRITE], addresses=[] if read_only else list(memory))
    def write(slave_id: int, function_code: int, address: int, value: int) -> None:
        memory[address] = value

    Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1], lambda: list(memory.values())


def libmodbus(port: int, start: int, words: list[int], *, read_only: bool) -> tuple[int, Look]:
    """The loop of its own example: one client at a time."""
    library = ctypes.CDLL(LIBMODBUS, use_errno=True)
    library.modbus_new_tcp.restype = ctypes.c_void_p
    library.modbus_mapping_new_start_address.restype = ctypes.POINTER(Mapping)
    context = ctypes.c_void_p(library.modbus_new_tcp(HOST.encode(), port))
    mapping = library.modbus_mapping_new_start_address(0, 0, 0, 0, start, len(words), 0, 0)
    table = mapping.contents.tab_registers
    for place, word in enumerate(words):
        table[place] = word
    listening = ctypes.c_int(library.modbus_tcp_listen(context, 1))
    if listening.value < 0:
        raise OSError(ctypes.get_errno())
    request = (ctypes.c_uint8 * 260)()

    def serve() -> None:
        while library.modbus_tcp_accept(context, ctypes.byref(listening)) >= 0:
            while (size := library.modbus_receive(context, request)) >= 0:
                if read_only and request[7] == WRITE:
                    library.modbus_reply_exception(context, request, defines.ILLEGAL_DATA_ADDRESS)
                else:
                    library.modbus_reply(context, request, size, mapping)
            library.modbus_close(context)

    Thread(target=serve, daemon=True).start()
    return socket(fileno=dup(listening.value)).getsockname()[1], lambda: list(table[: len(words)])


SERVERS = {"pyModbusTCP": py_modbus_tcp, "modbus_tk": modbus_tk, "uModbus": u_modbus, "libmodbus": libmodbus}

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    name, port, start, words, read_only = sys.argv[1:]
    bound, look = SERVERS[name](int(port), int(start), json.loads(words), read_only=json.loads(read_only))
    print(bound, flush=True)
    for _ in sys.stdin:
        print(json.dumps(look()), flush=True)
