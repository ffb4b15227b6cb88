"""Has decoding compiled where versions are published, once for a shape of generator.

The compiler runs in a process of its own, at low priority: a minute of Python and g++ beside what
serves. What it made rests in `compiled/<key>/` below `paths.home` and is copied into each version;
without it (no g++, a mixture of experts, a failure) versions decode eagerly, and that is said.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from agents.settings import Settings
from models.generator.config import GeneratorConfig
from models.serving.compiled_record import FILE_NAME, CompiledArtifact, CompiledRecord

LIMIT_S = 900  # about a minute on an idle core; five of them on a busy one

logger = logging.getLogger(__name__)


class DecodingCompiler:
    """Gives each published version its compiled decoding, where `serving.compiled` asks for it."""

    def __init__(self, settings: Settings) -> None:
        self._wanted = settings.serving.compiled
        self._beams = settings.serving.beams
        self._folder = Path(settings.paths.home) / "compiled"
        self._failed: set[str] = set()  # not tried again
        self._running: subprocess.Popen[str] | None = None

    def close(self) -> None:
        """Ends a compilation that is under way; its caller goes on without."""
        if (child := self._running) is not None:
            _kill(child)

    def artifact(self, config: GeneratorConfig) -> CompiledArtifact | None:
        """Returns the artefact, compiled if need be (a minute, blocking), or None."""
        if not self._wanted:
            return None
        record = CompiledRecord.here(config, self._beams)
        path = self._folder / record.key / FILE_NAME
        if not path.is_file() and not self._made(path, config, record.key):
            return None
        return CompiledArtifact(path, record)

    def _made(self, path: Path, config: GeneratorConfig, key: str) -> bool:
        if key in self._failed:
            return False
        compiler = os.environ.get("CXX", "g++")
        if config.experts > 1:
            cause: str | None = "a mixture of experts is not compiled"
        elif shutil.which(compiler) is None:
            cause = f"no C++ compiler: found no {compiler}"
        else:
            logger.info("compiling decoding", extra={"folder": str(path.parent)})
            cause = self._compile(config, path)
        if cause is not None:
            self._failed.add(key)
            logger.warning("decoding is not compiled: versions decode eagerly: %s", cause)
        return cause is None

    def _compile(self, config: GeneratorConfig, path: Path) -> str | None:
        """Compiles into `path`, which appears whole; returns why it could not, or None."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".draft-", dir=path.parent) as draft:
            made = Path(draft) / FILE_NAME
            command = [sys.executable, "-m", "models.serving.compile_decoding"]
            command += [json.dumps(config.to_json()), str(self._beams), str(made)]
            try:
                self._run(command, {**os.environ, "TORCHINDUCTOR_CACHE_DIR": draft})
            except (OSError, subprocess.SubprocessError) as error:
                lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
                return lines[-1]
            made.replace(path)
        return None

    def _run(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Runs a command and all that it starts, in a group of processes that ends with it."""
        with subprocess.Popen(
            ["nice", "-n", "10", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            process_group=0,
        ) as child:
            self._running = child
            try:
                _, said = child.communicate(timeout=LIMIT_S)
            finally:
                self._running = None
                _kill(child)
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, command, stderr=said)


def _kill(child: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # its compilers too
