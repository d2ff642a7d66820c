"""Libraries that report: logs with bound fields, a reporter in the background, live displays on a terminal."""

import asyncio
import io
import json
import sys
from typing import Any

from freezing import freeze, program


@program
async def structlog_loggers() -> None:
    import structlog

    written = io.StringIO()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(written),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(order=7)
    log: Any = structlog.get_logger().bind(part="x")
    for n in range(3):
        log.info("line", n=n)
        if n < 2:
            await freeze()
    assert [json.loads(line) for line in written.getvalue().splitlines()] == [
        {"part": "x", "n": n, "event": "line", "order": 7} for n in range(3)
    ]


@program
async def sentry_in_the_background() -> None:
    """Its worker thread goes on sending what is put in its queue."""
    import sentry_sdk
    from sentry_sdk.transport import Transport

    sent: list[str] = []

    class Kept(Transport):
        def __init__(self, options: Any = None) -> None:
            from sentry_sdk.worker import BackgroundWorker

            super().__init__(options)
            self.worker = BackgroundWorker()

        def capture_envelope(self, envelope: Any) -> None:
            event = envelope.get_event()
            if event is not None:
                self.worker.submit(lambda: sent.append(event["message"]))

    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=Kept, default_integrations=False)
    transport: Any = sentry_sdk.get_client().transport
    sentry_sdk.set_tag("kept", "yes")
    for n in range(2):
        sentry_sdk.capture_message(f"message {n}")
        await freeze()
        transport.worker.flush(60)
        assert sent == [f"message {m}" for m in range(n + 1)]
        assert sentry_sdk.get_isolation_scope()._tags == {"kept": "yes"}


@program
async def tqdm_progress() -> None:
    from tqdm import tqdm

    drawn = io.StringIO()
    with tqdm(total=3, file=drawn, mininterval=0, maxinterval=0.2, desc="work") as bar:
        for n in range(3):
            bar.update()
            if n < 2:
                await freeze()
            assert bar.n == n + 1
    assert "3/3" in drawn.getvalue()
    assert drawn.getvalue().count("work") >= 3


@program
async def rich_live_display() -> None:
    """It is drawn four times a second by a thread, before and after."""
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress
    from rich.text import Text

    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=60)
    with Live("start", console=console, refresh_per_second=20) as live:
        for n in range(2):
            live.update(Text(f"state {n}"))
            await freeze()
            before = len(drawn.getvalue())
            while f"state {n}" not in drawn.getvalue()[before:]:
                await asyncio.sleep(0.01)
    with Progress(console=console) as progress:
        whole = progress.add_task("whole", total=2)
        for _ in range(2):
            progress.advance(whole)
            await freeze()
        assert progress.finished
    print("displays are done", file=sys.stderr)
