"""Where artifacts rest below `paths.home` (docs/contracts.md, Artifacts)."""

from pathlib import Path

from agents.settings import Settings
from schemas.errors import OxygenRecError
from schemas.policies import DEFAULT_LINE


class NoGeneration(OxygenRecError):
    """No generation was trained in this home."""

    def __init__(self, *, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"{folder}: found no generation, wanted <g>/manifest.json: train one first"
            " (`oxygenrec up` does)"
        )


def versions_folder(settings: Settings) -> Path:
    """Returns the folder that holds a directory a policy version, and config.pbtxt."""
    return Path(settings.paths.home) / "model_repository" / settings.triton.model


def generation_folder(settings: Settings, generation: int) -> Path:
    """Returns the folder of a generation's artifacts."""
    return Path(settings.paths.home) / "generations" / str(generation)


def newest_generation(settings: Settings) -> int:
    """Returns the largest generation below `paths.home`. Raises NoGeneration."""
    folder = Path(settings.paths.home) / "generations"
    names = [path.parent.name for path in folder.glob("*/manifest.json")]
    numbers = [int(name) for name in names if name.isdecimal()]
    if not numbers:
        raise NoGeneration(folder=folder)
    return max(numbers)


def checkpoint_folder(settings: Settings) -> Path:
    """Returns where the trainer's checkpoints and its steps.jsonl rest."""
    return Path(settings.paths.home) / "checkpoints" / DEFAULT_LINE
