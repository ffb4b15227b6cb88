"""Decodes with a compiled program: the same answers as the eager path, in fewer and larger calls.

What it cannot decode it says (`takes`), and the eager path does: another beam width, a catalogue
of fewer first codes than beams, a head that is cheaper dense, very many exclusions. Loading needs
no compiler.

Legend: B requests, S history positions, E excluded rows, W beams, L levels, D width.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch.nn.functional import pad

from models.decoding.item_index import UNKNOWN, ItemIndex
from models.generator.batch import Batch
from models.generator.generator import Generator
from models.serving.compiled_record import FILE_NAME, CompiledRecord
from models.serving.decoding_program import Decoded, IndexTensors, laid_out
from models.serving.neighbours_file import sha256_of
from models.serving.policy_directory import LoadedPolicy
from schemas.errors import OxygenRecError

MAX_DEGREE = 512  # children of one node: each is scored, where the eager path takes a dense product
MAX_EXCLUDED = 256  # they are compared with one another: beyond it the eager lists are faster
OWNER = "generator."  # of the program: before the names of its weights


class CompiledRefused(OxygenRecError):
    """An artefact that must not be run here; the eager path serves."""

    def __init__(self, *, path: Path, cause: str) -> None:
        self.path = path
        self.cause = cause
        super().__init__(f"{path}: {cause}; decoding eagerly: publish the version again")


@dataclass(frozen=True, slots=True)
class Prepared:
    """An index, and what the program reads of it."""

    index: ItemIndex | None
    tensors: list[torch.Tensor]

    @classmethod
    def of(cls, index: ItemIndex, vectors_ND: torch.Tensor) -> Self:
        """Returns what is read of an index; O(P): the parents of all nodes."""
        return cls(index, IndexTensors.of(index, vectors_ND).flat())


class CompiledDecoding:
    """One version's weights in a compiled program."""

    def __init__(self, path: Path, generator: Generator, beams: int) -> None:
        """Loads `path` (`.pt2`, checked before) and gives it the weights. On one thread."""
        self.beams = beams
        config = generator.config
        self._history = config.recent + config.retrieved + 1 if config.retrieved else 1
        self._loader = torch._C._aoti.AOTIModelPackageLoader(  # noqa: SLF001  `torch._inductor` imports for 4 s
            str(path), "model", True, 1, -1
        )
        weights = laid_out(generator)
        names = self._loader.get_constant_fqns()
        # The program reads them where they are: they live as long as it does.
        self._weights = {name: weights[name.removeprefix(OWNER)] for name in names}
        self._loader.load_constants(self._weights, False, True, True, False)
        self._now = self._next = Prepared(None, [])

    def prepare(self, index: ItemIndex, vectors_ND: torch.Tensor) -> None:
        """Makes what the program reads of an index that will be decoded with next, so that no
        request waits for it.
        """
        self._next = Prepared.of(index, vectors_ND)

    def takes(self, index: ItemIndex, beams: int, exclusions: int) -> bool:
        """Returns whether a batch can be decoded here."""
        return (
            beams == self.beams <= len(index.levels[0].codes)
            and exclusions <= MAX_EXCLUDED
            and all(len(level.steps_K) <= MAX_DEGREE for level in index.levels[:-1])
        )

    def decode(
        self, batch: Batch, excluded_BE: torch.Tensor, index: ItemIndex, vectors_ND: torch.Tensor
    ) -> Decoded:
        """Returns beams and items; `excluded_BE` are item keys as `ItemIndex.masks` takes them."""
        return Decoded(*self.outputs(batch, excluded_BE, index, vectors_ND))

    def outputs(
        self, batch: Batch, excluded_BE: torch.Tensor, index: ItemIndex, vectors_ND: torch.Tensor
    ) -> list[torch.Tensor]:
        """Returns what the program returns."""
        if index is not self._now.index:
            following = self._next  # once: the thread that prepares may go on
            if index is not following.index:
                following = Prepared.of(index, vectors_ND)
            self._now = following
        batch = _padded(batch, self._history)
        request = [getattr(batch, field.name) for field in fields(Batch)]
        excluded = excluded_rows(index, excluded_BE)
        found: list[torch.Tensor] = self._loader.boxed_run([*request, excluded, *self._now.tensors])
        return found


def open_compiled(directory: Path, policy: LoadedPolicy) -> CompiledDecoding | None:
    """Returns the compiled decoding of a version, None for one published without.

    Raises `CompiledRefused`.
    """
    path, record = directory / FILE_NAME, policy.manifest.compiled
    if record is None:
        return None
    if (device := policy.generator.head_weight_LVD.device.type) != "cpu":
        raise CompiledRefused(path=path, cause=f"compiled for cpu, found weights on {device}")
    here = CompiledRecord.here(policy.generator.config, record.beams)
    if difference := record.difference(here):
        raise CompiledRefused(path=path, cause=difference)
    found = sha256_of(path) if path.is_file() else "no file"
    if found != (wanted := policy.manifest.files.get(FILE_NAME)):
        raise CompiledRefused(path=path, cause=f"found {found}, wanted sha256 {wanted}")
    try:
        return CompiledDecoding(path, policy.generator, record.beams)
    except RuntimeError as error:
        raise CompiledRefused(path=path, cause=str(error).splitlines()[0]) from error


def _padded(batch: Batch, least: int) -> Batch:
    """Returns the batch with at least `least` history positions: compiled code has no empty one."""
    missing = least - batch.rows_BS.shape[1]
    if missing <= 0:
        return batch
    return Batch(
        rows_BS=pad(batch.rows_BS, (0, missing), value=UNKNOWN),
        actions_BS=pad(batch.actions_BS, (0, missing)),
        gaps_BS=pad(batch.gaps_BS, (0, missing)),
        scenario_B=batch.scenario_B,
        trigger_B=batch.trigger_B,
        instruction_BC=batch.instruction_BC,
        has_instruction_B=batch.has_instruction_B,
    )


def excluded_rows(index: ItemIndex, keys_BE: torch.Tensor) -> torch.Tensor:
    """Returns the rows of excluded keys, each once a request, padded with -1: [B, 1 or more]."""
    if not keys_BE.shape[1]:
        return torch.full((len(keys_BE), 1), UNKNOWN)
    rows_BE = index.rows_of(keys_BE)
    sorted_BE = rows_BE.numpy()
    sorted_BE.sort(axis=1)
    again_BE = np.zeros(sorted_BE.shape, dtype=bool)
    again_BE[:, 1:] = sorted_BE[:, 1:] == sorted_BE[:, :-1]
    sorted_BE[again_BE] = UNKNOWN
    return rows_BE
