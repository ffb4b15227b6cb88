"""Java and Kafka's jars: which Java is taken, and what a cut download leaves."""

import os
from pathlib import Path

import pytest

from streams.local import kafka_jars as jars
from streams.local.errors import JavaMissing, KafkaJarsUnavailable
from streams.local.kafka_jars import Java, find_java

FAKE_MVN = """#!/bin/sh
for argument in "$@"; do
  case "$argument" in -DoutputDirectory=*) target="${argument#*=}";; esac
done
mkdir -p "$target"
"""


def fake_java(folder: Path, version: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with neither Java nor carriers nor jars."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("OXYGENREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(jars, "find_carrier", lambda package: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    return tmp_path


def test_without_java_the_error_names_the_command_that_brings_one(bare: Path) -> None:
    with pytest.raises(JavaMissing) as raised:
        find_java()
    assert str(raised.value) == (
        "Java 17 or newer is needed by Kafka, found none:"
        " `make setup` brings one (a 34 MB wheel), or set JAVA_HOME"
    )


def test_an_old_java_is_passed_over_for_the_carrier(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fake_java(bare / "old", "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(bare / "old"))
    with pytest.raises(JavaMissing, match=f"11.0.2 at {old}"):
        find_java()
    fake_java(bare / "carrier" / "java-runtime", "25.0.2")
    monkeypatch.setattr(jars, "find_carrier", lambda package: bare / "carrier")
    java = find_java()
    assert (java.major, java.home) == (25, bare / "carrier" / "java-runtime")


def use_mvn(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Java:
    folder.mkdir()
    (folder / "mvn").write_text(script)
    (folder / "mvn").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("shutil.which", lambda name: str(folder / "mvn"))
    return Java(program=folder / "java", home=folder, version="17.0.15")


def test_a_failed_download_says_why_and_leaves_nothing_that_looks_complete(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = use_mvn(monkeypatch, bare / "bin", "#!/bin/sh\necho 'no route to host'\nexit 1\n")
    with pytest.raises(KafkaJarsUnavailable, match=r"mvn: no route to host.*kafka_jars`"):
        jars.kafka_jars(java)
    assert list((bare / "cache").iterdir()) == []


def test_a_download_without_the_broker_is_refused(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = use_mvn(monkeypatch, bare / "bin", FAKE_MVN)
    with pytest.raises(KafkaJarsUnavailable, match="mvn found no broker"):
        jars.kafka_jars(java)


def test_a_complete_download_is_made_once(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = FAKE_MVN + 'touch "$target/kafka_2.13-4.1.2.jar" "$target/slf4j-simple-1.7.36.jar"\n'
    java = use_mvn(monkeypatch, bare / "bin", script)
    first = jars.kafka_jars(java)
    (bare / "bin" / "mvn").write_text("#!/bin/sh\nexit 1\n")
    assert jars.kafka_jars(java) == first
    assert [jar.name for jar in first] == ["kafka_2.13-4.1.2.jar", "slf4j-simple-1.7.36.jar"]
    assert [path.name for path in (bare / "cache").iterdir()] == ["kafka-4.1.2"]


def test_without_mvn_the_pure_python_resolver_is_taken(bare: Path) -> None:
    assert jars.resolver() == "jgo"
