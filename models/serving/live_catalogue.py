"""The catalogue that a loaded version decodes with, while `semantic-ids` goes on.

One thread decodes, another brings changes. Stock and scenarios change in place, between two batches
(the lock); new items make a larger index beside the one in use, which is then exchanged; what
belongs to a row alone (keys, codes, vectors) is shared by both. A batch holds the lock, so that it
sees one catalogue and is stamped with exactly that offset.

N items, D width.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import torch

from models.decoding.growing_rows import GrowingRows
from models.decoding.index_mirror import IndexMirror
from models.decoding.item_index import UNKNOWN, ItemIndex
from models.generator.generator import Generator
from models.serving.index_file import arrays_of, shown_in
from models.serving.policy_directory import LoadedPolicy
from schemas.catalog import SidAssignment

FP16_BYTES = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """An index, its mirror where the weights are, the item head's vectors of its rows, and how much
    of the log it holds.
    """

    index: ItemIndex
    mirror: IndexMirror
    vectors: GrowingRows
    index_offset: int

    @property
    def vectors_ND(self) -> torch.Tensor:
        """The item head's vectors by row."""
        return self.vectors.rows_N


class LiveCatalogue:
    """Starts as the version's snapshot; `apply` moves it on."""

    def __init__(
        self,
        policy: LoadedPolicy,
        prepare: Callable[[ItemIndex, torch.Tensor], None] = lambda *_: None,
    ) -> None:
        """Takes a loaded version. Its index is changed in place from now on.

        `prepare` is given each larger index and its vectors before anybody decodes with them.
        """
        self._prepare = prepare
        self._generator: Generator = policy.generator
        self._manifest = policy.manifest
        self._lock = Lock()
        with torch.inference_mode():
            mirror = IndexMirror.of(policy.index, policy.generator.device)
            vectors = GrowingRows.of(policy.generator.item_vectors(mirror.index))
        self._now = Catalogue(policy.index, mirror, vectors, policy.manifest.index_offset)

    @contextmanager
    def held(self) -> Iterator[Catalogue]:
        """Gives the catalogue, which stays as it is until the end of the block."""
        with self._lock:
            yield self._now

    def apply(
        self, changes: Sequence[SidAssignment], removed_keys: Sequence[int], index_offset: int
    ) -> None:
        """Takes in what `semantic-ids` says before `index_offset`: the newest change of each item,
        and the keys of items that a tombstone took away.

        A change of another generation is for other weights and left out; so is, with a line in the
        log, one of a shape these weights cannot score; the rest is applied. The SID of a known item
        never moves, whatever a change says. One thread calls this.
        """
        own = [change for change in changes if change.generation == self._manifest.generation]
        newest = {change.item_key: change for change in own if self._fits(change)}
        index = self._now.index
        rows = index.rows_of(torch.tensor(list(newest), dtype=torch.int64)).tolist()
        placed = list(zip(newest.values(), rows, strict=True))
        known = [change for change, row in placed if row != UNKNOWN]
        fresh = [change for change, row in placed if row == UNKNOWN]
        grown = self._grown(fresh) if fresh else self._now
        shown = shown_in(known, self._manifest.scenarios)
        with self._lock:
            grown.index.set_eligible(
                torch.tensor([change.item_key for change in known], dtype=torch.int64),
                torch.tensor([change.in_stock for change in known], dtype=torch.bool),
                shown,
            )
            grown.index.set_eligible(
                torch.tensor(removed_keys, dtype=torch.int64),
                torch.zeros(len(removed_keys), dtype=torch.bool),
            )
            changed = [change.item_key for change in known]
            grown.mirror.follow(torch.tensor([*changed, *removed_keys], dtype=torch.int64))
            self._now = Catalogue(grown.index, grown.mirror, grown.vectors, index_offset)

    def _fits(self, change: SidAssignment) -> bool:
        config = self._generator.config
        fits = (
            len(change.sid) == config.levels
            and all(0 <= code < config.codes for code in change.sid)
            and len(change.embedding) == FP16_BYTES * config.content_dim
        )
        if not fits:
            logger.error(
                "assignment does not fit the generation",
                extra={"item_id": change.item_id, "sid": change.sid},
            )
        return fits

    @torch.inference_mode()
    def _grown(self, fresh: Sequence[SidAssignment]) -> Catalogue:
        """Returns the catalogue with further items; only their vectors are computed."""
        before = self._now
        index = before.index.grown(**arrays_of(fresh, self._manifest.scenarios))
        mirror = before.mirror.grown(index)
        new_X = torch.arange(len(before.index.keys_N), len(index.keys_N), device=mirror.device)
        vectors = before.vectors.appended(self._generator.items(new_X, mirror.index))
        self._prepare(index, vectors.rows_N)
        return Catalogue(index, mirror, vectors, before.index_offset)
