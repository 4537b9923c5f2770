"""The block that a PLC programmer pastes, docs/flinch.st, does what the simulated PLC does, whatever is written."""

import operator
from functools import cache
from pathlib import Path
from typing import Any

import blark.transform as st
import pytest
from blark.parse import parse_source_code
from hypothesis import given, settings, strategies

from runtime.line.program import PlcState, scan
from runtime.registers import PackML, decode_command

BLOCK = Path(__file__).parents[1] / "docs" / "flinch.st"
INPUTS = ("Heartbeat", "Sequence", "Mode", "AlarmBit", "Score", "Request", "ValidFor_ms")
UNSET = {"LREAL": 0.0, "DINT": 0, "BOOL": False}
OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "/": operator.truediv,
    "MOD": operator.mod,
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "AND": operator.and_,
    "OR": operator.or_,
}
LITERALS = {st.Boolean: "TRUE".__eq__, st.Real: float, st.Integer: int}
FUNCTIONS = {"MIN": min, "MAX": max, "DINT_TO_LREAL": float}


@cache
def parsed() -> Any:
    (block,) = parse_source_code(BLOCK.read_text()).transform().items
    return block


class Block:
    """A function block of Structured Text: the variables keep their values from one call to the next."""

    def __init__(self) -> None:
        self._block = parsed()
        self.values: dict[str, Any] = {}
        for group in self._block.declarations:
            for declaration in group.items:
                init = declaration.init
                value = UNSET[str(init.spec.type)] if init.value is None else self._value(init.value)
                self.values |= {str(each.variable.name): value for each in declaration.variables}

    def call(self, **inputs: Any) -> dict[str, Any]:
        self.values |= inputs
        self._run(self._block.body)
        return self.values

    def _run(self, body: Any) -> None:
        for statement in body.statements:
            match statement:
                case st.AssignmentStatement(variables=[variable]):
                    assert str(variable.name) in self.values
                    self.values[str(variable.name)] = self._value(statement.expression)
                case st.IfStatement(else_ifs=[]):
                    if self._value(statement.if_expression):
                        self._run(statement.statements)
                    elif statement.else_clause is not None:
                        self._run(statement.else_clause.statements)

    def _value(self, node: Any) -> Any:
        match node:
            case st.BinaryOperation():
                return OPERATORS[str(node.op)](self._value(node.left), self._value(node.right))
            case st.UnaryOperation(op="NOT"):
                return not self._value(node.expr)
            case st.ParenthesizedExpression():
                return self._value(node.expr)
            case st.FunctionCall():
                return FUNCTIONS[str(node.name)](*(self._value(each.value) for each in node.parameters))
            case st.SimpleVariable():
                return self.values[str(node.name)]
            case _:
                return LITERALS[type(node)](str(node.value))


class Cards:
    """A line on which nothing happens."""

    infeed_eye, gate_eye, cartons_out = True, False, 0


STEPS = strategies.tuples(
    strategies.sampled_from([0, 1, 1, 1, 65535]),
    strategies.sampled_from([0, 1, 1, 1, 2, 32767, 32768, 65535]),
    strategies.sampled_from([0, 1, 2, 3, 3, 3, 3, 4]),
    strategies.sampled_from([0, 1, 1, 2]),
    strategies.sampled_from([0, 50, 100, 500, 999, 1000, 1001]),
    strategies.sampled_from([0, 40, 500, 500, 1000, 5000]),
)
SCANS = strategies.lists(
    strategies.tuples(STEPS, strategies.integers(1, 8), strategies.sampled_from([0.02, 0.02, 0.3])), max_size=30
)


def written(steps: list[tuple[Any, int, float]]) -> list[tuple[tuple[int, ...], int, float]]:
    """Registers as they stand: heartbeat and sequence go on by what each step says, as one writer's mostly do."""
    heartbeat, sequence, found = 0, 65530, []
    for (beats, further, mode, alarm, request, valid_for), times, dt in steps:
        heartbeat, sequence = (heartbeat + beats) % 65536, (sequence + further) % 65536
        found.append(((heartbeat, sequence, mode, alarm, 1500, request, valid_for), times, dt))
    return found


def alike(scans: list[tuple[tuple[int, ...], int, float]]) -> None:
    """Both see the same registers scan by scan and agree on what they take and how fast the feeder may run."""
    block, state = Block(), PlcState(operator_speed=0.8)
    for words, times, dt in scans:
        for _ in range(times):
            state = scan(state, Cards, decode_command(list(words)), dt)
            found = block.call(
                **dict(zip(INPUTS, words, strict=True)), Now_s=state.time, Executing=True, OperatorSpeed=0.8
            )
            assert found["SpeedLimit"] == pytest.approx(state.request)
            assert found["AcceptedSequence"] == (state.sequence or 0)
            assert found["InForce"] == (state.request < state.operator_speed)
    assert state.state is PackML.EXECUTE


@settings(deadline=None)
@given(SCANS)
def test_the_block_does_what_the_simulated_plc_does_whatever_is_written(steps):
    alike(written(steps))


def test_a_request_is_obeyed_by_both_once_the_link_has_stood_and_is_gone_when_it_expires():
    fresh = [((beat, beat, 3, 1, 1500, 100, 500), 5, 0.02) for beat in range(1, 8)]
    alike(fresh)
    block, limits = Block(), []
    for number, (words, times, _) in enumerate([*fresh, (fresh[-1][0], 40, 0.02)]):
        for turn in range(times):
            now = 0.02 * (5 * number + turn + 1)
            told = block.call(**dict(zip(INPUTS, words, strict=True)), Now_s=now, Executing=True, OperatorSpeed=1.0)
            limits.append(told["SpeedLimit"])
    assert limits == [1.0] * 10 + [0.1] * 45 + [1.0] * 20
