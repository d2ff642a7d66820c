"""The JSON shapes that cross a process border, and nothing else.

`http/`       server <-> worker, over HTTP
`runner.py`   supervisor <-> runner and supervisor <-> zygote, over unix sockets
`operations.py`  what changes of metadata do, for both sides    `streams.py`  names and sizes of streams
`presets.py`  sizes of machine
`networks.py` kinds of networks
`framing.py`  how a message is laid on a socket
"""
