"""A program that only receives: what a large request costs before anybody has looked at it.

    python -m benchmarks.serving.sink PORT

One connection at a time, keep-alive; a body is received whole, into memory that is there already.
"""

import re
import socket
import sys

ROOM = 32 << 20
HEAD = 64 << 10
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def serve(connection: socket.socket, room: memoryview) -> None:
    while received := connection.recv_into(room[:HEAD]):
        end = bytes(room[:received]).find(b"\r\n\r\n") + 4
        length = re.search(rb"content-length: *(\d+)", bytes(room[:end]), re.IGNORECASE)
        assert end > 3 and length, "the head must come in one piece"
        total = end + int(length.group(1))
        while received < total and (more := connection.recv_into(room[received:total])):
            received += more
        connection.sendall(ANSWER)


def main() -> None:
    room = memoryview(bytearray(ROOM))
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listening:
        while True:
            connection, _ = listening.accept()
            with connection:
                try:
                    serve(connection, room)
                except ConnectionError:
                    pass


if __name__ == "__main__":
    main()
