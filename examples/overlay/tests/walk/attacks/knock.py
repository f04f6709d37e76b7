"""Says to TCP ports what is not for them, in clear and inside of TLS, and prints a line for each answer that is one.

Usage: knock.py ADDRESS PORT...; a line: port, what was said, and how the answer begins. Prints at the end how often it was
let in to say something.
"""

import socket
import ssl
import struct
import sys

address, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
JOIN = b"B\x01" + struct.pack(">I", 40) + b"\0\x10" + bytes(38)
SAID = {
    "http": b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "api": b'POST /v1/request HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n"NodeList"',
    "metrics": b"GET /metrics HTTP/1.0\r\n\r\n",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "heartbeat": b"M\x01" + struct.pack(">I", 3) + b"\x04\0\0",
    "join": JOIN,
    "ping": bytes([0]) + b"\x82\xa5SeqNo\x01\xa4Node\xa5host1",
    "push-pull": bytes([6]) + b"\x83\xa5Nodes\0\xacUserStateLen\0\xa4Join\xc3",
}


begun = 0


def answer(port, context, said):
    global begun
    try:
        with socket.create_connection((address, port), 5) as plain:
            begun += 1
            plain.settimeout(5)
            stream = context.wrap_socket(plain) if context else plain
            stream.sendall(said)
            stream.shutdown(socket.SHUT_WR)
            return stream.recv(200)
    except OSError:
        return b""


def context(least, most):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.set_ciphers("ALL:@SECLEVEL=0")
    made.minimum_version, made.maximum_version = least, most
    return made


V = ssl.TLSVersion
ways = {"clear": None, "tls1.2": context(V.TLSv1, V.TLSv1_2), "tls1.3": context(V.TLSv1_3, V.TLSv1_3)}
for port in ports:
    for way, made in ways.items():
        for name, said in SAID.items():
            got = answer(port, made, said)
            # An alert of TLS (content type 21) is a refusal.
            if got and not (made is None and got[0] == 21):
                print(port, way, name, got[:60])
print("begun", begun)
