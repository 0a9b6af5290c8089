"""Ways in which bytes go wrong: single bits, blocks that read as zeros or as something else, an end that is
missing, a block that is missing, doubled or moved.
"""

from __future__ import annotations

import random

BLOCK = 512


def damaged(good: bytes, chance: random.Random) -> bytes:
    """`good`, with one thing wrong (or, seldom, nothing: a block of zeros over zeros)."""
    data = bytearray(good)
    at = chance.randrange(len(data))
    length = chance.choice((1, 7, BLOCK, 4 * BLOCK))
    block = bytes(data[at : at + length])
    kind = chance.randrange(7)
    if kind == 0:
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        data[at : at + length] = bytes(len(block))
    elif kind == 2:
        data[at : at + length] = chance.randbytes(len(block))
    elif kind == 3:
        del data[at:]
    elif kind == 4:
        del data[at : at + length]
    elif kind == 5:
        data[at:at] = block
    else:
        to = chance.randrange(len(data))
        data[to : to + len(block)] = block
    return bytes(data)
