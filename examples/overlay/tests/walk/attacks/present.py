"""Shows a certificate to a node, says that it is one, too, and there, and waits for an answer.

Usage: present.py ADDRESS CERTIFICATE KEY [HEX], with what else to say; for CERTIFICATE and KEY `-` to show none. Prints `answered`
and the answer's first octet, or why there is none.
"""

import socket
import ssl
import struct
import sys

address, certificate, key = sys.argv[1:4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.minimum_version = ssl.TLSVersion.TLSv1_3
if certificate != "-":
    context.load_cert_chain(certificate, key)
HEARTBEAT = b"M\x01" + struct.pack(">I", 3) + b"\x04\0\0"
try:
    with socket.create_connection((address, 2377), 5) as plain, context.wrap_socket(plain) as stream:
        stream.settimeout(5)
        stream.sendall(bytes.fromhex(sys.argv[4]) if len(sys.argv) > 4 else HEARTBEAT)
        said = stream.recv(4096)
        print(f"answered {said[0]}" if said else "closed")
except OSError as error:
    print(f"refused: {error}")
