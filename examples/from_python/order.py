"""Triggers a task of another project, follows it live, answers its question, and prints its output.

TORPOR_API_URL and TORPOR_SECRET_KEY say where the server is, and who asks.
"""

import time

from torpor import Client


def main() -> None:
    number = time.time_ns() // 1_000_000
    with Client() as client:
        run = client.trigger("order", {"number": number, "item": "lamp", "count": 2}, tags=["from python"])
        print(run["id"], "is triggered")
        for event in client.story(run["id"], follow=True):
            print(event["kind"], flush=True)
            if event["kind"] == "run.waiting":
                answer(client, number)
        print(client.result(run["id"]))


def answer(client: Client, number: int) -> None:
    for question in client.tokens(status="WAITING", tags=[f"order-{number}"]):
        said = input(f"{question['title']} [y/n] ")
        client.approve(question["id"], said.strip() == "y", by="python")


if __name__ == "__main__":
    main()
