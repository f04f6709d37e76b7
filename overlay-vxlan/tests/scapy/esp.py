"""Seals and opens with scapy's ESP. A line of hexadecimal fields each:

seal KEY SALT SPI SEQUENCE SOURCE_PORT DESTINATION_PORT PAYLOAD -> the packet from its SPI on
open KEY SALT SPI SEQUENCE PACKET -> the UDP datagram within, or "refused"
"""

import sys

from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw


def association(key, salt, spi, sequence):
    return SecurityAssociation(
        ESP,
        spi=int(spi, 16),
        seq_num=int(sequence, 16) & 0xFFFFFFFF,
        crypt_algo="AES-GCM",
        crypt_key=bytes.fromhex(key) + bytes.fromhex(salt),
        crypt_icv_size=16,
        esn_en=True,
        esn=int(sequence, 16) >> 32,
        nat_t_header=UDP(sport=4500, dport=4500),
    )


OUTER = IP(src="192.0.2.1", dst="192.0.2.2")

for line in sys.stdin:
    verb, key, salt, spi, sequence, *rest = line.split()
    sa = association(key, salt, spi, sequence)
    if verb == "seal":
        source, destination, payload = rest
        datagram = UDP(sport=int(source, 16), dport=int(destination, 16), chksum=0)
        packet = OUTER / datagram / Raw(bytes.fromhex(payload))
        iv = int(sequence, 16).to_bytes(8, "big")
        sealed = sa.encrypt(packet, iv=iv)
        print(raw(sealed)[28:].hex(), flush=True)
    else:
        packet = OUTER / UDP(sport=4500, dport=4500) / ESP(bytes.fromhex(rest[0]))
        try:
            opened = sa.decrypt(IP(raw(packet)))
            print(raw(opened)[20:].hex(), flush=True)
        except Exception as error:
            print("refused", type(error).__name__, flush=True)
