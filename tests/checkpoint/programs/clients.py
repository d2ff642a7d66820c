"""Clients of servers elsewhere, with connections open at the freeze: each works again after it, without being made anew."""

import asyncio
import json
import ssl
import uuid
from typing import Any

from freezing import Outside, freeze, freeze_blocking, program


def trusting(outside: Outside) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=outside["authority"])


@program
async def httpx_client(outside: Outside) -> None:
    """Its pool holds connections by http and https."""
    import httpx

    with httpx.Client(timeout=60, verify=trusting(outside)) as client:
        for n in range(3):
            for scheme in ("http", "https"):
                first, second = (client.get(f"{outside[scheme]}/{n}").json() for n in range(2))
                assert (first["path"], second["path"]) == ("/0", "/1")
                assert first["port"] == second["port"]  # by the same connection: it was left open
                assert first["http"] == "1.1"
            if n < 2:
                await freeze()


@program
async def httpx_async_client(outside: Outside) -> None:
    import httpx

    async with httpx.AsyncClient(timeout=60, verify=trusting(outside)) as client:
        for n in range(3):
            for scheme in ("http", "https"):
                urls = [f"{outside[scheme]}/{n}" for n in range(3)]
                answers = await asyncio.gather(*(client.get(url) for url in urls))
                assert [answer.json()["path"] for answer in answers] == ["/0", "/1", "/2"]
            if n < 2:
                await freeze()


@program
async def httpx_http2(outside: Outside) -> None:
    """Many streams share one connection, which keeps a state of its own: tables of headers, windows, the last stream."""
    import httpx

    async with httpx.AsyncClient(timeout=60, http2=True, verify=trusting(outside)) as client:
        for n in range(3):
            urls = [f"{outside['https']}/{n}" for n in range(5)]
            answers = [(await client.get(url)).json() for url in urls]
            assert {(answer["http"], answer["port"]) for answer in answers} == {("2", answers[0]["port"])}
            if n < 2:
                await freeze()


@program
def httpx_http2_blocking(outside: Outside) -> None:
    import httpx

    with httpx.Client(timeout=60, http2=True, verify=trusting(outside)) as client:
        for n in range(3):
            assert client.get(f"{outside['https']}/x").json()["http"] == "2"
            if n < 2:
                freeze_blocking()


@program
async def asyncpg_pool(outside: Outside) -> None:
    import asyncpg

    async with asyncpg.create_pool(outside["postgres"], min_size=2, max_size=4) as pool:
        for n in range(3):
            answers = await asyncio.gather(*(pool.fetchval("select $1::int + 1", n) for _ in range(4)))
            assert answers == [n + 1] * 4
            if n < 2:
                await freeze()


@program
async def psycopg_pool(outside: Outside) -> None:
    """The blocking pool: its threads are in the background."""
    from psycopg_pool import ConnectionPool

    with ConnectionPool(outside["postgres"], min_size=2, max_size=4, timeout=60) as pool:
        pool.wait(60)
        for n in range(3):
            for _ in range(3):
                with pool.connection() as connection:
                    assert connection.execute("select %s + 1", (n,)).fetchone() == (n + 1,)
            if n < 2:
                await freeze()


@program
async def psycopg_async_pool(outside: Outside) -> None:
    from psycopg_pool import AsyncConnectionPool

    async with AsyncConnectionPool(outside["postgres"], min_size=2, max_size=4, timeout=60) as pool:
        await pool.wait(60)
        for n in range(3):
            for _ in range(3):
                async with pool.connection() as connection:
                    cursor = await connection.execute("select %s + 1", (n,))
                    assert await cursor.fetchone() == (n + 1,)
            if n < 2:
                await freeze()


@program
def sqlalchemy_engine(outside: Outside) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(outside["postgres"].replace("postgresql:", "postgresql+psycopg:"))
    for n in range(3):
        for _ in range(2):
            with engine.connect() as connection:
                assert connection.execute(sqlalchemy.text("select :n + 1"), {"n": n}).scalar_one() == n + 1
        if n < 2:
            freeze_blocking()
    engine.dispose()


@program
async def sqlalchemy_async_engine(outside: Outside) -> None:
    import sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine

    url = outside["postgres"].replace("postgresql:", "postgresql+asyncpg:").partition("?")[0]
    engine = create_async_engine(url, connect_args={"ssl": False})
    for n in range(3):
        async with engine.connect() as connection:
            found = await connection.execute(sqlalchemy.text("select cast(:n as int) + 1"), {"n": n})
            assert found.scalar_one() == n + 1
        if n < 2:
            await freeze()
    await engine.dispose()


@program
async def redis_client(outside: Outside) -> None:
    import redis

    client = redis.Redis.from_url(outside["redis"])
    key = f"blocking-{uuid.uuid4()}"
    for n in range(3):
        assert client.incr(key) == n + 1
        with client.pipeline() as pipeline:
            pipeline.get(key)
            pipeline.exists(key)
            assert pipeline.execute() == [b"%d" % (n + 1), 1]
        if n < 2:
            await freeze()
    client.delete(key)
    client.close()


@program
async def redis_async_client(outside: Outside) -> None:
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(outside["redis"]) as client:
        key = f"async-{uuid.uuid4()}"
        for n in range(3):
            assert await asyncio.gather(client.incr(key), client.ping()) == [n + 1, True]
            if n < 2:
                await freeze()
        await client.delete(key)


@program
async def boto3_client(outside: Outside) -> None:
    import boto3
    import botocore.exceptions

    s3: Any = boto3.client(
        "s3",
        endpoint_url=outside["s3"],
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    bucket = f"bucket-{uuid.uuid4()}"
    s3.create_bucket(Bucket=bucket)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    parts: list[dict[str, Any]] = []
    for n in range(1, 4):
        part = s3.upload_part(Bucket=bucket, Key="parts", PartNumber=n, UploadId=upload, Body=b"%d" % n * (5 << 20))
        parts.append({"PartNumber": n, "ETag": part["ETag"]})
        if n == 1:
            await freeze()
    s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    body = s3.get_object(Bucket=bucket, Key="parts")["Body"]
    assert body.read(3) == b"111"
    await freeze()  # in the middle of a download: what is not read is lost, and said to be
    try:
        rest = body.read()
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.IncompleteReadError):
        pass
    else:
        raise AssertionError(f"it went on with {len(rest)} bytes")
    assert len(s3.get_object(Bucket=bucket, Key="parts")["Body"].read()) == 3 * (5 << 20)


@program
async def websocket_client(outside: Outside) -> None:
    """As one writes a client that stays: `async for` connects again. Pings are off, for their task would be awake."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    rounds = 0
    async for connection in connect(outside["websocket"], ping_interval=None):
        await connection.send(str(rounds))
        assert await connection.recv() == str(rounds)
        if rounds == 2:
            await connection.close()
            return
        await freeze()
        rounds += 1
        try:
            await connection.send("lost")
            await connection.recv()
            raise AssertionError("the connection is still there")
        except ConnectionClosed:
            continue


@program
def websocket_client_blocking(outside: Outside) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    for n in range(2):
        connection = connect(outside["websocket"])
        connection.send(str(n))
        assert connection.recv(60) == str(n)
        freeze_blocking()
        try:
            connection.send("lost")
            connection.recv(60)
            raise AssertionError("the connection is still there")
        except ConnectionClosed:
            continue


@program
def grpc_channel(outside: Outside) -> None:
    """The channel has threads of C++, and connects again by itself."""
    import grpc

    with grpc.insecure_channel(outside["grpc"]) as channel:
        echo = channel.unary_unary("/Echo/Echo")
        for n in range(3):
            assert echo(b"%d" % n, timeout=60, wait_for_ready=True) == b"%d" % n
            if n < 2:
                freeze_blocking()


@program
async def grpc_async_channel(outside: Outside) -> None:
    import grpc.aio

    async with grpc.aio.insecure_channel(outside["grpc"]) as channel:
        echo = channel.unary_unary("/Echo/Echo")
        for n in range(3):
            assert await echo(b"%d" % n, timeout=60, wait_for_ready=True) == b"%d" % n
            if n < 2:
                await freeze()


@program
async def urllib_and_http_client(outside: Outside) -> None:
    """The standard library's: a connection that is kept open connects again when it is told to."""
    import http.client
    from urllib.request import urlopen

    host, _, port = outside["http"].removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    for n in range(3):
        connection.request("GET", "/kept")
        assert json.loads(connection.getresponse().read())["path"] == "/kept"
        with urlopen(f"{outside['http']}/once", timeout=60) as answer:
            assert json.load(answer)["path"] == "/once"
        if n < 2:
            await freeze()
        connection.close()
