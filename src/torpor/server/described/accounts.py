"""Accounts of the dashboard: their types, and their routes."""

from typing import Annotated, Any

from msgspec import Meta

from torpor.server.described.operation import Answer, Body, Given, Instant, Operation, Resource, Shape


class NewAccount(Given):
    name: Annotated[str, Meta(min_length=1, max_length=200, description="An e-mail address, or any other name.")]
    password: Annotated[str, Meta(min_length=10, max_length=1000)]


class Account(Shape):
    id: str
    name: str
    created_at: Instant


class Accounts(Shape):
    data: list[Account]


class AccountRemoved(Shape):
    id: str


class SignInLink(Shape):
    url: Annotated[str, Meta(description="Opened in a browser it signs that one in, once.")]
    expires_at: Instant


ACCOUNT: dict[str, Any] = {"id": "account_2n7c", "name": "ada@example.com", "createdAt": "2026-03-01T07:00:00Z"}

RESOURCE = Resource(
    "Accounts",
    "Who may look at [the dashboard](dashboard.md).",
    {
        "GET /api/v1/accounts": Operation(
            "listAccounts",
            "All accounts, by name.",
            is_own=True,
            answers={200: Answer("All of them.", Accounts, {"data": [ACCOUNT]})},
        ),
        "POST /api/v1/accounts": Operation(
            "createAccount",
            "Make an account.",
            is_own=True,
            body=Body(NewAccount, {"name": "ada@example.com", "password": "correct horse"}, is_required=True),
            answers={200: Answer("The account.", Account, ACCOUNT)},
            refusals={422: "The name is taken, or it or the password can't be one."},
        ),
        "DELETE /api/v1/accounts/{account_id}": Operation(
            "removeAccount",
            "Remove an account; whoever is signed in to it is signed out.",
            is_own=True,
            answers={200: Answer("Which one.", AccountRemoved, {"id": "account_2n7c"})},
            refusals={404: "There is no such account."},
        ),
        "POST /api/v1/sign-in-links": Operation(
            "createSignInLink",
            "Make a link that signs one browser in, once, within an hour.",
            "Whoever opens it first may do everything that the dashboard can.",
            is_own=True,
            answers={
                200: Answer(
                    "The link.",
                    SignInLink,
                    {"url": "https://torpor.example/sign-in/gX1…", "expiresAt": "2026-03-01T08:00:00Z"},
                )
            },
        ),
    },
)
