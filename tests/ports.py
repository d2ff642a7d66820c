"""Ports for servers that have to be told one."""

import socket

_kept: list[socket.socket] = []


def kept_port(address: str = "127.0.0.1") -> int:
    """A port that nobody else is given while this process lives: a server may listen there, and again after its end.

    One that is only known to be free is anybody's until its server is up, and while it is down. This one is kept by a socket
    that doesn't listen. Who binds it by its number, with SO_REUSEADDR as servers do, gets it all the same.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind((address, 0))
    _kept.append(keeper)
    return keeper.getsockname()[1]
