"""The grammar of queries lets nothing through that isn't in it, and writes everything anew."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torpor.engine.query import RUNS, TABLES
from torpor.engine.query_grammar import FUNCTIONS, MAX_ROWS, read
from torpor.engine.query_words import MAX_CHARS, QueryRefused

ALLOWED = {
    *(*RUNS, *FUNCTIONS, "runs", "e"),
    *(
        "select",
        "distinct",
        "from",
        "where",
        "group",
        "by",
        "having",
        "order",
        "limit",
        "offset",
        "asc",
        "desc",
        "nulls",
    ),
    *(
        "first",
        "last",
        "as",
        "and",
        "or",
        "not",
        "in",
        "between",
        "like",
        "ilike",
        "is",
        "null",
        "true",
        "false",
        "case",
    ),
    *("when", "then", "else", "end", "interval", "filter", "within", "any", "percentile_cont", "now"),
    *("text", "bigint", "double", "precision", "boolean", "timestamptz", "date", "numeric"),
}
"""The words that SQL of ours may consist of."""


def is_harmless(sql: str) -> bool:
    """Whether it is made of our own words. Its texts are read as Postgres reads them, by another rule than ours."""
    bare = re.sub(r"(?<![\w'])[eE]'(?:\\.|''|[^'\\])*'|(?<!\w)'(?:''|[^'\\])*'", " ", sql, flags=re.DOTALL)
    names = re.findall(r"[A-Za-z_]\w*", bare)
    rest = re.sub(r"[A-Za-z_]\w*|\d+(?:\.\d+)?|::|[\s().,*/%+<>=!-]", "", bare)
    signs_ok = not any(sign in bare for sign in ("--", "/*", "*/", ";"))
    return rest == "" and signs_ok and {name.lower() for name in names} <= ALLOWED


GOOD = {
    "SELECT count(*) AS n FROM runs WHERE task_identifier = 'stream'": "select count(*) from runs where"
    " (runs.task_identifier = 'stream') limit 10000",
    "select status, count() n from runs r where r.queue like 'a%' group by status order by n desc nulls last limit 3":
    "select runs.status, count(*) from runs where (runs.queue like 'a%') group by runs.status"
    " order by 2 desc nulls last limit 3",
    "select timeBucket() as t, quantile(0.95)(total_duration) from runs group by t order by t;":
    "select date_trunc('day', runs.triggered_at), percentile_cont(0.95) within group"
    " (order by (runs.total_duration)::double precision) from runs group by 1 order by 1 limit 10000",
    "select case when is_test = 1 then 'a' else 'b' end, -depth::text from runs limit 1000000000000 offset 5":
    "select (case when (runs.is_test = 1) then 'a' else 'b' end), (- (runs.depth)::text) from runs limit 10000 offset 5",
    "select countIf(status in ('Failed', 'Crashed')) / count() as share from runs having share > 0.5":
    "select (count(*) filter (where (runs.status in ('Failed', 'Crashed'))) / count(*)) from runs"
    " having (((count(*) filter (where (runs.status in ('Failed', 'Crashed'))) / count(*))) > 0.5) limit 10000",
    "select distinct task_identifier -- which\n from runs /* of ours */ where triggered_at > now() - interval 2 days":
    "select distinct runs.task_identifier from runs where (runs.triggered_at > (now() - interval '2 day')) limit 10000",
    "select toStartOfHour(triggered_at) from runs": "select date_trunc('hour', runs.triggered_at) from runs limit 10000",
    "select has(tags, 'a''b\\'), if(depth = 0, 1, 2), round(max_duration, 2), cast(depth as text) from runs":
    "select (E'a''b\\\\' = any(runs.tags)), case when (runs.depth = 0) then 1 else 2 end,"
    " round((runs.max_duration)::numeric, 2), (runs.depth)::text from runs limit 10000",
}  # fmt: skip


@pytest.mark.parametrize("query", GOOD)
def test_what_can_be_said_is_written_anew(query: str) -> None:
    statement = read(query, TABLES)
    assert statement.sql == GOOD[query]
    assert is_harmless(statement.sql)


REFUSED = {
    # other statements, more than one, and none
    "": "begins with the end of the query",
    "delete from runs": "begins with delete",
    "explain select 1 from runs": "begins with explain",
    "select 1 from runs; select 2 from runs": "one SELECT from one table is all that can be asked",
    "select 1 from runs;;": "one SELECT",
    "select 1": "FROM is missing",
    "table runs": "begins with table",
    "(select 1 from runs)": "begins with (",
    "select 1 into x from runs": "FROM is expected, not into",
    "select 1 from runs for update": "one SELECT",
    # other tables, and further ones
    "select 1 from pg_shadow": "no table pg_shadow",
    "select 1 from api_keys": "no table api_keys",
    "select 1 from public.runs": "no table public",
    'select 1 from "runs; drop table runs"': "no table runs; drop table runs",
    "select 1 from runs, environments": "one SELECT",
    "select 1 from runs join environments on true": "one SELECT",
    "select 1 from runs r, lateral (select 1) x": "one SELECT",
    "select 1 from runs union select key_hash from api_keys": "one SELECT",
    "select 1 from runs as r(a, b)": "one SELECT",
    "select 1 from (select 1) x": "a table is expected",
    "select 1 from generate_series(1, 1000000000)": "no table generate_series",
    "select 1 from only runs": "a table is expected, not only",
    # queries in queries
    "with a as (select 1) select 1 from runs": "begins with with",
    "select (select key_hash from api_keys) from runs": "a query in a query",
    "select 1 from runs where run_id in (select id from api_keys)": "a query in a query",
    "select 1 from runs where exists (select 1)": "a value is expected, not exists",
    "select array(select 1) from runs": "a value is expected, not array",
    "select 1 from runs where depth = any(tags)": "a value is expected, not any",
    "select ((((with x as (select 1) select 1)))) from runs": "a query in a query",
    # functions and columns
    "select pg_sleep(10) from runs": "no function pg_sleep",
    "select pg_read_file('/etc/passwd') from runs": "no function pg_read_file",
    "select set_config('a.b', 'c', true) from runs": "no function set_config",
    "select current_setting('is_superuser') from runs": "no function current_setting",
    "select lo_import('/etc/passwd') from runs": "no function lo_import",
    "select dblink('', '') from runs": "no function dblink",
    "select query_to_xml('select 1', true, true, '') from runs": "no function query_to_xml",
    "select repeat('a', 1000000000) from runs": "no function repeat",
    "select generate_series(1, 1000000000) from runs": "no function generate_series",
    "select string_agg(queue, '') from runs": "no function string_agg",
    "select pg_catalog.count(1) from runs": "no table pg_catalog",
    'select "count"(1) from runs': "runs has no column count",
    "select runs.count(1) from runs": "runs has no column count",
    "select count(1, 2) from runs": "takes 1 to 1 arguments",
    "select environment_id from runs": "no column environment_id",
    "select payload from runs": "no column payload",
    "select ctid from runs": "no column ctid",
    "select xmin, tableoid from runs": "no column xmin",
    "select current_user from runs": "no column current_user",
    "select runs from runs": "no column runs",
    "select r.* from runs r": "no column * (",
    "select pg_class.relname from runs": "no table pg_class",
    "select (runs).environment_id from runs": "no column runs",
    "select count(*) over () from runs": "FROM is expected, not over",
    "select count(*) filter (where true) from runs": "FROM is expected, not filter",
    # casts and operators
    "select 'api_keys'::regclass from runs": "no type regclass",
    "select cast('a' as oid) from runs": "no type oid",
    "select 1::text::text::text::text from runs": "at most three times",
    "select 'a'::pg_catalog.text from runs": "no type pg_catalog",
    "select 'a'::\"text\" from runs": "no type text",
    "select 'a'::text[] from runs": "'[] from runs'",
    "select 'a' || 'b' from runs": "|| 'b'",
    "select 2 ^ 10000 from runs": "'^ ",
    "select queue ~ '(a+)+$' from runs": "~ '(a+)",
    "select queue collate \"C\" from runs": "FROM is expected, not collate",
    "select tags[1] from runs": "'[1]",
    # texts and signs
    "select $$a$$ from runs": "'$$a$$",
    "select $1 from runs": "'$1",
    "select E'\\'' from runs": "is not understood",
    "select U&'\\0041' from runs": "\"&'",
    "select b'1' from runs": "no column b",
    "select 'a' 'b' from runs": "FROM is expected, not the text 'b'",
    "select 'a from runs": "is not understood",
    "select 'a''  from runs": "is not understood",
    "select \"a from runs": "is not understood",
    "select 1 /* from runs": "a value is expected, not *",
    "select 'a\0' from runs": "is not understood",
    "select 1\u00a0from runs": "is not understood",
    "select 1 from runs where queue = \u2019a\u2019": "is not understood",
    "select 1 from r\u0443ns": "is not understood",
    "select 1e5 from runs": "is not understood",
    "select 0x1f from runs": "is not understood",
    "select 1 from runs\\; select 1": "is not understood",
    "select :x from runs": "is not understood",
    # bombs
    "select " + "(" * 100 + "1" + ")" * 100 + " from runs": "nested more than 40 deep",
    "select " + "case when true then " * 50 + "1" + " end" * 50 + " from runs": "nested more than 40 deep",
    "select " + "1," * 60 + "1 from runs": "at most 50 results",
    "select *,*,* from runs": "at most 50 results",
    "select " + "9" * 16 + " from runs": "is not understood",
    "select '" + "a" * MAX_CHARS + "' from runs": "at most 5000 characters",
    "select depth+depth as a, "
    + ", ".join(f"{x}+{x}+{x}+{x} as {y}" for x, y in zip("abcdefghij", "bcdefghijk", strict=True))
    + " from runs": "names of results are used in expressions too often",
    # half said
    "select from runs": "a value is expected, not from",
    "select 1, from runs": "a value is expected, not from",
    "select 1 from runs where": "a value is expected, not the end",
    "select 1 from runs group status": "one SELECT",
    "select 1 from runs limit -1": "a whole number is expected, not -",
    "select 1 from runs limit (select 1)": "a whole number is expected, not (",
    "select 1 from runs limit all": "a whole number is expected, not all",
    "select interval '1 day; drop' from runs": "an interval such as",
    "select interval '1 fortnight' from runs": "an interval such as",
    "select date_trunc('day''', triggered_at) from runs": "a unit is expected",
    "select date_trunc(queue, triggered_at) from runs": "a unit is expected",
    "select quantile(queue)(depth) from runs": "a number from 0 to 1",
    "select quantile(1.5)(depth) from runs": "a number from 0 to 1",
    "select case 1 else 2 end from runs": "WHEN is expected",
    "select 1 from runs where queue not = 'a'": "is expected after NOT",
    "select 1 from runs where queue is 'a'": "is expected after IS",
}  # fmt: skip


def test_what_cannot_be_said_is_refused_by_its_name() -> None:
    wrong: list[str] = []
    for query, named in REFUSED.items():
        try:
            sql = read(query, TABLES).sql
        except QueryRefused as refused:
            if named not in str(refused):
                wrong.append(f"{query[:60]!r}: {refused}")
        else:
            wrong.append(f"{query[:60]!r} became {sql}")
    assert not wrong, "\n".join(wrong)


FRAGMENTS = st.sampled_from(
    [
        *(
            "select",
            "from",
            "where",
            "group",
            "by",
            "having",
            "order",
            "limit",
            "offset",
            "runs",
            "r",
            "as",
            "distinct",
        ),
        *("status", "depth", "tags", "queue", "count", "sum", "min", "quantile", "round", "has", "if", "timeBucket"),
        *("date_trunc", "pg_sleep", "pg_class", "api_keys", "ctid", "environment_id", "payload", "regclass", "text"),
        *("and", "or", "not", "in", "between", "like", "is", "null", "true", "case", "when", "then", "else", "end"),
        *("cast", "interval", "asc", "desc", "nulls", "first", "last", "union", "with", "lateral", "exists"),
        *(
            "'a'",
            "'it''s'",
            "'\\'",
            "'\\''",
            "''" + "'",
            "'2 days'",
            "'day'",
            '"',
            '"status"',
            '"x y"',
            "E'\\''",
            "U&'a'",
        ),
        *("$", "$1", "$$", "--", "/*", "*/", "\n", "::", "(", ")", "(", ")", ",", ",", ".", "*", ";", "=", "<", "+"),
        *("-", "/", "%", "1", "0.5", "1.5.2"),
    ]
)
QUERIES = st.one_of(
    st.lists(FRAGMENTS, max_size=30).map(lambda parts: "select " + " ".join(parts) + " from runs"),
    st.lists(FRAGMENTS, max_size=30).map(lambda parts: "select 1 from runs where " + "".join(parts)),
    st.tuples(st.text(max_size=20), st.sampled_from(["'", '"', "''", "\\", "\\'"])).map(
        lambda parts: f"select queue from runs where queue = '{parts[0]}{parts[1]}' or 'a' = 'b'"
    ),
    st.text(max_size=60),
)


@given(QUERIES)
@example("select 'a\\'' or 1=1 --' from runs")
@settings(max_examples=800, deadline=None)
def test_whatever_is_sent_is_refused_or_becomes_words_of_ours(query: str) -> None:
    try:
        sql = read(query, TABLES).sql
    except QueryRefused:
        return
    assert is_harmless(sql), sql
    assert re.search(r" limit (\d+)(?: offset \d+)?$", sql), sql
    assert int(re.findall(r" limit (\d+)", sql)[-1]) <= MAX_ROWS


@given(st.text(max_size=30).filter(lambda text: "\0" not in text))
@settings(max_examples=300, deadline=None)
def test_a_text_is_one_text(text: str) -> None:
    sql = read("select '" + text.replace("'", "''") + "' from runs", TABLES).sql
    assert is_harmless(sql)
    assert re.sub(r"E?'.*'", "?", sql, flags=re.DOTALL) == "select ? from runs limit 10000"
