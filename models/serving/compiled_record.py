"""What a compiled decoding was compiled for and may run on: its record and its name on disk.

A record is equal to another one only where the code that was traced, torch, the processor's
instructions, the generator's sizes and the beam width are. An artefact of another record is never
loaded: it would read its inputs wrong, or use instructions that are not there.
"""

import hashlib
import json
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import torch
from msgspec import Struct

from models.generator.config import GeneratorConfig

FILE_NAME = "decoding.pt2"
TRACED = ("decoding", "generator", "serving")  # rooms of `models` whose code is in the artefact
CPU_INFO = Path("/proc/cpuinfo")


class CompiledRecord(Struct, frozen=True, kw_only=True):
    """`generator` and `code` are hashes; `cpu` names capability and a hash of the flags."""

    beams: int
    generator: str
    code: str
    torch_version: str
    cpu: str

    @classmethod
    def here(cls, config: GeneratorConfig, beams: int) -> "CompiledRecord":
        """Returns the record of what this process could compile and run."""
        sizes = json.dumps(config.to_json(), sort_keys=True)
        return cls(
            beams=beams,
            generator=_hash(sizes.encode()),
            code=_code(),
            torch_version=str(torch.__version__),
            cpu=_cpu(),
        )

    @property
    def key(self) -> str:
        """A short name: equal records have equal ones."""
        return _hash(msgspec.json.encode(self))

    def difference(self, other: "CompiledRecord") -> str | None:
        """Returns the first field that differs, with both values, or None."""
        for name in self.__struct_fields__:
            found, wanted = getattr(self, name), getattr(other, name)
            if found != wanted:
                return f"{name}: found {found}, wanted {wanted}"
        return None


@dataclass(frozen=True, slots=True)
class CompiledArtifact:
    """A compiled program on disk, and what it is."""

    path: Path
    record: CompiledRecord


@cache
def _code() -> str:
    rooms = [Path(__file__).parent.parent / room for room in TRACED]
    files = sorted(path for room in rooms for path in room.glob("*.py"))
    return _hash(b"\0".join(path.name.encode() + path.read_bytes() for path in files))


@cache
def _cpu() -> str:
    """The compiler uses every instruction of the machine it runs on (`-march=native`)."""
    text = CPU_INFO.read_text() if CPU_INFO.is_file() else platform.processor()
    flags = [line for line in text.splitlines() if line.startswith(("flags", "Features"))][:1]
    words = sorted(set((flags or [text])[0].split()))
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability} {_hash(' '.join(words).encode())}"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
