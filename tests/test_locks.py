"""The locks install the same bytes everywhere, from whatever index the reader uses."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = re.compile(r"^[a-z0-9-]+(\[[a-z,]+\])?==[^ ]+( ; .+)?$")
HASH = re.compile(r"^--hash=sha256:[0-9a-f]{64}$")


def requirements(lock: Path) -> list[list[str]]:
    """Each requirement of a lock: its pin, then its hashes."""
    text = re.sub(r"(?m)^#.*\n", "", lock.read_text()).replace("\\\n", "\t")
    return [[part.strip() for part in line.split("\t")] for line in text.splitlines() if line]


def names_and_ranges(source: str) -> set[str]:
    """The lines of a requirements/*.in without comments."""
    lines = (ROOT / "requirements" / source).read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_there_is_a_lock_for_every_source() -> None:
    sources = {path.stem for path in (ROOT / "requirements").glob("*.in")}
    assert {lock.stem for lock in LOCKS} == sources
    assert {"bootstrap", "agents", "torch", "development", "carriers"} <= sources


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_address(lock: Path) -> None:
    assert "://" not in lock.read_text()
    assert "--index" not in lock.read_text()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_requirement_is_pinned_and_hashed(lock: Path) -> None:
    found = requirements(lock)
    assert found
    for pin, *hashes in found:
        assert PINNED.match(pin), f"{lock.name}: {pin} is not pinned"
        assert hashes, f"{lock.name}: {pin} has no hash"
        assert all(HASH.match(one) for one in hashes), f"{lock.name}: {pin}: {hashes}"


def test_locks_that_are_installed_together_agree() -> None:
    versions: dict[str, dict[str, str]] = {}
    for lock in LOCKS:
        for pin, *_ in requirements(lock):
            name, _, version = pin.partition("==")
            python = version.partition(" ; ")[2]
            versions.setdefault(f"{name} {python}", {})[lock.name] = version
    torn = {name: found for name, found in versions.items() if len(set(found.values())) > 1}
    assert not torn


def test_the_project_declares_what_the_sources_list() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(PROJECT["dependencies"]) == names_and_ranges("agents.in")
    assert set(extras["datasets"]) == names_and_ranges("datasets.in")
    assert set(extras["dev"]) == names_and_ranges("development.in")
    # The extra allows the range that was tried; the lock pins one version of it.
    apart_from_torch = {line for line in extras["models"] if not line.startswith("torch")}
    assert apart_from_torch == names_and_ranges("models.in")


def test_an_agent_installs_no_torch() -> None:
    agents = {pin.split("==")[0] for pin, *_ in requirements(ROOT / "requirements" / "agents.txt")}
    assert "faust-streaming" in agents
    assert not {name for name in agents if name == "torch" or name.startswith("nvidia-")}
