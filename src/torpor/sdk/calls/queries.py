"""Questions about runs, in words like SQL's."""

from datetime import datetime, timedelta

from torpor.sdk.calls.call import Call, Json, get, post, present, when
from torpor.sdk.calls.doors import asked


class Queries:
    @asked
    def query(
        self,
        text: str,
        *,
        period: str | float | timedelta | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Call[list[Json]]:
        """Ask the runs of the environment in words like SQL's: `SELECT status, count() AS n FROM runs GROUP BY status`.

        Args:
            text: one SELECT from `runs`, at most 10,000 rows.
            period: of runs that were triggered so long ago at most; without one of these three: seven days.
            since: of runs that were triggered from then on.
            until: and before that.

        Raises:
            ApiError: it can't be asked so; the message says what isn't allowed.
        """
        body = {"query": text, "period": when(period), "from": when(since), "to": when(until)}
        return post("/api/v1/query", present(body)).part("results")

    @asked
    def query_tables(self) -> Call[list[Json]]:
        """What a query can be asked of: tables with their columns, the types and what they mean."""
        return get("/api/v1/query/schema").part("tables")
