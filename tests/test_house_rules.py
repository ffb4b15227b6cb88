"""The house's rules that no linter knows, on every file that is or is about to be tracked."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "models", "streams", "agents")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_README_LINES = 150
MAX_FILE_BYTES = 1_000_000
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}

# Built from pieces, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(
    r"(?<![\w.])/(?:" + "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me")) + r")/\w"
)
REGISTRIES = re.compile(
    "|".join(
        (
            "pypi" + r"\.org",
            "python" + r"hosted\.org",
            "download" + r"\.pytorch",
            "repo1?" + r"\.maven",
            "central" + r"\.sonatype",
            "registry" + r"\.npmjs",
        )
    )
)
# May print: the command line, what speaks to a developer's terminal, benchmarks (their table).
PRINTERS = ("agents/cli", "streams/local/", "benchmarks/", "requirements/install.py")
# A suppression must name its rule and say why, two blanks after it.
BARE_NOQA = re.compile(r"#\s*noqa(?!:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*\s+\S.{7,})")


def tracked() -> list[Path]:
    """Every file of the repository, and every new one that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted(ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file())


FILES = tracked()
PYTHON = [path for path in FILES if path.suffix == ".py"]
TREES = {path: ast.parse(path.read_text()) for path in PYTHON}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_rules_see_the_whole_tree() -> None:
    assert {"pyproject.toml", "tests/test_house_rules.py", "agents/settings.py"} <= set(
        map(name, FILES)
    )


def test_no_python_file_is_longer_than_500_lines() -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in PYTHON}
    assert not {path: lines for path, lines in lengths.items() if lines > MAX_FILE_LINES}


def test_no_function_is_longer_than_60_lines() -> None:
    lengths = {
        f"{name(path)}:{function.lineno} {function.name}": function.end_lineno - function.lineno + 1
        for path, tree in TREES.items()
        for function in functions(tree)
        if function.end_lineno
    }
    assert not {where: lines for where, lines in lengths.items() if lines > MAX_FUNCTION_LINES}


def test_a_package_file_holds_a_docstring_only() -> None:
    for path, tree in TREES.items():
        if path.name == "__init__.py":
            assert len(tree.body) == 1, f"{name(path)} holds more than a docstring"
            assert ast.get_docstring(tree), f"{name(path)} holds no docstring"


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in PYTHON if name(path).split("/")[0] in (*PACKAGES, "tests")}
    assert not {name(folder) for folder in folders if not (folder / "__init__.py").exists()}


def test_every_module_and_public_definition_of_the_product_has_a_docstring() -> None:
    bare = []
    for path, tree in TREES.items():
        if name(path).split("/")[0] not in PACKAGES:
            continue
        bare += [name(path)] if not ast.get_docstring(tree) else []
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if not node.name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{name(path)}:{node.lineno} {node.name}")
    assert not bare


def test_no_name_is_vague() -> None:
    words = {name(path): set(re.split(r"[/_.]", name(path))) for path in PYTHON}
    assert not {path for path, found in words.items() if found & VAGUE_NAMES}
    assert not [path for path in words if re.search(r"_v\d+(\.py|/)", path)]


def test_counts_are_not_called_n_something() -> None:
    found = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            label = node.arg if isinstance(node, ast.arg) else ""
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                label = node.id
            found += [f"{name(path)}: {label}"] if label.startswith("n_") else []
    assert not found


def test_nothing_prints_but_the_command_line_and_what_serves_a_terminal() -> None:
    found = [
        f"{name(path)}:{node.lineno}"
        for path, tree in TREES.items()
        if not name(path).startswith(PRINTERS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not found


def test_serving_takes_tensors_through_dlpack() -> None:
    # With numpy 2 the stub's own conversion silently returns nothing.
    forbidden = "as_" + "numpy"
    serving = [path for path in PYTHON if name(path).startswith("models/serving/")]
    assert not [name(path) for path in serving if forbidden in path.read_text()]


def test_schemas_import_msgspec_and_the_standard_library() -> None:
    allowed = {"msgspec", "schemas"} | sys.stdlib_module_names
    found = []
    for path, tree in TREES.items():
        if not name(path).startswith("schemas/"):
            continue
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{name(path)}: {m}" for m in modules if m.split(".")[0] not in allowed]
    assert not found


@pytest.mark.parametrize("needle", [MACHINE_PATHS, REGISTRIES], ids=["machine path", "registry"])
def test_no_file_names_a_machine_path_or_a_package_registry(needle: re.Pattern[str]) -> None:
    found = []
    for path in FILES:
        text = path.read_bytes().decode(errors="replace")
        found += [f"{name(path)}: {match.group()}" for match in needle.finditer(text)]
    assert not found


def test_no_tracked_file_is_larger_than_a_megabyte() -> None:
    sizes = {name(path): path.stat().st_size for path in FILES}
    assert not {path: size for path, size in sizes.items() if size >= MAX_FILE_BYTES}


def test_every_suppression_says_why() -> None:
    found = []
    for path in PYTHON:
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if BARE_NOQA.search(line):
                found.append(f"{name(path)}:{number} {line.strip()}")
    assert not found


def test_every_exception_in_the_configuration_says_why() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    starts = ("ignore = [", "[tool.ruff.lint.per-file-ignores]", "filterwarnings = [")
    for start in starts:
        first = lines.index(start) + 1
        for number, line in enumerate(lines[first:], first):
            if line in ("]", ""):
                break
            reasoned = "#" in line or lines[number - 1].strip().startswith("#")
            assert reasoned or line.strip() == '"error",', f"pyproject.toml:{number + 1}: {line}"


def test_the_readme_is_150_lines_at_most() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("no README.md yet")
    assert len(readme.read_text().splitlines()) <= MAX_README_LINES


# What an agent's image does not hold. The trainer (with its publisher) and Triton's entry (or what
# stands in for Triton in process) are the places that use it; so is the transformer encoder.
WITHOUT_TORCH = """
import importlib, importlib.abc, pkgutil, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "faiss", "safetensors"}:
            raise ImportError(f"{name} is not part of an agent's image")

sys.meta_path.insert(0, Blocked())
import agents, models.reasoning
names = [f"models.semantic_ids.{m}" for m in ("artifact", "assignment", "new_items", "quality")]
for package in (agents, models.reasoning):
    names += [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    if name not in sys.argv[1:]:
        importlib.import_module(name)
print(len(names))
"""
COMPOSE_TORCH = (
    "agents.policy_trainer",
    "agents.policy_publisher",
    "agents.decoding_compiler",
    "agents.triton_replica",
    "agents.encoder_replica",
    "agents.in_process_generator",
    "agents.catalogue_replica",
    "models.reasoning.minilm",
)


def test_agents_assignment_and_reasoning_import_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *COMPOSE_TORCH],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
