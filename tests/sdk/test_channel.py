"""The connection to the supervisor, where a signal handler of user code raises in the middle of its use."""

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from torpor.sdk.channel import Channel
from torpor.wire.framing import Unframer
from torpor.wire.runner import NotSaved, from_runner

MESSAGES = 3000


class Rung(Exception):
    pass


@pytest.fixture
def alarm() -> Iterator[list[str]]:
    """Rings all the time, and raises when it is armed: then there is something in the list."""
    armed: list[str] = []

    def ring(*_: object) -> None:
        if armed:
            armed.clear()
            raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    yield armed
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_what_a_signal_handler_interrupts_is_sent_whole_and_once(tmp_path: Path, alarm: list[str]) -> None:
    """It is thrown out of `send`, before the message has left, in the middle, or after it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "ctl.sock"))
        listener.listen()
        channel = Channel(str(tmp_path / "ctl.sock"))
        heard: list[str] = []

        def listen() -> None:
            unframer = Unframer()
            supervisor, _ = listener.accept()
            with supervisor:
                while data := supervisor.recv(1 << 16):
                    for body in unframer.feed(data):
                        message = from_runner.decode(body)
                        assert isinstance(message, NotSaved)
                        heard.append(message.name)

        listening = threading.Thread(target=listen)
        listening.start()
        rung = 0
        for number in range(MESSAGES):
            try:
                alarm.append("now")
                channel.send(NotSaved(str(number), ["x" * 2000]))
                alarm.clear()
            except Rung:
                rung += 1
        channel.send(NotSaved("last", []))
        assert not channel.unsent
        channel.close()
        listening.join()
    assert rung > 10
    numbers = [int(name) for name in heard[:-1]]
    assert heard[-1] == "last"
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= MESSAGES - rung
