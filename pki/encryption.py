"""EncryptionConfiguration (apiserver.config.k8s.io/v1): with which keys Secrets are sealed before they are
stored."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import Any

import yaml

from pki.ca import PKIError
from pki.files import PRIVATE, write_atomic

KEY_BYTES = 32  # AES-256


def build(key: bytes, *, name: str = "key1", resources: tuple[str, ...] = ("secrets",)) -> dict[str, Any]:
    """New objects are written with `key` under aescbc; `identity` last lets plain ones still be read."""
    encoded = base64.b64encode(key).decode("ascii")
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [
            {
                "resources": list(resources),
                "providers": [{"aescbc": {"keys": [{"name": name, "secret": encoded}]}}, {"identity": {}}],
            }
        ],
    }


def ensure(path: Path) -> bool:
    """Make the configuration with a fresh key unless there is one; say whether it was made.

    Losing this key loses every Secret, so a file that exists is never replaced: raises PKIError if it is
    unreadable.
    """
    try:
        document = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        text = yaml.safe_dump(build(secrets.token_bytes(KEY_BYTES)), sort_keys=False)
        write_atomic(path, text.encode(), PRIVATE)
        return True
    except yaml.YAMLError as error:
        raise PKIError(f"{path}: not YAML") from error
    if not isinstance(document, dict) or document.get("kind") != "EncryptionConfiguration":
        raise PKIError(f"{path}: not an EncryptionConfiguration")
    path.chmod(PRIVATE)
    return False


def flaw(path: Path) -> str | None:
    """Why the configuration at `path` would not seal Secrets, or None."""
    try:
        document = yaml.safe_load(path.read_bytes())
        providers = document["resources"][0]["providers"]
        key = base64.b64decode(providers[0]["aescbc"]["keys"][0]["secret"], validate=True)
    except FileNotFoundError:
        return "is absent"
    except yaml.YAMLError:
        return "is not YAML"
    except (KeyError, IndexError, TypeError, ValueError):
        return "does not begin its providers with an aescbc key in base64"
    if len(key) != KEY_BYTES:
        return f"has a key of {len(key)} bytes, must be {KEY_BYTES}"
    if "secrets" not in document["resources"][0].get("resources", ()):
        return "does not name secrets among its resources"
    if "identity" not in providers[-1]:
        return "does not end its providers with identity"
    return None
