"""The state of a watched job, and its display."""

import time

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app.base.terminal import one_line
from app.client import text
from app.client.api import Json

SPARKLINE_WIDTH = 40
FINAL_STATUSES = {"succeeded", "failed", "cancelled"}


class Watched:
    def __init__(self, job: Json) -> None:
        self.job = job
        self.losses: dict[int, float] = {}
        self.valid_loss: float | None = None
        self.latest: Json = {}  # Metrics of the newest step.
        self._heard_at = time.monotonic()  # Time of their arrival.
        self.heard = ""
        self.trouble = ""

    def take(self, event: Json) -> None:
        data = event.get("data") or {}
        if event["type"] != "metrics":
            self.heard = one_line(event["message"])
            return
        if data.get("valid_loss") is not None:
            self.valid_loss = data["valid_loss"]
        if data.get("train_loss") is None:
            return
        step = data["step"]
        # Another attempt goes on from an earlier checkpoint.
        if step <= self.latest.get("step", 0):
            self.losses = {earlier: loss for earlier, loss in self.losses.items() if earlier < step}
        self.losses[step] = data["train_loss"]
        self.latest = data
        self._heard_at = time.monotonic()

    @property
    def percent(self) -> float:
        total = self.latest.get("total_steps")
        return 100 * float(self.latest["step"]) / total if total else 0.0

    def numbers(self) -> str:
        """The newest step in one line."""
        latest = self.latest
        parts = []
        if not latest:
            return ""
        parts.append(f"loss {latest['train_loss']:.4f}")
        if self.valid_loss is not None:
            parts.append(f"valid loss {self.valid_loss:.4f}")
        if latest.get("tokens_per_second") is not None:
            parts.append(f"{latest['tokens_per_second']:,.0f} tok/s")
        parts += [part for part in (self._eta(), self._cost()) if part]
        return "  ".join(parts)

    def render(self) -> RenderableType:
        state = text.state(text.status(self.job))
        head = Text.assemble(
            (one_line(self.job.get("suffix") or self.job["model"]), "bold"), f"  {self.job['id']}  "
        )
        head.append(one_line(state.short), state.style)
        if self.job.get("paused_reason"):
            head.append(f" ({one_line(self.job['paused_reason'])})")
        lines: list[RenderableType] = [head]
        if self.latest:
            lines += [self._bar(), self._curve(), Text(self.numbers())]
        lines += [Text(one_line(line), "yellow") for line in text.health(self.job)]
        lines.append(Text(self.heard, "dim", no_wrap=True, overflow="ellipsis"))
        if self.trouble or self.job["status"] not in FINAL_STATUSES:
            lines.append(
                Text(
                    self.trouble or "Ctrl-C leaves the job running.",
                    "yellow" if self.trouble else "dim",
                )
            )
        return Group(*lines)

    def _bar(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        steps = f"{self.percent:3.0f}%  step {self.latest['step']:,}/{self.latest['total_steps']:,}"
        grid.add_row(
            ProgressBar(total=100, completed=self.percent, width=SPARKLINE_WIDTH), Text(steps)
        )
        return grid

    def _curve(self) -> RenderableType:
        losses = list(self.losses.values())
        curve = text.sparkline(losses, SPARKLINE_WIDTH)
        return Text(f"{curve:<{SPARKLINE_WIDTH}} {losses[0]:.3f} to {losses[-1]:.3f}")

    def _eta(self) -> str:
        eta = self.latest.get("eta_seconds")
        if eta is None:
            return ""
        if self.latest["step"] == self.latest["total_steps"]:
            return self._eta_of_export(eta)
        progress = self.job.get("progress") or {}
        low, high = (
            self.latest.get(name, progress.get(name))
            for name in ("eta_low_seconds", "eta_high_seconds")
        )
        if low is None or high is None or not low <= eta <= high or low == high:
            return f"ETA {text.duration(eta)}"
        return f"ETA {text.duration(eta)} ({text.duration(low)} to {text.duration(high)})"

    def _eta_of_export(self, eta: float) -> str:
        """Say what is left behind the last step, of which nothing tells how far it is."""
        left = eta - (time.monotonic() - self._heard_at)
        return f"merging, ETA {text.duration(left)}" if left > 0 else "merging"

    def _cost(self) -> str:
        accrued = self.latest.get("cost_accrued")
        projected = self.latest.get("cost_projected")
        if accrued is None:
            return ""
        rate = (self.job.get("cost") or {}).get("usd_per_device_hour")
        return text.cost_of(accrued, projected, rate)
