"""Who may ask: keys, tokens and accounts."""

from datetime import datetime, timedelta

from torpor.sdk.calls.call import Call, Json, duration, get, post, present, segment, when
from torpor.sdk.calls.doors import asked


class Keys:
    @asked
    def whoami(self) -> Call[Json]:
        """What this client asks with: `{"kind", "person", "environment", "key"}`; `person` only of a personal token."""
        return get("/api/v1/whoami")

    @asked
    def api_keys(self) -> Call[list[Json]]:
        """The environment's secret and scoped keys, also those that were over within a month: which, not what they are."""
        return get("/api/v1/keys").part("data")

    @asked
    def create_key(
        self,
        name: str,
        *,
        scopes: list[str] | None = None,
        expires: str | float | timedelta | datetime | None = None,
        personal: bool = False,
        worker: bool = False,
    ) -> Call[Json]:
        """One more key; its text is in the reply's `key`, this once.

        Args:
            name: what it is for; of a personal token whose it is.
            scopes: all that it may do, such as `["trigger:tasks:report", "read:runs"]`; without them it is a secret key.
            expires: after how long, or when; default: never.
            personal: the token of a person, who may do everything but look after keys.
            worker: a token for workers of the environment: it lets them in, and opens nothing of the API.
        """
        body = {"name": name, "scopes": scopes, "expires": when(expires), "personal": personal or None}
        body["worker"] = worker or None
        return post("/api/v1/keys", present(body))

    @asked
    def rotate_key(self, key_id: str, overlap: str | float | timedelta | None = None) -> Call[Json]:
        """Another key like this one, its text in the reply's `key`; this one holds beside it for a day, or `overlap`."""
        body = {} if overlap is None else {"overlap": duration(overlap)}
        return post(f"/api/v1/keys/{segment(key_id)}/rotate", body)

    @asked
    def revoke_key(self, key_id: str) -> Call[Json]:
        """This key, and all public tokens that were made with it, are worth nothing from now on."""
        return post(f"/api/v1/keys/{segment(key_id)}/revoke")

    @asked
    def create_public_token(
        self,
        scopes: list[str],
        *,
        expires: str | float | timedelta | datetime | None = None,
        one_time: bool = False,
    ) -> Call[str]:
        """A token that may leave the back end, such as for a browser: it may do what its scopes say, and nothing else.

        Args:
            scopes: such as `["read:runs:run_1", "write:waitpoints:waitpoint_1"]`.
            expires: after how long, or when; default: 15 minutes. At most 30 days.
            one_time: good for one trigger, or one batch.
        """
        body: Json = {"scopes": scopes}
        if expires is not None:
            body["expirationTime"] = expires.timestamp() if isinstance(expires, datetime) else duration(expires)
        if one_time:
            body["oneTimeUse"] = True
        return post("/api/v1/auth/public-tokens", body).part("token")

    @asked
    def accounts(self) -> Call[list[Json]]:
        """Who may sign in to the dashboard: `{"id", "name", "createdAt"}`."""
        return get("/api/v1/accounts").part("data")

    @asked
    def create_account(self, name: str, password: str) -> Call[Json]:
        """One more of them.

        Raises:
            Unprocessable: the name is taken, or it or the password can't be one.
        """
        return post("/api/v1/accounts", {"name": name, "password": password})

    @asked
    def remove_account(self, account_id: str) -> Call[None]:
        """It is gone, and whoever is signed in to it is signed out."""
        return Call[None]("DELETE", f"/api/v1/accounts/{segment(account_id)}").nothing()

    @asked
    def create_sign_in_link(self) -> Call[Json]:
        """A link to the dashboard that signs one browser in, once: `{"url", "expiresAt"}`."""
        return post("/api/v1/sign-in-links")
