"""The edge's routes of one user: what is known, what is said about them, and their erasure."""

from litestar import delete, get, patch, put
from litestar.params import FromPath
from msgspec import Struct

from agents.edge.edge import wall_clock_ms
from agents.edge.http_routes import Asked, edge_of
from agents.edge.profile_api import ErasureAnswer
from agents.edge.recommendation_api import InstructionShown
from schemas.behaviour import Behaviour
from schemas.instructions import ReasoningInstruction
from schemas.users import UserProfile

RECENT_SHOWN = 50


class UserAnswer(Struct, frozen=True, kw_only=True):
    """What is known about a user now; newest behaviour last."""

    user_id: str
    profile: UserProfile | None
    instruction: InstructionShown | None
    recent: list[Behaviour]


@get("/v1/users/{user_id:str}")
async def get_user(request: Asked, user_id: FromPath[str]) -> UserAnswer:
    """Shows a user's profile, the instruction in force, and the newest behaviour."""
    edge = edge_of(request)
    policy = edge.policy()
    stored = await edge.instructions.read(policy.generation, user_id) if policy else None
    return UserAnswer(
        user_id=user_id,
        profile=await edge.profiles.profile(user_id),
        instruction=_shown(stored),
        recent=await edge.history.recent(user_id, RECENT_SHOWN),
    )


@put("/v1/users/{user_id:str}", status_code=202)
async def put_user(request: Asked, user_id: FromPath[str]) -> UserProfile:
    """Replaces a user's profile, and answers with it as it was written.

    202: acknowledged by Kafka; the next instruction knows it. 400 names field, found and wanted.
    503: not acknowledged, send it again.
    """
    return await edge_of(request).profile_intake.put(user_id, await request.body())


@patch("/v1/users/{user_id:str}", status_code=202)
async def patch_user(request: Asked, user_id: FromPath[str]) -> UserProfile:
    """Changes a user's profile (JSON merge patch), and answers with the whole of it.

    What is left out stays, null takes away, attributes merge name by name. Codes as for PUT.
    """
    return await edge_of(request).profile_intake.patch(user_id, await request.body())


@delete("/v1/users/{user_id:str}", status_code=202)
async def delete_user(request: Asked, user_id: FromPath[str]) -> ErasureAnswer:
    """Erases a user, known or not: history, profile, instruction, and what they did until now.

    202: acknowledged by Kafka and applied in Redis. 503: send it again, a repeat changes nothing.
    Raw topics forget by retention, published weights are not unlearned.
    """
    return await edge_of(request).profile_intake.erase(user_id)


def _shown(stored: ReasoningInstruction | None) -> InstructionShown | None:
    if stored is None:
        return None
    age_ms = max(0, wall_clock_ms() - stored.as_of_ms)
    return InstructionShown(id=stored.instruction_id, text=stored.text, age_ms=age_ms)


USER_ROUTES = (get_user, put_user, patch_user, delete_user)
