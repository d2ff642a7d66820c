"""Payloads from the command line."""

from pathlib import Path
from typing import Any

import pytest
import typer

from torpor.cli.payload import parse_payload


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ([], None),
        (['{"a": [1]}'], {"a": [1]}),
        (["3"], 3),
        (['"Ada"'], "Ada"),
        (["name=Ada", "n=3", "on=true", "of=null"], {"name": "Ada", "n": 3, "on": True, "of": None}),
        (["query=a=b"], {"query": "a=b"}),
        (['user={"id": "u1"}'], {"user": {"id": "u1"}}),
        (['"a=b"'], "a=b"),
    ],
)
def test_words_mean_json_or_pairs(written: list[str], meant: Any) -> None:
    assert parse_payload(written) == meant


def test_a_bare_word_is_refused_with_the_way_to_write_it() -> None:
    with pytest.raises(typer.BadParameter, match="A text is written '\"Ada\"'"):
        parse_payload(["Ada"])


def test_a_file_holds_json(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"a": 1}')
    assert parse_payload([], tmp_path / "p.json") == {"a": 1}
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(typer.BadParameter, match="is not JSON"):
        parse_payload([], tmp_path / "p.json")
    with pytest.raises(typer.BadParameter, match="can't read"):
        parse_payload([], tmp_path / "missing.json")
    with pytest.raises(typer.BadParameter, match="not both"):
        parse_payload(["n=1"], tmp_path / "p.json")
