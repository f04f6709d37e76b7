"""Puts a datagram for an endpoint into tunnels of many kinds, and sends them to a host.

Usage: tunnels.py FROM TO VNI MACS IPS TAG KIND...; FROM is the outer source address, whoever has it; MACS and IPS are source
and destination of the inner frame with a comma between them. The datagram is for UDP port 9000 and says TAG-KIND.
"""

import socket
import struct
import sys

outer_from, outer_to, vni = sys.argv[1], sys.argv[2], int(sys.argv[3])
macs = [bytes.fromhex(mac.replace(":", "")) for mac in sys.argv[4].split(",")]
ips = [socket.inet_aton(ip) for ip in sys.argv[5].split(",")]
tag, kinds = sys.argv[6], sys.argv[7:]


def checksum(octets):
    total = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source, destination, protocol, payload):
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, 0x4000, 64, protocol, 0, source, destination)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def udp(port, payload):
    # Without a checksum (RFC 768).
    return struct.pack(">HHHH", 50000, port, 8 + len(payload), 0) + payload


def sent(kind):
    packet = ip(ips[0], ips[1], 17, udp(9000, f"{tag}-{kind}".encode()))
    frame = macs[1] + macs[0] + b"\x08\0" + packet
    vxlan = struct.pack(">II", 0x08000000, vni << 8)
    return {
        "vxlan": (17, udp(4789, vxlan + frame)),
        "vxlan-esp-port": (17, udp(4500, vxlan + frame)),
        "vxlan-no-flag": (17, udp(4789, struct.pack(">II", 0, vni << 8) + frame)),
        "vxlan-gpe-ip": (17, udp(4789, struct.pack(">II", 0x0C000001, vni << 8) + packet)),
        "vxlan-other-port": (17, udp(8472, vxlan + frame)),
        "ipip": (4, packet),
        "gre-ip": (47, b"\0\0\x08\0" + packet),
        "gre-ethernet": (47, b"\0\0\x65\x58" + frame),
        "nvgre": (47, b"\x20\0\x65\x58" + struct.pack(">I", vni << 8) + frame),
        "gue": (17, udp(6080, b"\0\x04\0\0" + packet)),
        "gue-vxlan-port": (17, udp(4789, b"\0\x04\0\0" + packet)),
        "fou": (17, udp(5555, packet)),
        "geneve": (17, udp(6081, b"\0\0\x65\x58" + struct.pack(">I", vni << 8) + frame)),
        "geneve-vxlan-port": (17, udp(4789, b"\0\0\x65\x58" + struct.pack(">I", vni << 8) + frame)),
        "l2tp": (115, struct.pack(">I", vni) + frame),
        "etherip": (97, b"\x30\0" + frame),
        "esp": (50, struct.pack(">II", vni, 1) + frame),
    }[kind]


raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for kind in kinds:
    protocol, payload = sent(kind)
    packet = ip(socket.inet_aton(outer_from), socket.inet_aton(outer_to), protocol, payload)
    raw.sendto(packet, (outer_to, 0))
print(len(kinds))
