"""Key material on disk: whole or absent, and private from the first byte."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644


def write_atomic(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Put `data` at `path` so that a reader, or a crash, sees the old file or the new one and never a part.

    The mode is set when the temporary file is opened, not afterwards: a key is at no instant readable by
    others. Missing parent directories are made with mode 0755. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_if_changed(path: Path, data: bytes, mode: int = PUBLIC) -> bool:
    """Like `write_atomic`, but leave an identical file alone (its mode is still enforced); say whether it
    wrote."""
    try:
        same = path.read_bytes() == data
    except FileNotFoundError:
        same = False
    if same:
        path.chmod(mode)
        return False
    write_atomic(path, data, mode)
    return True
