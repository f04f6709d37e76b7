"""Holds connections by the thousand to a port, which say nothing, or one octet a second, until its input ends.

Usage: crowd.py ADDRESS PORT COUNT SOURCE...; what is closed is opened again. Prints a line once it has opened COUNT, and at
the end how many it opened in all and how many it held at the end.
"""

import resource
import select
import socket
import sys
import time

address, port, count, sources = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 500, max(count + 500, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
# A ClientHello of TLS 1.3 that never comes to its end (RFC 8446, section 4.1.2): record, length, handshake, length.
HELLO = bytes([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]) + bytes(600)
SLOW = 10  # one of so many says an octet a second

poll, held, opened = select.epoll(), {}, 0
poll.register(sys.stdin.fileno(), select.EPOLLIN)


def open_one():
    global opened
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one.setblocking(False)
    try:
        one.bind((sources[opened % len(sources)], 0))
        one.connect((address, port))
    except BlockingIOError:
        pass
    except OSError:
        one.close()
        return
    poll.register(one.fileno(), select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
    held[one.fileno()] = [one, opened, 0]
    opened += 1


begun, last, ended = False, time.monotonic(), False
while not ended:
    room = 200
    while len(held) < count and room > 0:
        open_one()
        room -= 1
    if opened >= count and not begun:
        begun = True
        print("begun", flush=True)
    for number, _ in poll.poll(0.01, 1000):
        if number == sys.stdin.fileno():
            ended = True
        elif number in held:
            poll.unregister(number)
            held.pop(number)[0].close()
    if time.monotonic() - last > 1:
        last = time.monotonic()
        for one in held.values():
            if one[1] % SLOW == 0:
                try:
                    one[0].send(HELLO[one[2] : one[2] + 1])
                    one[2] = (one[2] + 1) % len(HELLO)
                except OSError:
                    pass
print(opened, len(held), flush=True)
