"""The weather report, told as it happens: frozen, its services killed, brought back, approved, published.

Called by bin/demo. Every figure is read from the system (/proc) or from Torpor's API while it happens.
"""

import argparse
import contextlib
import os
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evidence import Process, find_processes, in_namespace
from own_stack import Stack, StackFailed
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from torpor.cli.connection import check_reachable
from torpor.cli.story import times, times_line
from torpor.errors import TorporError
from torpor.figures import duration, milliseconds, size
from torpor.sdk.client import Client

Json = dict[str, Any]

PATIENCE_S = 120.0
ENDED = ("COMPLETED", "FAILED", "CANCELED", "CRASHED", "TIMED_OUT", "EXPIRED", "SYSTEM_FAILURE")

console = Console(highlight=False, soft_wrap=True)
began = time.monotonic()


class DemoFailed(Exception):
    """Something that the demo promises did not hold."""


def say(text: str, style: str = "") -> None:
    """One line of the tale, with the seconds since its beginning."""
    console.print(
        Text()
        .append(f"{time.monotonic() - began:6.1f} s  ", style="dim")
        .append_text(Text.from_markup(text, style=style))
    )


def title(text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def check(held: bool, what: str) -> None:
    """Tell that something held, or end the demo."""
    if not held:
        raise DemoFailed(what)
    say(f"[green]✓[/] {what}")


# -- watching a run ---------------------------------------------------------------------------------------------------


class Watched:
    """A run as the API tells it and as /proc shows it."""

    def __init__(self, api: Client, run_id: str, stack: Stack) -> None:
        self.id = run_id
        self._api = api
        self._stack = stack
        self._seen = 0  # the last event that was waited for
        self.process: Process | None = None  # the newest look at its process
        self._end = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    @property
    def page(self) -> str:
        """Where the dashboard shows it."""
        return f"{self._stack.state['url']}/runs/{self.id}"

    def __enter__(self) -> "Watched":
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._looking.join()

    def _look(self) -> None:
        """Keep the newest look at the process alive. The last one before a freeze is what the freeze gives back."""
        while not self._end.wait(0.02):
            found = [process for process in find_processes(self.id) if not process.is_stopped]
            if found:
                self.process = max(found, key=lambda process: process.rss)

    def processes(self) -> list[Process]:
        """All that this machine runs of it now: by its title, and by the pid namespace it had."""
        known = in_namespace(self.process.pid_namespace) if self.process and self.has_own_namespace() else []
        return find_processes(self.id) + known

    def has_own_namespace(self) -> bool:
        worker = self._stack.pid("worker")
        supervisors = {os.stat("/proc/self/ns/pid").st_ino}
        with contextlib.suppress(OSError):
            supervisors |= {os.stat(f"/proc/{worker}/ns/{kind}").st_ino for kind in ("pid", "pid_for_children")}
        return self.process is not None and self.process.pid_namespace not in supervisors

    def story(self) -> list[Json]:
        return list(self._api.story(self.id))

    def whole(self) -> Json:
        return self._api.run(self.id)

    def until(self, *kinds: str) -> Json:
        """Wait for the next event of these kinds.

        Raises:
            DemoFailed: the run ended without it, or it takes too long.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self._stack.check()
            with contextlib.suppress(TorporError):
                check_reachable(self._stack.target())
                ended = self.whole()["status"] in ENDED
                for event in self.story():
                    if event["id"] > self._seen and event["kind"] in kinds:
                        self._seen = event["id"]
                        return event
                if ended:
                    raise DemoFailed(f"the run ended without {' or '.join(kinds)}: {_told_end(self.whole())}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"no {' or '.join(kinds)} within {PATIENCE_S:.0f} s")
            time.sleep(0.05)


def _told_end(run: Json) -> str:
    error = run.get("error") or {}
    return f"{run['status']} {error.get('name', '')} {error.get('message', '')}\n{error.get('stackTrace', '')}".strip()


# -- the tale ---------------------------------------------------------------------------------------------------------


def tell(stack: Stack, seconds: float, csv: str | None, reports: Path) -> bool:
    """The whole tale; returns whether this machine could freeze."""
    title("Torpor starts: a database, a server, a worker")
    stack.wait_until_up()
    pids = stack.state["pids"]
    say(f"{stack.state['url']}  dev {pids['dev']}  server {pids['server']}  worker {pids['worker']}")
    with Client(stack.state["url"], stack.state["secret_key"]) as api:
        worker = wait_for_tasks(api, stack)
        can_freeze = bool(worker["canFreeze"])
        facts = worker["facts"]
        if can_freeze:
            say(f"this machine can freeze: CRIU {facts.get('criu')}, Linux {facts.get('kernel')}")
        else:
            say(f"[yellow]runs will be held in memory here: {facts.get('no_freeze_reason')}[/]")

        show_dashboard(api)
        title("An ordinary Python function begins")
        payload = {"reports": str(reports), "sleep_s": seconds, **({"csv": csv} if csv else {})}
        run_id = api.trigger("weather_report", payload)["id"]
        say(f"run {run_id}")
        with Watched(api, run_id, stack) as run:
            started = run.until("run.started")
            say(f"user code runs {milliseconds(started['data'].get('start_ms'))} after a worker took it")
            run.until("run.waiting")
            say(f"it reached its first wait: [bold]await wait.for_(seconds={seconds:g})[/]")
            wait_for_output(api, run_id)
            tell_logs(api, run_id)
            if can_freeze:
                sleep_frozen(run, api, stack, seconds)
            else:
                sleep_held(run, stack)
            finish(run, api, can_freeze)
            tell_end(run)
            leave_open(run, api, can_freeze)
    return can_freeze


# -- the browser, for whoever wants to look there as well ----------------------------------------------------------------


def link(api: Client, page: str) -> str:
    """Opens a page of the dashboard in a browser that isn't signed in yet."""
    return f"{api.create_sign_in_link()['url']}?next={page}"


def show_dashboard(api: Client) -> None:
    """Before the run begins, so that none of it is missed. Nobody is waited for where nobody is at a terminal."""
    title("All of this can be watched in a browser")
    say(f"[bold]{link(api, '/')}[/]")
    say(
        "[dim]the link signs one browser in; the run will show up in the list, and its page draws what happens to it[/]"
    )
    if sys.stdin.isatty():
        console.input("          open it, then press Enter to begin (or just press Enter) ")


def leave_open(run: Watched, api: Client, can_freeze: bool) -> None:
    """At a terminal everything stays up until somebody has seen enough."""
    if not sys.stdin.isatty():
        return
    title("Torpor is still up: look around")
    say(f"the run's page: [bold]{link(api, f'/runs/{run.id}')}[/]")
    if can_freeze:
        say("[bold]Fork…[/] there goes on from a frozen process in another run: have it [bold]rejected[/] this time")
    say(
        "[bold]Tasks[/], [bold]Test[/]: run weather_report with reports = here, see why it fails, and [bold]Replay…[/] it"
    )
    say("[bold]Queues[/], [bold]Pause[/]: what is triggered stands in line until you resume")
    console.input("          Enter stops everything ")


def wait_for_tasks(api: Client, stack: Stack) -> Json:
    """Wait until a live worker serves the task; returns the worker."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        stack.check()
        with contextlib.suppress(TorporError):
            workers = [worker for worker in api.workers() if worker["isAlive"]]
            if workers and any(task["id"] == "weather_report" for task in api.tasks()):
                return max(workers, key=lambda worker: str(worker["startedAt"]))
        if time.monotonic() > deadline:
            raise DemoFailed(f"no worker serves the task; torpor dev said:\n{stack.tail()}")
        time.sleep(0.05)


def wait_for_output(api: Client, run_id: str) -> None:
    """What a run logs travels in batches: the first one is a moment behind the story."""
    deadline = time.monotonic() + 5
    while not first_line(api, run_id) and time.monotonic() < deadline:
        time.sleep(0.05)


def tell_logs(api: Client, run_id: str, seen: int = 0) -> int:
    """Tell what the run has logged since `seen`; returns the newest line's id."""
    for line in api.logs(run_id):
        if line["id"] > seen:
            seen = line["id"]
            say(f"[dim]│[/] {escape(str(line['message']))}")
    return seen


def sleep_frozen(run: Watched, api: Client, stack: Stack, seconds: float) -> None:
    """It leaves memory; its server and worker are killed; it comes back."""
    frozen = run.until("run.suspended")
    tell_freeze(run, frozen["data"])

    title("Server and worker are killed with SIGKILL while it sleeps")
    instances = {worker["startedAt"] for worker in api.workers()}
    killed = stack.kill("server", "worker")
    say("kill -9 " + " ".join(f"{pid} ({name})" for name, pid in killed.items()) + ": both are gone")
    wait_for_new(api, stack, killed, instances)
    still = run.whole()["status"] == "WAITING"
    say("both are up again: " + "  ".join(f"{name} {stack.pid(name)}" for name in killed))
    say("the run still sleeps" if still else "they took longer than its sleep; it wakes late, and loses nothing")

    title("Its time has come")
    resumed = run.until("run.resumed")
    tell_restore(run, resumed["data"])
    slept = duration((_at(resumed) - _at(frozen)).total_seconds())
    say(f"it asked for {seconds:g} s, was frozen for {slept} and is back on the next line")


def tell_freeze(run: Watched, data: Json) -> None:
    before = run.process
    if before is None:
        raise DemoFailed("the run's process was never seen in /proc")
    own = "pid 1 of its own namespace" if run.has_own_namespace() else "without a namespace of its own"
    say(f"its process was pid {before.pid} ({own}), {before.threads} threads, {size(before.rss)} resident")
    say(
        f"its share of that is {size(before.pss)}: what it has in common with the process it was forked from counts by part"
    )
    say(f"[bold blue]frozen[/]: {told_image(data)}")
    for place in data.get("waiting_at") or []:
        say(
            f"[dim]it stands at {Path(str(place.get('file'))).name}:{place.get('line')}  {place.get('source') or ''}[/]"
        )
    wait_until_gone(run)
    check(run.processes() == [], "no process of it is left: not by its title, not in its pid namespace")
    for line in ps_lines(run.id):
        say(f"[dim]$ {line}[/]")


def told_image(data: Json) -> str:
    dumped, durable = milliseconds(data.get("dump_ms")), milliseconds(data.get("durable_ms"))
    return f"{size(data.get('size_bytes'))} on disk, dumped in {dumped}, durable {durable} after the wait"


def tell_restore(run: Watched, data: Json) -> None:
    say(
        f"[bold green]restored[/] in {milliseconds(data.get('restore_ms'))}; "
        f"user code goes on {milliseconds(data.get('since_due_ms'))} after its time"
    )
    found = find_processes(run.id)
    if found:
        say(f"its process is now pid {found[0].pid}, {size(found[0].rss)} resident")


def wait_until_gone(run: Watched) -> None:
    """The engine has accepted the image; the worker kills the process within milliseconds of hearing so."""
    deadline = time.monotonic() + 10
    while run.processes() and time.monotonic() < deadline:
        time.sleep(0.01)


def ps_lines(run_id: str) -> Iterator[str]:
    """What `ps` says about the run, if there is a `ps`."""
    if shutil.which("ps") is None:
        return
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    count = sum(run_id in line for line in listing.splitlines())
    yield f"ps -eo pid,args | grep -c {run_id}"
    yield str(count)


def wait_for_new(api: Client, stack: Stack, killed: dict[str, int], instances: set[Any]) -> None:
    """Wait until other processes have taken the services' places and the new worker has said hello."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        stack.check()
        fresh = all(stack.pid(name) not in (None, pid) for name, pid in killed.items())
        with contextlib.suppress(TorporError):
            check_reachable(stack.target())  # the client would try for seconds, and we want to know when it is back
            if fresh and {worker["startedAt"] for worker in api.workers() if worker["isAlive"]} - instances:
                return
        time.sleep(0.05)
    raise DemoFailed(f"server and worker did not come back; torpor dev said:\n{stack.tail()}")


def sleep_held(run: Watched, stack: Stack) -> None:
    """Without CRIU: the process stays, so only the server may be killed; the worker keeps the run meanwhile."""
    title("The server is killed with SIGKILL while it waits")
    killed = stack.kill("server")
    while stack.pid("server") in (None, killed["server"]):
        stack.check()
        time.sleep(0.05)
    say(f"kill -9 {killed['server']} (server); it is up again: {stack.pid('server')}")
    check(bool(run.processes()), "the run is still in memory, as this machine can't freeze")


def finish(run: Watched, api: Client, can_freeze: bool) -> None:
    """The child, the approval, the end."""
    title("It asks for approval")
    token = wait_for_approval(run, api)
    tell_logs(api, run.id, seen=first_line(api, run.id))
    for child in run.whole()["relatedRuns"].get("children", []):
        done = api.run(child["id"])
        say(
            f"its child run {child['taskIdentifier']} {child['id']}: {done['status']} {escape(str(done.get('output')))}"
        )
    say(f"[bold]{escape(str(token['title']))}[/]  {escape(str(token.get('context') or ''))}")
    if can_freeze:
        frozen = run.until("run.suspended")
        while token["id"] not in open_tokens(run, api) or _later_freeze(run, frozen):
            frozen = run.until("run.suspended")
        wait_until_gone(run)
        check(run.processes() == [], f"it waits for a person, frozen again: {told_image(frozen['data'])}; no process")
    if sys.stdin.isatty():
        approved = decide(api, run, token["id"])
    else:
        approved = True
        api.approve(token["id"], by="the demo", comment="nobody is at a terminal")
        say("approved through the API, as nobody is at a terminal")
    if can_freeze:
        tell_restore(run, run.until("run.resumed")["data"])
    if not approved:
        say("rejected: it will end without a report")
    run.until("run.completed")


def decide(api: Client, run: Watched, token_id: str) -> bool:
    """A person's word: here, or on the run's page. The first one counts."""
    say(f"[dim]or answer in the browser: {run.page}[/]")
    console.print("          approve? \\[Y/n] ", end="")
    while (answer := api.approval(token_id))["status"] == "WAITING":
        if select.select([sys.stdin], [], [], 0.2)[0]:
            approved = sys.stdin.readline().strip().lower() in ("", "y", "yes")
            api.approve(token_id, approved, by=os.environ.get("USER") or "someone at the terminal")
            return api.approval(token_id)["status"] == "APPROVED"
    console.print()
    say(f"{answer['status'].lower()} in the browser, by {escape(str(answer.get('by')))}")
    return answer["status"] == "APPROVED"


def _later_freeze(run: Watched, frozen: Json) -> bool:
    """Whether the run was frozen again after this one (it may have been while its child ran)."""
    return any(event["kind"] == "run.suspended" and event["id"] > frozen["id"] for event in run.story())


def first_line(api: Client, run_id: str) -> int:
    """The id of the first line: it has been told."""
    for line in api.logs(run_id):
        return int(line["id"])
    return 0


def open_tokens(run: Watched, api: Client) -> dict[str, Json]:
    return {token["id"]: token for token in api.tokens(status="WAITING") if run.id in (token.get("runIds") or [])}


def wait_for_approval(run: Watched, api: Client) -> Json:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(TorporError):
            for token in open_tokens(run, api).values():
                return token
            status = run.whole()["status"]
            if status in ENDED:
                raise DemoFailed(f"the run ended before it asked: {_told_end(run.whole())}")
        time.sleep(0.05)
    raise DemoFailed(f"no approval was asked for within {PATIENCE_S:.0f} s")


def tell_end(run: Watched) -> None:
    """What came of it, and where its time went."""
    title("What came of it")
    whole = run.whole()
    output = whole["output"]
    say(f"attempts: {whole.get('attemptCount')}")
    check(output["digest_before"] == output["digest_after"], f"table and model are the same: {output['digest_after']}")
    for what, survived in output["survived"].items():
        check(survived, f"survived: {what}")
    if output["published"]:
        path = Path(output["path"])
        check(path.is_file() and "<svg" in path.read_text(encoding="utf-8"), f"the report is there: [bold]{path}[/]")
    console.print(Text("          ").append_text(times_line(times(run.story(), datetime.now(UTC)))))


def _at(event: Json) -> datetime:
    return datetime.fromisoformat(str(event["at"]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the run sleeps (default: 15)")
    parser.add_argument("--csv", type=Path, help="a CSV with dates and numbers, instead of Seattle's weather")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where the report goes (./reports)")
    options = parser.parse_args()
    if options.csv and not options.csv.is_file():
        parser.error(f"there is no {options.csv}")
    csv, reports = options.csv.resolve() if options.csv else None, options.reports.resolve()
    ours = reports / ".gitignore"  # in whatever checkout this was called in
    if not reports.exists():
        reports.mkdir(parents=True)
        ours.write_text("*\n")
    if ours.exists():
        reports.chmod(0o777)  # a run is a user of its own
    elif not reports.stat().st_mode & stat.S_IWOTH:
        parser.error(f"runs are users of their own and can't write to {reports}: chmod o+w {shlex.quote(str(reports))}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended politely, it stops what it started
    try:
        with Stack(readable=csv, writable=reports) as stack:
            can_freeze = tell(stack, options.seconds, str(csv) if csv else None, reports)
            title("Torpor stops")
            stack.stop()
            check(stack.left_over() == [], "no process of it is left")
    except (DemoFailed, StackFailed, TorporError) as error:
        console.print(Text(f"\nthe demo failed: {error}", style="bold red"))
        return 1
    except KeyboardInterrupt:
        console.print("\n[dim]stopped[/]")
        return 130
    if not can_freeze:
        console.print(
            "\n[yellow]All of it held, except that nothing was frozen: `torpor doctor` says what is missing.[/]"
        )
        return 1 if os.environ.get("CI") else 0
    console.print(f"\n[bold green]All of it held.[/]  [dim]{duration(time.monotonic() - began)} in all[/]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
