"""Cursors that lead both ways."""

import pytest
from starlette.datastructures import QueryParams

from torpor.engine.pages import Listing, Page
from torpor.server.errors import Refused
from torpor.server.paging import page_reply, read_page


def cursors() -> dict[str, str]:
    rows = [{"id": "run_3"}, {"id": "run_2"}]
    return page_reply(rows, Listing(rows, next="run_2", previous="run_3"))["pagination"]


def test_of_two_cursors_the_one_issued_later_is_meant() -> None:
    """The official client keeps the one it came by when it turns round."""
    earlier, later = cursors(), cursors()
    back = QueryParams({"page[after]": earlier["next"], "page[before]": later["previous"]})
    assert read_page(back) == Page(25, before="run_3")
    on = QueryParams({"page[after]": later["next"], "page[before]": earlier["previous"]})
    assert read_page(on) == Page(25, after="run_2")


def test_a_bare_id_is_a_cursor_too_and_then_before_wins() -> None:
    assert read_page(QueryParams({"page[after]": "run_1", "page[size]": "7"})) == Page(7, after="run_1")
    assert read_page(QueryParams({"page[after]": "run_1", "page[before]": "run_2"})) == Page(25, before="run_2")


def test_a_page_without_neighbours_has_no_cursors() -> None:
    assert page_reply([], Listing([], None, None)) == {"data": [], "pagination": {}}


@pytest.mark.parametrize(
    "query", [{"page[size]": "0"}, {"page[size]": "101"}, {"page[size]": "²"}, {"page[after]": "x.y"}]
)
def test_what_is_no_page_is_400(query: dict[str, str]) -> None:
    with pytest.raises(Refused) as caught:
        read_page(QueryParams(query))
    assert caught.value.status == 400
