"""Build steps: what is generated rather than written is made here, at build time, and never committed.

Two products: Python modules from `proto/` (protoc places `proto/a/b/x.proto` at `a/b/x_pb2.py`, so that
generated code lands inside the room that owns it), and the API schema table that `apimachinery.schema` reads,
derived from the types that lightkube-models carries. Run directly (`python hatch_build.py`) it serves a
source checkout; hatchling calls it for wheels and editable installs.
"""

from __future__ import annotations

import importlib.resources
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent


def generate_protobuf(root: Path) -> list[Path]:
    """Compile every file below `proto/`; return what was written."""
    from grpc_tools import protoc

    include = str(importlib.resources.files("grpc_tools") / "_proto")
    sources = sorted(str(path.relative_to(root / "proto")) for path in (root / "proto").rglob("*.proto"))
    if not sources:
        return []
    arguments = ["protoc", f"-I{root / 'proto'}", f"-I{include}"]
    arguments += [f"--python_out={root}", f"--pyi_out={root}", f"--grpc_python_out={root}", *sources]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    made: list[Path] = []
    for source in sources:
        stem = source.removesuffix(".proto")
        made += [root / f"{stem}_pb2.py", root / f"{stem}_pb2.pyi", root / f"{stem}_pb2_grpc.py"]
    return made


def generate_schema(root: Path) -> list[Path]:
    """Write the API schema table, if the generator is in this tree."""
    generator = root / "apimachinery" / "schema" / "generate.py"
    if not generator.exists():
        return []
    sys.path.insert(0, str(root))
    from apimachinery.schema.generate import write_table

    return [write_table(root / "apimachinery" / "schema")]


def generate(root: Path) -> list[Path]:
    """Make everything that is generated; return the files."""
    return [*generate_protobuf(root), *generate_schema(root)]


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # running as a script in an environment without the build backend
    pass
else:

    class GenerateHook(BuildHookInterface):  # type: ignore[type-arg]
        """Hatchling's entry: generate, then ship what git ignores."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            for path in generate(Path(self.root)):
                build_data["artifacts"].append("/" + str(path.relative_to(self.root)))


if __name__ == "__main__":
    for made in generate(ROOT):
        print(made.relative_to(ROOT))
