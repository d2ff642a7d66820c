"""Log lines of a run, and of nobody."""

import logging

import msgspec
import pytest
from fake_supervisor import Supervisor

from torpor import logger, task


def records(output: str) -> list[dict[str, object]]:
    return [msgspec.json.decode(line[1:]) for line in output.split("\n") if line.startswith("\x1e")]


def test_lines_of_a_run_are_records_with_fields(supervisor: Supervisor) -> None:
    @task
    def talk() -> None:
        print("printed")
        logger.info("sent %d", 3, campaign="spring", odd=object, big=1 << 70)
        logging.getLogger("lib").warning("from %s", "lib", extra={"k": 1})
        logging.getLogger("lib").debug("not told")
        try:
            raise ValueError("inner")
        except ValueError:
            logger.exception("failed")

    supervisor.start(talk)
    assert supervisor.finished().ok
    output = supervisor.output()
    assert output.startswith("printed\n\x1e")
    sent, lib, failed = records(output)
    assert (sent["level"], sent["message"]) == ("info", "sent 3")
    assert sent["attributes"] == {"campaign": "spring", "odd": "<class 'object'>", "big": 1 << 70}
    assert (lib["level"], lib["message"]) == ("warning", "from lib")
    assert lib["attributes"] == {"logger": "lib", "k": 1}
    assert failed["level"] == "error"
    assert "ValueError: inner" in str(failed["message"])


def test_outside_of_a_run_lines_are_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    logger.warning("slow %s", "reply", seconds=4.2)
    logger.info("wrong %d", "placeholder")
    assert capsys.readouterr().err == "WARNING slow reply seconds=4.2\nINFO    wrong %d ('placeholder',)\n"
