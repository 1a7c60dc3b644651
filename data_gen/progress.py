"""How far a build is, on stderr: a bar with time left in a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """Counts subjects; time left is judged by the cost of the work, since shards differ widely."""

    def __init__(self, *, name: str, n_subjects: int, cost: float, show: bool):
        self._name, self._n_subjects, self._cost = name, n_subjects, cost
        self._accepted = self._rejected = 0
        self._spent = 0.0
        self._running: dict[int, float] = {}
        self._began = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._lines = show and not console.is_terminal
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} subjects"),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not (show and console.is_terminal),
        )
        self._task = self._bar.add_task(name, total=n_subjects, counts="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._lines:
            self._line()

    def advance(self, *, accepted: int, rejected: int, cost: float) -> None:
        """Some subjects more are done."""
        self._accepted += accepted
        self._rejected += rejected
        self._spent += cost
        self._bar.update(self._task, completed=self._accepted + self._rejected, counts=self.counts())
        self.tick()

    def working(self, job: int, cost: float) -> None:
        """So much of the cost of a running job is spent."""
        self._running[job] = cost
        self.tick()

    def tick(self) -> None:
        """Nothing is done, but time has passed."""
        self._bar.update(self._task, counts=self.counts())
        if self._lines and time.monotonic() - self._last_line >= LINE_EVERY:
            self._line()

    def counts(self) -> str:
        """What is done, and the time left as far as it is known."""
        text = f"{self._accepted} accepted, {self._rejected} rejected"
        spent = self._spent + sum(self._running.values())
        if 0 < spent < self._cost:
            passed = time.monotonic() - self._began
            left = int(passed * (self._cost - spent) / spent)
            text += f", {left // 60}:{left % 60:02d} left"
        return text

    def _line(self) -> None:
        self._last_line = time.monotonic()
        done = self._accepted + self._rejected
        sys.stderr.write(f"{self._name}: {done}/{self._n_subjects} subjects, {self.counts()}\n")
        sys.stderr.flush()
