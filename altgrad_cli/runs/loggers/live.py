"""A run as it goes: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence

from rich.console import Console, Group
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from altgrad_cli.notation import MISSING, decimals, short_layer
from altgrad_cli.runs.loggers.listener import grouped
from altgrad_cli.training.events import (
    Alert,
    CheckpointSaved,
    Evaluated,
    Event,
    InterventionApplied,
    Number,
    RunEnded,
    RunStarted,
    StepCompleted,
)

ECHO = "^C"
"""What the terminal itself writes behind a live panel: in a panel of full width it would begin a line that
nobody takes away again."""
_LINE_SECONDS = 10.0
"""At least this long between two lines about the progress where there is no terminal."""
_SPARKS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 48
_WORST = 3
_WATCHED: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("bit-stall", ("bit_stall_rate",), True),
    ("overflow", ("overflow_rate/weights", "overflow_rate/activations", "overflow_rate/gradients"), True),
    ("underflow", ("underflow_rate/weights", "underflow_rate/activations", "underflow_rate/gradients"), True),
    ("cosine", ("gradient_cosine",), False),
)
"""Heading, metrics of which a layer's worst counts, and whether a high value is the bad one."""


class LiveView:
    """Shows one run. Quiet, it shows nothing; the log has everything in any case.

    ``max_steps`` is None where nobody knows when the run will end.
    """

    def __init__(self, console: Console, max_steps: int | None, *, quiet: bool = False) -> None:
        self._console, self._max_steps, self._quiet = console, max_steps, quiet
        self._layers: Sequence[str] = ()
        self._step: StepCompleted | None = None
        self._validation: Number = None
        self._losses: deque[float] = deque(maxlen=16 * _SPARK_WIDTH)
        self._alerts: list[Alert] = []
        self._first: tuple[int, float] | None = None
        self._next_line = 0.0
        self._live: Live | None = None
        if console.is_terminal and not quiet:
            self._live = Live(
                console=console, get_renderable=self._render, refresh_per_second=4, transient=True
            )
            self._live.start()

    def receive(self, event: Event) -> None:
        """Take in one event."""
        if not isinstance(event, Alert):
            self._tell_alerts()
        match event:
            case RunStarted():
                self._started(event)
            case StepCompleted():
                self._completed(event)
            case Evaluated():
                self._validation = event.validation_loss
                scores = (
                    f", {name.replace('_', ' ')} {decimals(value, 3)}" for name, value in event.scores.items()
                )
                loss = decimals(event.validation_loss, 4)
                self.say(f"step {event.step}: validation loss {loss}{''.join(scores)}")
            case Alert():
                self._alerts.append(event)
            case InterventionApplied() if event.name != "rescale":
                details = ", ".join(f"{key} {_word(value)}" for key, value in event.details.items())
                self.say(f"step {event.step}: {event.name.replace('_', ' ')}: {details}", "cyan")
            case CheckpointSaved() if event.problem is not None:
                self.say(f"step {event.step}: checkpoint not written: {event.problem}", "yellow")
            case CheckpointSaved() if event.reason not in ("regular", "best"):
                self.say(f"step {event.step}: {event.reason}: {event.path}", "cyan")
            case RunEnded():
                self.say(f"step {event.step}: {event.outcome}: {event.reason}")

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._tell_alerts()
        if self._live is not None:
            self._live.stop()

    def say(self, message: str, style: str = "") -> None:
        """One line above the live panel, unless the view is quiet."""
        if not self._quiet:
            # On a terminal a line is broken between words; elsewhere it stays one line.
            self._console.print(Text(message, style), soft_wrap=not self._console.is_terminal)

    def warn(self, message: str) -> None:
        """A warning of a lower room, which even a quiet run prints: something was left out or not kept."""
        self._console.print(Text(f"warning: {message}", "yellow"), soft_wrap=True)

    def _started(self, event: RunStarted) -> None:
        self._layers = event.layers
        where = f" after step {event.step}" if event.resumed_from else ""
        self.say(f"{event.parameters:,} parameters, {len(event.layers)} linear layers, start{where}")
        if event.injections:
            self.say(f"with injected faults: {', '.join(event.injections)}", "yellow")

    def _completed(self, event: StepCompleted) -> None:
        self._step = event
        now = time.monotonic()
        if self._first is None:
            self._first = (event.step, now)
        loss = event.metrics.get("loss")
        self._losses.append(math.nan if loss is None else float(loss))
        if not event.committed:
            self.say(f"step {event.step}: not finite, the update was dropped", "red")
        if self._live is None and now >= self._next_line:
            self._next_line = now + _LINE_SECONDS
            self.say(self._progress_line(event))

    def _progress_line(self, event: StepCompleted) -> str:
        parts = [self._place(event.step), f"loss {decimals(event.metrics.get('loss'), 4)}"]
        speed = event.metrics.get("tokens_per_second")
        if speed is not None:
            parts.append(f"{speed:,.0f} tokens/s")
        stall = event.metrics.get("bit_stall_rate")
        if stall is not None:
            parts.append(f"stall {decimals(stall, 3)}")
        left = self._seconds_left()
        if left is not None:
            parts.append(f"{_duration(left)} left")
        return ", ".join(parts)

    def _place(self, step: int) -> str:
        return f"step {step}" if self._max_steps is None else f"step {step}/{self._max_steps}"

    def _seconds_left(self) -> float | None:
        if self._first is None or self._step is None or self._step.step <= self._first[0]:
            return None
        if self._max_steps is None:
            return None
        taken = self._step.step - self._first[0]
        return (time.monotonic() - self._first[1]) / taken * (self._max_steps - self._step.step)

    def _tell_alerts(self) -> None:
        """Say the alerts of one step, those of several layers in one line."""
        alerts, self._alerts = self._alerts, []
        for (name, metric, state), group in grouped(alerts).items():
            layers = [alert.layer for alert in group if alert.layer is not None]
            values = [float(alert.value) for alert in group if alert.value is not None]
            worst = f" up to {max(values):.3g}" if values and state == "raised" else ""
            where = f" in {layers[0]}" if len(layers) == 1 else f" in {len(layers)} layers" if layers else ""
            style = "yellow" if state == "raised" else "green"
            what = f"{name} ({metric})" if metric != name else name
            self.say(f"step {group[0].step}: alert {state}: {what}{worst}{where}", style)

    def _render(self) -> Constrain:
        return Constrain(self._panel(), self._console.width - len(ECHO))

    def _panel(self) -> Group:
        if self._step is None:
            return Group(Text("building the network, reading the corpus", "dim"))
        step, width = self._step, self._console.width
        left = self._seconds_left()
        head = Table.grid(padding=(0, 2, 0, 0))
        head.add_row(
            ProgressBar(total=self._max_steps, completed=step.step, width=max(4, min(32, width - 52))),
            self._place(step.step),
            f"{_duration(left)} left" if left is not None else "",
            f"{step.metrics.get('tokens_per_second') or 0:,.0f} tokens/s",
            step.format,
        )
        losses = Text(f"loss {decimals(step.metrics.get('loss'), 4)}  val {decimals(self._validation, 4)}  ")
        if "utf" in (self._console.encoding or ""):
            losses.append(sparkline(self._losses, max(8, min(_SPARK_WIDTH, width - 32))), "cyan")
        return Group(head, losses, self._worst_layers(step))

    def _worst_layers(self, step: StepCompleted) -> Table:
        count = max(1, min(_WORST, (self._console.width - 18) // 24))
        table = Table.grid(padding=(0, 2, 0, 0))
        for heading, metrics, high_is_bad in _WATCHED:
            rows = [step.layers[metric] for metric in metrics if metric in step.layers]
            worst = worst_layers(rows, self._layers, high_is_bad=high_is_bad, count=count)
            if worst:
                cells = (f"{short_layer(name)} {value:.3g}" for name, value in worst)
                table.add_row(Text(f"worst {heading}", "dim"), *cells)
        return table


def worst_layers(
    rows: Iterable[Sequence[Number]], names: Sequence[str], *, high_is_bad: bool, count: int = _WORST
) -> list[tuple[str, float]]:
    """The ``count`` worst layers and their worst value over ``rows``; NaN is worse than anything."""
    worst: dict[str, float] = {}
    sign = 1.0 if high_is_bad else -1.0
    for row in rows:
        for name, value in zip(names, row, strict=False):
            if value is not None:
                number = float(value)
                if name not in worst or _badness(number, sign) > _badness(worst[name], sign):
                    worst[name] = number
    return sorted(worst.items(), key=lambda item: -_badness(item[1], sign))[:count]


def _badness(value: float, sign: float) -> float:
    return math.inf if math.isnan(value) else sign * value


def sparkline(values: Iterable[float], width: int) -> str:
    """The values as ``width`` bars at most, each the mean of its share; ``!`` where one is not finite."""
    series = list(values)
    size = max(1, math.ceil(len(series) / width))
    columns = [series[start : start + size] for start in range(0, len(series), size)]
    means = [sum(column) / len(column) for column in columns]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return "!" * len(means)
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    top = len(_SPARKS) - 1
    return "".join(_SPARKS[round((m - low) / span * top)] if math.isfinite(m) else "!" for m in means)


def _word(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else MISSING if value is None else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
