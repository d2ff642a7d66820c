"""Triggers a task of another project, follows it live, answers its question, and prints its output.

TORPOR_API_URL and TORPOR_SECRET_KEY say where the server is, and who asks.
"""

import time

from torpor import Client


def main() -> None:
    number = time.time_ns() // 1_000_000
    with Client() as client:
        order = client.trigger("order", {"number": number, "item": "lamp", "count": 2}, tags=["from python"])
        print(order["id"], "is triggered", flush=True)
        told = ""
        for run in client.subscribe(order["id"]):
            if run["status"] != told:
                told = run["status"]
                print(told, run.get("metadata", {}).get("step", ""), flush=True)
                if told == "WAITING":
                    answer(client, number)
            if run["isCompleted"]:
                print(run.get("output", run.get("error")))


def answer(client: Client, number: int) -> None:
    for question in client.tokens(status="WAITING", tags=[f"order-{number}"]):
        said = input(f"{question['title']} [y/n] ")
        client.approve(question["id"], said.strip() == "y", by="python")


if __name__ == "__main__":
    main()
