"""Semantic IDs of a generation whose item features hold behaviour: text, aligned with who chose
what with what and by which words, and the co-occurrence itself (ALGORITHMS 1.1). From training
actions alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from models.semantic_ids.alignment import AlignmentConfig, NothingToAlign
from models.semantic_ids.cooccurrence import Behaviour, count_pairs, count_queries
from models.semantic_ids.encoders import TextEncoder
from models.semantic_ids.fit import SemanticIdsConfig, fit_features
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig, fit_codebooks
from models.semantic_ids.sid_assigner import SidAssigner
from models.training.examples import chooses
from models.training.instructions import behaviour_of
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert, item_key_of

SEARCH_MS = 1_800_000  # what is chosen later was not found by those words
MAX_QUERIES = 10_000  # the most frequent: each is encoded, all-MiniLM-L6-v2 takes 130 a second


def fused_assigner(
    items: Sequence[ItemUpsert],
    actions: Sequence[UserAction],
    encoder: TextEncoder,
    texts: npt.NDArray[np.float32],
    codebooks: ResidualKMeansConfig,
    alignment: AlignmentConfig,
) -> SidAssigner | None:
    """Returns what assigns `items`, whose texts are encoded as `texts` [n, T], and later ones.

    None where nobody chose two items near one another, or one after a search: there is nothing to
    align texts with.
    """
    config = SemanticIdsConfig(codebooks=codebooks, alignment=alignment)
    behaviour = behaviour_of_log(items, actions, config.cooccurrence.window)
    try:
        features, rows = fit_features(texts, None, behaviour, encoder, config, lambda *_: None)
    except NothingToAlign:
        return None
    fitted = fit_codebooks(rows, codebooks)
    keys = np.array([item_key_of(item.item_id) for item in items])
    return SidAssigner.of_fit(fitted, features, keys, fitted.assign(rows))


def behaviour_of_log(
    items: Sequence[ItemUpsert], actions: Sequence[UserAction], window: int
) -> Behaviour | None:
    """Returns the counts by row of `items`; None where nobody chose anything.

    `actions` may come in any order. A choice belongs to its user's last search, if that is no older
    than half an hour. Choices of unknown items are left out.
    """
    row_of = {item_key_of(item.item_id): row for row, item in enumerate(items)}
    users: list[int] = []
    rows: list[int] = []
    found: list[tuple[int, str]] = []
    number_of: dict[str, int] = {}
    said: dict[str, UserAction] = {}
    for action in sorted(actions, key=lambda a: (a.user_id, a.event_time_ms, a.event_id)):
        if action.action is ActionType.SEARCH and action.query:
            said[action.user_id] = action
        behaviour = behaviour_of(action)
        row = row_of.get(behaviour.item_key or -1)
        if row is None or not chooses(behaviour):
            continue
        users.append(number_of.setdefault(action.user_id, len(number_of)))
        rows.append(row)
        search = said.get(action.user_id)
        if search is not None and action.event_time_ms - search.event_time_ms <= SEARCH_MS:
            found.append((row, search.query or ""))
    if not rows:
        return None
    often = Counter(query for _, query in found).most_common(MAX_QUERIES)
    queries = {query: number for number, (query, _) in enumerate(often)}
    found = [(row, query) for row, query in found if query in queries]
    return Behaviour(
        pairs=count_pairs(np.array(users), np.array(rows), len(items), window),
        queries=_queries(found, queries, len(items)),
        query_texts=list(queries),
        interactions=len(rows),
    )


def _queries(
    found: Sequence[tuple[int, str]], queries: Mapping[str, int], items: int
) -> csr_matrix | None:
    if not found:
        return None
    rows = np.array([row for row, _ in found])
    asked = np.array([queries[query] for _, query in found])
    return count_queries(rows, asked, (items, len(queries)))
