"""Connections through a real freeze."""

import http.server
import threading
from pathlib import Path
from typing import Any

import pytest
from stack import StackMaker, eventually


class _Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.mark.criu
def test_a_pool_goes_on_and_a_plain_connection_is_told_as_lost(make_stack: StackMaker) -> None:
    stack = make_stack(project=Path(__file__).parent / "connections")
    stack.start()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        token = stack.client.create_token()["id"]
        run_id = stack.trigger("keeps_connections", {"token_id": token, "port": port})
        stack.await_event(run_id, "run.suspended")
        stack.client.complete_token(token)
        before, after, plain = stack.output(run_id)
        server.shutdown()
    assert (before, after) == (200, 200)
    assert plain in ("BrokenPipeError", "ConnectionResetError", "b''")
    (lost,) = eventually(lambda: stack.events(run_id, "run.descriptors_lost"), what="the plain connection is told")
    (line,) = lost["lost"]
    assert line.endswith(f"the connection with 127.0.0.1:{port} is closed")
    stack.assert_nothing_left()
