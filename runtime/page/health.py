"""What machines ask of the runtime: whether it is well, and its figures for Prometheus."""

from collections.abc import Iterator
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.alarms import JOURNAL, PLC
from runtime.lifecycle import ACTIVE

FRESH_S = 1.0
Facts = dict[str, Any]


def ailing(facts: Facts | None) -> str | None:
    """Why the runtime is not well by its latest turn, None where it is."""
    if facts is None:
        return "the runtime has not turned yet"
    age = monotonic() - facts["at"]  # one clock for all processes, and nobody sets it
    if age > FRESH_S:
        return f"the runtime has not turned for {age:.1f} s"
    if facts["camera"] != "fresh":
        return str(facts["camera"])
    standing = {alarm["name"] for alarm in facts["alarms"] if alarm["life"] in {life.value for life in ACTIVE}}
    return next((f"{name} is at fault" for name in (PLC, JOURNAL) if name in standing), None)


class Figures(Collector):
    """The latest turn as metrics."""

    def __init__(self, facts: Facts | None) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        facts = self._facts
        yield GaugeMetricFamily("flinch_well", "1 while camera, PLC and journal are in order.", int(not ailing(facts)))
        if facts is None:
            return
        yield CounterMetricFamily("flinch_turns", "Turns of the loop.", facts["turns"])
        yield CounterMetricFamily("flinch_frames_dropped", "Frames that nobody looked at.", facts["dropped"])
        yield GaugeMetricFamily("flinch_alarm", "1 while a jam is ahead.", int(facts["alarm"]))
        yield GaugeMetricFamily("flinch_speed_request", "Of full speed; 1 asks for nothing.", facts["request"])
        latency = "From the camera's frame until the PLC had its command."
        gauges = {
            "score": ("flinch_score", "1 is the threshold."),
            "drift": ("flinch_drift", "1 is the threshold."),
            "latency_s": ("flinch_camera_to_register_seconds", latency),
        }
        yield from (GaugeMetricFamily(*gauges[name], facts[name]) for name in gauges if facts[name] is not None)
        standing = GaugeMetricFamily("flinch_alarm_standing", "1 for every alarm in the list.", labels=["name"])
        for alarm in facts["alarms"]:
            standing.add_metric([alarm["name"]], 1)
        yield standing


def metrics(facts: Facts | None) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(facts))
    return generate_latest(registry)
