"""From a query's words to SQL: what the grammar doesn't know can't be said, so there is nothing to forbid.

    select [distinct] items from TABLE [where …] [group by …] [having …] [order by …] [limit n] [offset n]

One statement, one table, no subqueries. Nothing of a query's text is passed on: each construct is written anew, from names
and functions that stand in a table, numbers that are digits, and texts whose quotes are ours. A parser for all of SQL
would have to be followed by a list of what to refuse, and be trusted to read as Postgres does; this one need not.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torpor.engine.query_words import QueryRefused, Word, words

MAX_ROWS = 10_000
MAX_ITEMS = 50
MAX_EXPANDED = 50_000
"""Characters of SQL that names of results stand for, all together: else each could double the one before."""
MAX_DEPTH = 40
"""How deep expressions are nested: each level is a few calls of ours, and some of Postgres's stack."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that can be asked: its type as told, the SQL that it stands for, and what it means."""

    type: str
    sql: str
    description: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What is to be carried out on a relation with that name, which is put in front of it; and how the results are called."""

    table: str
    sql: str
    names: list[str]


def read(query: str, tables: Mapping[str, Mapping[str, Column]], bucket: str = "day") -> Statement:
    """The statement that this query stands for. `bucket`: the unit of `timeBucket()`.

    Raises:
        QueryRefused: it says something that can't be asked.
    """
    return _Parser(words(query), tables, bucket).statement()


_TYPES = {
    **dict.fromkeys(("text", "varchar", "string"), "text"),
    **dict.fromkeys(("int", "integer", "bigint"), "bigint"),
    **dict.fromkeys(("float", "double", "real", "numeric", "decimal"), "double precision"),
    **dict.fromkeys(("bool", "boolean"), "boolean"),
    **dict.fromkeys(("timestamp", "timestamptz", "datetime"), "timestamptz"),
    "date": "date",
}
_UNITS = ("second", "minute", "hour", "day", "week", "month", "year")
_FUNCTIONS: dict[str, tuple[int, int, str]] = {
    # name: least and most arguments, and what it becomes; {} are all of them, {0} the first
    "count": (1, 1, "count({})"),
    "countif": (1, 1, "count(*) filter (where {})"),
    "uniq": (1, 1, "count(distinct {})"),
    "sum": (1, 1, "sum({})"),
    "sumif": (2, 2, "sum({0}) filter (where {1})"),
    "avg": (1, 1, "avg({})"),
    "avgif": (2, 2, "avg({0}) filter (where {1})"),
    "min": (1, 1, "min({})"),
    "max": (1, 1, "max({})"),
    "median": (1, 1, "percentile_cont(0.5) within group (order by ({})::double precision)"),
    "coalesce": (1, 10, "coalesce({})"),
    "ifnull": (2, 2, "coalesce({})"),
    "nullif": (2, 2, "nullif({})"),
    "if": (3, 3, "case when {0} then {1} else {2} end"),
    "greatest": (1, 10, "greatest({})"),
    "least": (1, 10, "least({})"),
    "lower": (1, 1, "lower({})"),
    "upper": (1, 1, "upper({})"),
    "length": (1, 1, "length({})"),
    "abs": (1, 1, "abs({})"),
    "floor": (1, 1, "floor({})"),
    "ceil": (1, 1, "ceil({})"),
    "has": (2, 2, "({1} = any({0}))"),
    "now": (0, 0, "now()"),
    **{
        f"tostartof{unit}": (1, 1, f"date_trunc('{unit}', {{}})") for unit in ("minute", "hour", "day", "week", "month")
    },
}
FUNCTIONS = sorted([*_FUNCTIONS, "date_trunc", "quantile", "round", "timebucket"])
# fmt: off
_KEYWORDS = frozenset((
    "all", "and", "any", "array", "as", "asc", "between", "by", "case", "cast", "collate", "cross",
    "desc", "distinct", "else", "end", "except", "exists", "false", "fetch", "filter", "first",
    "for", "from", "full", "group", "having", "ilike", "in", "inner", "intersect", "interval",
    "into", "is", "join", "last", "lateral", "left", "like", "limit", "natural", "not", "null",
    "nulls", "offset", "on", "only", "or", "order", "outer", "over", "partition", "right", "row",
    "select", "some", "table", "then", "true", "union", "using", "values", "when", "where",
    "window", "with", "within",
))
"""No column or result is called so, unless in quotes."""
# fmt: on


class _Parser:
    def __init__(self, found: list[Word], tables: Mapping[str, Mapping[str, Column]], bucket: str) -> None:
        self._words = found
        self._at = 0
        self._tables = tables
        self._bucket = bucket
        self._depth = 0
        self._table = ""
        self._columns: Mapping[str, Column] = {}
        self._called: set[str] = set()  # what may stand before a column's dot
        self._expanded = 0
        self._aliases: dict[str, tuple[int, str]] = {}  # of an item: its number, and its SQL

    # -- words

    @property
    def _word(self) -> Word:
        return self._words[self._at]

    def _next(self) -> Word:
        word = self._word
        self._at += word.kind != "end"
        return word

    def _takes(self, *names: str) -> bool:
        """Go on if these are the next words."""
        ahead = self._words[self._at : self._at + len(names)]
        if [word.name for word in ahead] != list(names):
            return False
        self._at += len(names)
        return True

    def _needs(self, *names: str) -> None:
        if not self._takes(*names):
            raise QueryRefused(f"{' '.join(names).upper()} is expected, not {self._word.told()}")

    def _name(self, what: str) -> str:
        word = self._next()
        if word.kind == "quoted" or (word.kind == "name" and word.name not in _KEYWORDS):
            return word.text
        raise QueryRefused(f"{what} is expected, not {word.told()}")

    # -- the statement

    def statement(self) -> Statement:
        if not self._takes("select"):
            raise QueryRefused(f"a query is one SELECT, and this one begins with {self._word.told()}")
        start = self._at
        self._find_table()
        after_table = self._at
        self._at = start
        is_distinct = self._takes("distinct")
        names, items = self._items()
        self._needs("from")
        self._at = after_table
        parts = [f"select {'distinct ' if is_distinct else ''}{', '.join(items)} from {self._table}"]
        if self._takes("where"):
            parts.append(f"where {self._expression()}")
        if self._takes("group", "by"):
            parts.append(f"group by {', '.join(self._places())}")
        if self._takes("having"):
            parts.append(f"having {self._expression()}")
        if self._takes("order", "by"):
            parts.append(f"order by {', '.join(self._order())}")
        limit = min(self._count(), MAX_ROWS) if self._takes("limit") else MAX_ROWS
        parts.append(f"limit {limit}")
        if self._takes("offset"):
            parts.append(f"offset {self._count()}")
        self._takes(";")
        if self._word.kind != "end":
            raise QueryRefused(f"one SELECT from one table is all that can be asked; {self._word.told()} is too much")
        return Statement(self._table, " ".join(parts), names)

    def _find_table(self) -> None:
        """What is selected is read knowing from where: so that stands first. Behind it, in the text, what follows."""
        depth = 0
        while not (depth == 0 and self._word.name == "from"):
            depth += {"(": 1, ")": -1}.get(self._word.name, 0)
            if self._next().kind == "end":
                raise QueryRefused(f"FROM is missing, with a table: {', '.join(self._tables)}")
        self._next()
        word = self._word
        name = self._name("a table").lower()
        if self._takes(".") or name not in self._tables:
            raise QueryRefused(f"there is no table {word.told()}; there are: {', '.join(self._tables)}")
        self._table, self._columns = name, self._tables[name]
        self._called = {name}
        if self._takes("as") or (self._word.kind in ("name", "quoted") and self._word.name not in _KEYWORDS):
            self._called = {self._name("a name for the table").lower()}

    def _items(self) -> tuple[list[str], list[str]]:
        names: list[str] = []
        items: list[str] = []
        while True:
            if self._takes("*"):
                names += self._columns
                items += [f"{self._table}.{column}" for column in self._columns]
            else:
                first = self._word
                items.append(self._expression())
                name = first.text.lower() if first.kind in ("name", "quoted") else f"column_{len(items)}"
                if self._takes("as") or (self._word.kind in ("name", "quoted") and self._word.name not in _KEYWORDS):
                    name = self._name("a name for the result")
                    self._aliases[name.lower()] = (len(items), items[-1])
                names.append(name if name not in names else f"{name}_{len(items)}")
            if len(items) > MAX_ITEMS:
                raise QueryRefused(f"at most {MAX_ITEMS} results can be selected")
            if not self._takes(","):
                return names, items

    def _place(self) -> str:
        """An expression, or a result by its name or number."""
        word, behind = self._word, self._words[min(self._at + 1, len(self._words) - 1)]
        if word.kind in ("name", "quoted") and behind.name not in ("(", ".") and word.text.lower() in self._aliases:
            self._next()
            return str(self._aliases[word.text.lower()][0])
        return str(self._count()) if word.kind == "number" else self._expression()

    def _places(self) -> list[str]:
        found = [self._place()]
        while self._takes(","):
            found.append(self._place())
        return found

    def _order(self) -> list[str]:
        found: list[str] = []
        while True:
            part = self._place()
            part += " desc" if self._takes("desc") else " asc" if self._takes("asc") else ""
            if self._takes("nulls"):
                part += " nulls first" if self._takes("first") else " nulls last"
                if part.endswith("last"):
                    self._needs("last")
            found.append(part)
            if not self._takes(","):
                return found

    def _count(self) -> int:
        word = self._next()
        if word.kind != "number" or not word.text.isdecimal():
            raise QueryRefused(f"a whole number is expected, not {word.told()}")
        return min(int(word.text), 2**31)

    # -- expressions, from the loosest to the tightest

    def _expression(self) -> str:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise QueryRefused(f"expressions are nested more than {MAX_DEPTH} deep")
        try:
            return self._chain(lambda: self._chain(self._not, "and"), "or")
        finally:
            self._depth -= 1

    def _chain(self, part: Callable[[], str], *signs: str) -> str:
        found = part()
        while self._word.name in signs:
            sign = self._next().name
            found = f"({found} {sign} {part()})"
        return found

    def _not(self) -> str:
        count = 0
        while self._takes("not"):
            count += 1
        found = self._comparison()
        return f"(not {found})" if count % 2 else found

    def _comparison(self) -> str:
        left = self._sum()
        if self._word.name in ("=", "!=", "<>", "<", "<=", ">", ">="):
            return f"({left} {self._next().name} {self._sum()})"
        if self._takes("is"):
            negated = "not " if self._takes("not") else ""
            for word in ("null", "true", "false"):
                if self._takes(word):
                    return f"({left} is {negated}{word})"
            raise QueryRefused(f"NULL, TRUE or FALSE is expected after IS, not {self._word.told()}")
        negated = "not " if self._takes("not") else ""
        if self._takes("in"):
            self._needs("(")
            return f"({left} {negated}in ({', '.join(self._list())}))"
        if self._takes("between"):
            low = self._sum()
            self._needs("and")
            return f"({left} {negated}between {low} and {self._sum()})"
        for word in ("like", "ilike"):
            if self._takes(word):
                return f"({left} {negated}{word} {self._sum()})"
        if negated:
            raise QueryRefused(f"IN, BETWEEN, LIKE or ILIKE is expected after NOT, not {self._word.told()}")
        return left

    def _sum(self) -> str:
        return self._chain(lambda: self._chain(self._signed, "*", "/", "%"), "+", "-")

    def _signed(self) -> str:
        is_negative = False
        while self._word.name in ("-", "+"):
            is_negative ^= self._next().name == "-"
        found = self._single()
        casts = 0
        while self._takes("::"):
            found = f"({found})::{self._type()}"
            if (casts := casts + 1) > 3:
                raise QueryRefused("a value is cast at most three times")
        return f"(- {found})" if is_negative else found

    def _single(self) -> str:
        word = self._next()
        match word.kind, word.name:
            case "text", _:
                return _quoted(word.text)
            case "number", _:
                return word.text
            case _, ("true" | "false" | "null") as constant:
                return constant
            case _, "(":
                if self._word.name in ("select", "with", "values"):
                    raise QueryRefused(f"a query in a query can't be asked: {self._word.told()}")
                found = self._expression()
                self._needs(")")
                return f"({found})"
            case _, "case":
                return self._case()
            case _, "cast":
                self._needs("(")
                found = self._expression()
                self._needs("as")
                cast = f"({found})::{self._type()}"
                self._needs(")")
                return cast
            case _, "interval":
                return self._interval()
            case (("name" | "quoted"), name) if name not in _KEYWORDS:
                if word.kind == "name" and self._takes("("):
                    return self._call(word)
                return self._column(word)
            case _:
                raise QueryRefused(f"a value is expected, not {word.told()}")

    def _column(self, word: Word) -> str:
        name = word.text.lower()
        if self._takes("."):
            if name not in self._called:
                raise QueryRefused(f"there is no table {word.told()} in this query")
            word = self._next()
            name = word.text.lower() if word.kind in ("name", "quoted") else ""
        elif name in self._aliases and name not in self._columns:
            self._expanded += len(self._aliases[name][1])
            if self._expanded > MAX_EXPANDED:
                raise QueryRefused(f"names of results are used in expressions too often: {word.told()}")
            return f"({self._aliases[name][1]})"
        if name not in self._columns:
            raise QueryRefused(f"{self._table} has no column {word.told()}; it has: {', '.join(self._columns)}")
        return f"{self._table}.{name}"

    def _list(self) -> list[str]:
        """Up to the closing bracket, which is taken too."""
        if self._word.name in ("select", "with", "values"):
            raise QueryRefused(f"a query in a query can't be asked: {self._word.told()}")
        found = [self._expression()]
        while self._takes(","):
            found.append(self._expression())
        self._needs(")")
        return found

    def _call(self, word: Word) -> str:
        name = word.name
        match name:
            case "count" if self._takes("*", ")") or self._takes(")"):
                return "count(*)"
            case "count" if self._takes("distinct"):
                return f"count(distinct {self._only(word)})"
            case "date_trunc":
                unit = self._unit()
                self._needs(",")
                return f"date_trunc('{unit}', {self._only(word)})"
            case "timebucket":
                self._needs(")")
                return f"date_trunc('{self._bucket}', {self._table}.triggered_at)"
            case "quantile":
                level = self._next()
                if level.kind != "number" or float(level.text) > 1:
                    raise QueryRefused(f"a number from 0 to 1 is expected, not {level.told()}")
                self._needs(")")
                self._needs("(")
                within = f"order by ({self._only(word)})::double precision"
                return f"percentile_cont({level.text}) within group ({within})"
            case "round":
                value = self._expression()
                digits = min(self._count(), 10) if self._takes(",") else 0
                self._needs(")")
                return f"round(({value})::numeric, {digits})"
            case _ if name in _FUNCTIONS:
                least, most, sql = _FUNCTIONS[name]
                given = [] if self._takes(")") else self._list()
                if not least <= len(given) <= most:
                    raise QueryRefused(f"{word.told()} takes {least} to {most} arguments, not {len(given)}")
                return re.sub(r"\{(\d?)\}", lambda hole: given[int(hole[1])] if hole[1] else ", ".join(given), sql)
            case _:
                raise QueryRefused(f"there is no function {word.told()}; there are: {', '.join(FUNCTIONS)}")

    def _only(self, word: Word) -> str:
        """The one argument that is left."""
        given = self._list()
        if len(given) != 1:
            raise QueryRefused(f"{word.told()} takes one value here, not {len(given)}")
        return given[0]

    def _case(self) -> str:
        parts = ["case"]
        if self._word.name != "when":
            parts.append(self._expression())
        while self._takes("when"):
            condition = self._expression()
            self._needs("then")
            parts.append(f"when {condition} then {self._expression()}")
        if len(parts) == 1 or not parts[-1].startswith("when "):
            raise QueryRefused(f"WHEN is expected, not {self._word.told()}")
        if self._takes("else"):
            parts.append(f"else {self._expression()}")
        self._needs("end")
        return f"({' '.join(parts)} end)"

    def _type(self) -> str:
        word = self._next()
        if word.kind != "name" or word.name not in _TYPES:
            raise QueryRefused(f"there is no type {word.told()}; there are: {', '.join(sorted(_TYPES))}")
        return _TYPES[word.name]

    def _unit(self) -> str:
        word = self._next()
        unit = word.text.lower().removesuffix("s")
        if word.kind not in ("name", "text") or unit not in _UNITS:
            raise QueryRefused(f"a unit is expected ({', '.join(_UNITS)}), not {word.told()}")
        return unit

    def _interval(self) -> str:
        """`interval '2 days'` or `interval 2 day`."""
        if self._word.kind == "text":
            word = self._next()
            found = re.fullmatch(r"([0-9]{1,6}) ([a-z]+?)s?", word.text.lower())
            if not found or found[2] not in _UNITS:
                raise QueryRefused(f"an interval such as '2 days' is expected, not {word.told()}")
            return f"interval '{found[1]} {found[2]}'"
        return f"interval '{min(self._count(), 999_999)} {self._unit()}'"


def _quoted(text: str) -> str:
    """A literal of SQL: whatever the server's settings make of backslashes elsewhere, in `E''` they escape."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'" if "\\" not in text else "E'" + doubled.replace("\\", "\\\\") + "'"
