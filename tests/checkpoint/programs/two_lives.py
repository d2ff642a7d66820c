"""What must not repeat itself when one image is restored twice: its process dies after the first time.

The second life finds what the first has drawn in a file that is not the run's own, which would be as it was at the freeze.
"""

import json
import os
import random
import secrets
import ssl
import tempfile
import uuid
from pathlib import Path
from typing import Any

from freezing import Outside, freeze

from torpor import Retry, task

DIED = 9

twice = task(retry=Retry(max_attempts=2))


def compare(outside: Outside, drawn: dict[str, Any]) -> list[dict[str, Any]]:
    """All that was drawn so far, by earlier lives and this one. The first life ends here."""
    journal = Path(outside["directory"], "drawn")
    with open(journal, "a") as file:
        print(json.dumps(drawn), file=file)
    lives = [json.loads(line) for line in journal.read_text().splitlines()]
    if len(lives) == 1:
        os._exit(DIED)
    return lives


@twice
async def random_numbers_of_two_lives(outside: Outside) -> None:
    import numpy as np
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    held = random.Random(), np.random.default_rng()
    context = ssl.create_default_context()
    ssl.RAND_bytes(8), random.random(), uuid.uuid4(), np.random.random(), next(tempfile._get_candidate_names())  # type: ignore
    await freeze()
    first, second = compare(
        outside,
        {
            "random": random.random(),
            "numpy": float(np.random.random()),
            "ssl": ssl.RAND_bytes(16).hex(),
            "secrets": secrets.token_hex(),
            "urandom": os.urandom(16).hex(),
            "uuid1": str(uuid.uuid1()),
            "uuid4": str(uuid.uuid4()),
            "key": AESGCM.generate_key(128).hex(),
            "hello": client_random(context),
            "system random": random.SystemRandom().random(),
            # What user code holds itself is its own business: it goes on where it was, in both lives.
            "held": [held[0].random(), float(held[1].random())],
        },
    )
    repeated = {name for name in first if first[name] == second[name]}
    assert repeated == {"held"}


def client_random(context: ssl.SSLContext) -> str:
    """The random bytes of a TLS client's hello."""
    sent = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="example.test").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return sent.read()[11:43].hex()


@twice
async def seeded_numbers_of_two_lives(outside: Outside) -> None:
    """Who has seeded a generator gets the same sequence in each life."""
    import numpy as np

    random.seed(7)
    np.random.seed(8)
    random.random(), np.random.random()
    await freeze()
    first, second = compare(outside, {"random": random.random(), "numpy": float(np.random.random())})
    assert first == second
