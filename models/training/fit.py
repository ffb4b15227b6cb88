"""Fits a generation: text encoder, codebooks and the offline generator, into `generations/<g>/`.

The folder appears by one atomic rename and holds the model that versions 1, 2, ... descend from
(pi_ref). The clock and the seeds come in; nothing else is random.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from msgspec import Struct

from models.decoding.item_index import ItemIndex
from models.decoding.neighbours import NeighbourConfig
from models.generator.config import PRESETS, GeneratorConfig, GeneratorConfigInvalid
from models.generator.files import save_generator
from models.generator.generator import Generator
from models.reasoning.item_text import item_text
from models.reasoning.local_reasoner import LocalReasoner
from models.semantic_ids.alignment import AlignmentConfig
from models.semantic_ids.artifact import EncoderRecord
from models.semantic_ids.encoders import BUILTIN, TextEncoder, encode_all, fit_encoder
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig, fit_codebooks
from models.semantic_ids.sid_assigner import SidAssigner
from models.serving.encoder_directory import FOLDER as ENCODER_FOLDER
from models.serving.neighbours_file import NeighboursRecord, save_neighbours
from models.training.checkpoint import Checkpointing
from models.training.distributed import this_share
from models.training.example_tensors import ExampleTensors
from models.training.examples import NO_TEXT, ExampleBuilder, ExampleConfig, Examples
from models.training.instructions import InstructionReplay, ServedWindows, item_rows
from models.training.item_sids import fused_assigner
from models.training.neighbour_table import neighbours_of
from models.training.training_loop import Progress, TrainingConfig, train
from schemas.actions import UserAction
from schemas.catalog import ItemUpsert, item_key_of
from schemas.errors import OxygenRecError
from schemas.users import UserProfile

MANIFEST_NAME = "manifest.json"
MAX_QUERIES = 1_000  # the SVD's time grows with the texts, and rare words are mostly misspelt ones
Features = Literal["text", "fused"]
STAGES = ("text encoder", "semantic IDs", "training rows", "instruction texts", "generator")


class NothingToLearn(OxygenRecError):
    """A catalogue or a log that holds nothing to fit on."""

    def __init__(self, *, found: str, wanted: str) -> None:
        self.found = found
        self.wanted = wanted
        super().__init__(f"fit: found {found}, wanted {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """`max_rows` bounds the preparation: more rows than the steps can eat are drawn at random.

    Dropout is off: a budget of one to two epochs leaves no time to over-fit, and 17 % of a step.
    `sizes` replaces fields of the preset, by the names of `GeneratorConfig`. `encoder`: builtin
    (fitted on the log), minilm, or the folder of an encoder of its shape, which serving then needs
    Triton for. `neighbours.weight` above 0: items that the log's users chose near one another
    re-rank (the table is part of the generation). `features`: what is quantised, the item's text
    alone or fused with what it was chosen with (`models/semantic_ids/item_features.py`; where
    nobody chose two items it is the text).
    """

    preset: str = "tiny"
    encoder: str = BUILTIN
    features: Features = "fused"
    sizes: dict[str, Any] = field(default_factory=dict)
    dropout: float = 0.0
    max_rows: int = 15_000
    codebooks: ResidualKMeansConfig = field(default_factory=ResidualKMeansConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)  # of fused features
    examples: ExampleConfig = field(default_factory=ExampleConfig)
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def generator(self, **of_data: Any) -> GeneratorConfig:
        """Returns the preset with this fit's sizes and what the data say.

        Raises `GeneratorConfigInvalid` for an unknown preset or size.
        """
        if self.preset not in PRESETS:
            wanted = ", ".join(PRESETS)
            raise GeneratorConfigInvalid(field="preset", found=self.preset, wanted=wanted)
        sizes = {**PRESETS[self.preset].to_json(), "dropout": self.dropout, **self.sizes}
        return GeneratorConfig.from_json({**sizes, **of_data})


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What is learnt from: the catalogue, what was done, who did it, and serving's windows."""

    items: Sequence[ItemUpsert]
    actions: Sequence[UserAction]
    windows: ServedWindows
    scenarios: Sequence[str]
    profiles: Mapping[str, UserProfile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProgress:
    """How far one of `STAGES` is."""

    stage: str
    done: int
    total: int
    note: str = ""


class GenerationManifest(Struct, frozen=True, kw_only=True):
    """What a generation was made of. Losses are means of the last tenth of the steps, in nats."""

    generation: int
    created_ms: int
    scenarios: list[str]
    encoder: EncoderRecord
    features: Features = "text"  # what generations were made of before it was said
    dim: int
    preset: str
    seed: int
    items: int
    actions: int
    rows: int
    rows_with_instruction: int
    distinct_semantic_ids: int
    steps: int
    code_ce: float
    item_ce: float
    torch_version: str
    neighbours: NeighboursRecord | None = None


def fit_generation(
    log: Log,
    *,
    home: Path,
    generation: int,
    created_ms: int,
    config: FitConfig | None = None,
    reasoner: LocalReasoner | None = None,
    progress: Callable[[FitProgress], None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
    checkpointing: Checkpointing | None = None,
) -> GenerationManifest:
    """Writes `home/generations/<generation>/` and returns its manifest.

    Under torchrun every process trains and the first one writes. A run that goes on from a
    checkpoint prepares again: that depends on nothing but data and configuration. Raises
    `NothingToLearn` for a log without a choice on a known item, or when it is there already,
    `CheckpointOfAnotherRun`, `ComputeUnavailable`, `GeneratorConfigInvalid`, `TextEncoderUnfit`,
    `EncoderFolderInvalid`.
    """
    config = config or FitConfig()
    config.training.compute()  # what is not to be had is refused before minutes of preparation,
    config.generator()  # and so are an unknown preset or size
    report = progress or (lambda _: None)
    target = home / "generations" / str(generation)
    if target.exists():
        raise NothingToLearn(found=str(target), wanted="a generation not fitted yet")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{generation}-", dir=target.parent))
    try:
        manifest = _Fit(log, config, report, on_step, checkpointing).into(
            draft, generation, created_ms, reasoner
        )
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        (draft / MANIFEST_NAME).write_bytes(text + b"\n")
        draft.chmod(0o755)
        if this_share().rank == 0:
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


class _Fit:
    """The stages of one fit, in order."""

    def __init__(
        self,
        log: Log,
        config: FitConfig,
        report: Callable[[FitProgress], None],
        on_step: Callable[[Progress], None] | None,
        checkpointing: Checkpointing | None,
    ) -> None:
        self._log = log
        self._config = config
        self._report = report
        self._on_step = on_step or (lambda _: None)
        self._checkpointing = checkpointing

    def into(
        self, folder: Path, generation: int, created_ms: int, reasoner: LocalReasoner | None
    ) -> GenerationManifest:
        log, config = self._log, self._config
        kind, encoder = self._encoder()
        encoder.save(folder if kind == BUILTIN else folder / ENCODER_FOLDER)
        embeddings = encoder.encode([item_text(item) for item in log.items])
        assigner = self._assigner(encoder, embeddings)
        assigner.save(folder)
        index = self._index(assigner, embeddings)
        examples = self._examples(reasoner or LocalReasoner())
        tensors = ExampleTensors.build(
            examples.rows, self._encoded(encoder, examples.texts), index, log.scenarios
        )
        generator, last = self._generator(tensors, index, encoder.dim)
        save_generator(folder, generator)
        neighbours = neighbours_of(log.actions, config.neighbours)
        return GenerationManifest(
            generation=generation,
            created_ms=created_ms,
            scenarios=list(log.scenarios),
            encoder=EncoderRecord(kind=kind, encoder_id=encoder.encoder_id),
            features="text" if assigner.features is None else "fused",
            dim=encoder.dim,
            preset=config.preset,
            seed=config.training.seed,
            items=len(log.items),
            actions=len(log.actions),
            rows=len(tensors),
            rows_with_instruction=int((tensors.text_R != NO_TEXT).sum()),
            distinct_semantic_ids=len(index.sids),
            steps=config.training.steps,
            code_ce=float(np.mean([step.code_ce for step in last])),
            item_ce=float(np.mean([step.item_ce for step in last])),
            torch_version=str(torch.__version__),
            neighbours=None if neighbours is None else save_neighbours(folder, neighbours),
        )

    def _encoder(self) -> tuple[str, TextEncoder]:
        """Returns kind and encoder; the built-in one is fitted on titles, categories and queries,
        then frozen.
        """
        if not self._log.items:
            raise NothingToLearn(found="no item", wanted="a catalogue")
        self._tell("text encoder", 0, 1)
        texts = [item_text(item) for item in self._log.items]
        texts += sorted({item.category for item in self._log.items})
        said = Counter(action.query for action in self._log.actions if action.query)
        texts += [query for query, times in said.most_common(MAX_QUERIES) if times > 1]
        kind, encoder = fit_encoder(self._config.encoder, texts, self._config.training.seed)
        of = f"{len(texts)} texts" if kind == BUILTIN else encoder.encoder_id
        self._tell("text encoder", 1, 1, f"{of}, {encoder.dim} dimensions")
        return kind, encoder

    def _encoded(self, encoder: TextEncoder, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return encode_all(
            encoder, texts, lambda done, total: self._tell("instruction texts", done, total)
        )

    def _index(self, assigner: SidAssigner, embeddings: npt.NDArray[np.float32]) -> ItemIndex:
        items, scenarios = self._log.items, self._log.scenarios
        keys = [item_key_of(item.item_id) for item in items]
        shown = [[i.scenarios is None or s in i.scenarios for i in items] for s in scenarios]
        index = ItemIndex.build(
            keys=torch.tensor(keys),
            codes=torch.from_numpy(assigner.assign(keys, embeddings)),
            content=torch.from_numpy(embeddings),
            in_stock=torch.tensor([item.in_stock for item in items]),
            scenarios=torch.tensor(shown),
        )
        note = f"{len(items)} items, {len(index.sids)} semantic IDs"
        self._tell("semantic IDs", 1, 1, note)
        return index

    def _assigner(self, encoder: TextEncoder, embeddings: npt.NDArray[np.float32]) -> SidAssigner:
        log, config = self._log, self._config
        self._tell("semantic IDs", 0, 1)
        aligned = config.codebooks, config.alignment
        if config.features == "fused":
            fused = fused_assigner(log.items, log.actions, encoder, embeddings, *aligned)
            if fused is not None:
                return fused
        return SidAssigner(codebooks=fit_codebooks(embeddings, config.codebooks))

    def _examples(self, reasoner: LocalReasoner) -> Examples:
        self._tell("training rows", 0, 1)
        log, config = self._log, self._config
        replay = InstructionReplay(
            reasoner=reasoner,
            windows=log.windows,
            items=item_rows(log.items),
            profiles=log.profiles,
        )
        rng = Random(config.training.seed)
        examples = ExampleBuilder(replay, config.examples, rng).build(log.actions)
        if len(examples.rows) > config.max_rows:
            examples = examples.sample(config.max_rows, rng)
        if not examples.rows:
            found = f"{len(log.actions)} actions without a choice of an item"
            raise NothingToLearn(found=found, wanted="clicks, carts or orders")
        note = f"{len(examples.rows)} rows, {len(examples.texts)} instructions"
        self._tell("training rows", 1, 1, note)
        return examples

    def _generator(
        self, tensors: ExampleTensors, index: ItemIndex, content_dim: int
    ) -> tuple[Generator, list[Progress]]:
        if len(tensors) == 0:
            raise NothingToLearn(found="choices of unknown items", wanted="items of the catalogue")
        config = self._config
        sizes = config.generator(
            levels=index.depth,
            codes=config.codebooks.codes,
            content_dim=content_dim,
            scenarios=len(self._log.scenarios),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            generator = Generator(sizes)
            steps = train(
                generator, tensors, index, config.training, self._step_done, self._checkpointing
            )
        return generator, steps[-max(1, len(steps) // 10) :]

    def _step_done(self, step: Progress) -> None:
        self._on_step(step)
        note = f"epoch {step.epoch}, loss {step.loss:.2f}"
        self._tell("generator", step.step, step.steps, note)

    def _tell(self, stage: str, done: int, total: int, note: str = "") -> None:
        self._report(FitProgress(stage=stage, done=done, total=total, note=note))
