"""Every setting and its default in one table, read once from the environment and one TOML file.

`OXYGENREC_<SECTION>__<FIELD>` (for example `OXYGENREC_WINDOWS__WINDOW_MS=5000`) overrides the TOML
file named by `OXYGENREC_CONFIG`, which overrides the defaults below. Classes that need only their
part get only their part.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from agents.attribution import Attribution, Mode
from agents.high_value import DEFAULT_ACTIONS, HighValuePolicy, HighValueTable
from agents.log_lines import LogConfig
from models.policy.config import PolicyConfig
from models.reasoning.brief import BriefConfig
from schemas.actions import ActionType
from schemas.errors import OxygenRecError
from streams.connections import ChatConfig, KafkaConfig, RedisConfig, TritonConfig
from streams.watermarks import Clock
from streams.windows import WindowConfig

PREFIX = "OXYGENREC_"
RESERVED = {"OXYGENREC_CONFIG", "OXYGENREC_DATA", "OXYGENREC_HOME", "OXYGENREC_CACHE"}
SECRET_FIELDS = frozenset({"url", "api_key"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """The edge. It answers within `deadline_ms` = Redis 10 + Triton 70 + rest.

    The words of a search take up to `query_ms` of Triton's share where its encoder embeds them.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    deadline_ms: int = 100
    query_ms: int = 25
    # How long POST /v1/actions waits for Kafka's acks before it answers 503
    acknowledge_ms: int = 5_000
    max_actions: int = 1_000
    max_body_bytes: int = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """What a recommendation is made of."""

    scenarios: tuple[str, ...] = ("home", "search", "detail")
    beams: int = 50
    num_items: int = 10
    recent: int = 20
    exploration_share: float = 0.02
    exploration_temperature: float = 1.0
    # Whether a generator replica keeps its item index current from Kafka; False: its snapshot only
    follow_catalog: bool = True
    # Whether versions are published with a compiled decoding: g++ and a minute (decisions/0025)
    compiled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """The fire-hose."""

    batch: int = 2_000
    history_length: int = 200
    remembered_events: int = 1_000_000
    watermark_ms: int = 1_000  # a watermark at least this often
    # How far a live clock's watermark stays behind now when a partition is read out
    live_lag_ms: int = 2_000
    clock: Clock = "live"  # or "event" in a replay: no wall clock is used
    high_value: tuple[ActionType, ...] = DEFAULT_ACTIONS
    high_value_clicks: Annotated[int, msgspec.Meta(ge=0)] = 0  # the n-th on one item; 0: none
    # Scenarios with a policy of their own, whole: `[router.by_scenario.search]` in TOML, JSON in
    # the environment
    by_scenario: dict[str, HighValuePolicy] = field(default_factory=dict)

    @property
    def high_value_table(self) -> HighValueTable:
        """Which actions are high-value, of every scenario."""
        default = HighValuePolicy(actions=self.high_value, clicks=self.high_value_clicks)
        return HighValueTable(default, self.by_scenario)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionConfig:
    """The slow path."""

    in_flight: int = 64
    queued: int = 1_024  # read and waiting: a newer trigger of a user replaces an older one here
    reasoner: Literal["local", "chat"] = "local"  # chat: a language model, see `chat` and `brief`
    # A window that ended longer ago (a backlog, a replay) waits for no model. More than the grace.
    model_within_ms: int = 60_000
    expires_ms: int = 36 * 3_600_000  # stale after 36 h: the learnable default serves


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """The reward joiner: how long an impression waits for what the user does about it."""

    attribution_ms: int = 1_800_000
    attribution: Mode = "inferred"  # or "direct": only actions that carry the request id
    # Scenarios with an attribution of their own, whole: `[rewards.by_scenario.search]` in TOML
    by_scenario: dict[str, Attribution] = field(default_factory=dict)
    live_lag_ms: int = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshConfig:
    """The daily full refresh of instructions (`oxygenrec refresh`)."""

    # 350k users in an hour. A writer that is slower (32 calls of a model at once) catches up later:
    # refreshes rest for a day
    users_per_second: Annotated[int, msgspec.Meta(ge=1)] = 100
    active_within_ms: int = 7 * 86_400_000  # who did nothing for longer is left in peace
    page: Annotated[int, msgspec.Meta(ge=1)] = 500  # keys of Redis in one step, repeated by a crash


@dataclass(frozen=True, slots=True, kw_only=True)
class PathsConfig:
    """Where artifacts rest: generations/, model_repository/, checkpoints/ below `home`."""

    home: str = ".oxygenrec"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineConfig:
    """The offline training that `up` and `demo` begin with: a budget of steps, about 0.1 s each."""

    steps: int = 240
    # builtin; minilm (`make setup-minilm`) or a folder of its shape: these run in Triton
    encoder: str = "builtin"
    # What semantic IDs are made of: text fused with what was chosen together, or text alone
    features: Literal["text", "fused"] = "fused"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where a worker answers `GET /metrics`; 0: nowhere. The edge answers on its own port."""

    host: str = "127.0.0.1"
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole table."""

    paths: PathsConfig = field(default_factory=PathsConfig)
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    redis: RedisConfig = field(default_factory=RedisConfig)
    triton: TritonConfig = field(default_factory=TritonConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    instructions: InstructionConfig = field(default_factory=InstructionConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    brief: BriefConfig = field(default_factory=BriefConfig)
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)


class UnknownSetting(OxygenRecError):
    """A key that no section has; the message names the nearest valid one."""

    def __init__(self, *, key: str, source: str, known: list[str]) -> None:
        self.key = key
        self.nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        super().__init__(f"{source}: unknown setting {key}; did you mean {self.nearest}?")


class InvalidSetting(OxygenRecError):
    """A known key with a value of the wrong type."""

    def __init__(self, *, key: str, source: str, detail: str) -> None:
        self.key = key
        super().__init__(f"{source}: setting {key}: {detail}")


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Returns the settings of this process.

    Raises `UnknownSetting` or `InvalidSetting`, naming the key.
    """
    given = os.environ if environment is None else environment
    values: dict[str, tuple[Any, str]] = {}
    if path := given.get("OXYGENREC_CONFIG"):
        values |= _from_toml(Path(path))
    for name, text in given.items():
        if name.startswith(PREFIX) and name not in RESERVED:
            key = name.removeprefix(PREFIX).lower().replace("__", ".")
            values[key] = (text, f"environment variable {name}")
    if (home := given.get("OXYGENREC_HOME")) and "paths.home" not in values:
        values["paths.home"] = (home, "environment variable OXYGENREC_HOME")
    return _build(values)


def masked(settings: Settings) -> dict[str, Any]:
    """Returns the settings as nested dictionaries, with passwords inside addresses hidden."""
    table = asdict(settings)
    for section in table.values():
        for name in SECRET_FIELDS & section.keys():
            section[name] = _hidden(name, section[name])
    return table


def _hidden(name: str, value: str) -> str:
    if name != "url":
        return "***" if value else ""
    scheme, at, host = value.rpartition("@")
    return f"{scheme.split('//')[0]}//***@{host}" if at else value


def _from_toml(path: Path) -> dict[str, tuple[Any, str]]:
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # missing, not UTF-8, or not TOML
        source = "environment variable OXYGENREC_CONFIG"
        raise InvalidSetting(key=str(path), source=source, detail=str(error)) from error
    flat: dict[str, tuple[Any, str]] = {}
    for section, body in table.items():
        if not isinstance(body, dict):
            raise UnknownSetting(key=section, source=str(path), known=_known_keys())
        flat |= {f"{section}.{name}": (value, str(path)) for name, value in body.items()}
    return flat


def _known_keys() -> list[str]:
    defaults = asdict(Settings())
    return [f"{section}.{name}" for section, body in defaults.items() for name in body]


def _build(values: dict[str, tuple[Any, str]]) -> Settings:
    known = _known_keys()
    bodies: dict[str, dict[str, Any]] = {f.name: {} for f in fields(Settings)}
    sections = {f.name: f.type for f in fields(Settings)}
    for key, (value, source) in values.items():
        if key not in known:
            raise UnknownSetting(key=key, source=source, known=known)
        section, _, name = key.partition(".")
        wanted = {f.name: f.type for f in fields(sections[section])}[name]  # type: ignore[arg-type]
        bodies[section][name] = _convert(key, value, source, wanted)
    built = Settings(**{s: sections[s](**body) for s, body in bodies.items()})  # type: ignore[operator]
    _check_scenarios(built, values)
    return built


def _convert(key: str, value: Any, source: str, wanted: Any) -> Any:
    strict = not isinstance(value, str)
    origin = getattr(wanted, "__origin__", None)
    try:
        if isinstance(value, str) and origin is tuple:
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif isinstance(value, str) and origin is dict:
            value = msgspec.json.decode(value)
        if origin is dict:
            _check_rows(key, value, source, wanted.__args__[1])
        return msgspec.convert(value, wanted, strict=strict)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InvalidSetting(key=key, source=source, detail=str(error)) from error


def _check_rows(key: str, table: Any, source: str, row: Any) -> None:
    """Raises `UnknownSetting` for a field that the rows of a table do not have."""
    known = [f.name for f in fields(row)]
    for name, body in table.items() if isinstance(table, dict) else ():
        for unknown in body.keys() - set(known) if isinstance(body, dict) else ():
            raise UnknownSetting(
                key=f"{key}.{name}.{unknown}",
                source=source,
                known=[f"{key}.{name}.{one}" for one in known],
            )


def _check_scenarios(settings: Settings, values: dict[str, tuple[Any, str]]) -> None:
    """Raises `InvalidSetting` for a row of a scenario that is not served: it would never count."""
    served = settings.serving.scenarios
    tables = (
        ("router", settings.router.by_scenario.keys()),
        ("rewards", settings.rewards.by_scenario.keys()),
    )
    for section, named in tables:
        for unknown in sorted(named - set(served)):
            key = f"{section}.by_scenario"
            detail = f"found scenario {unknown}, wanted one of {', '.join(served)}"
            raise InvalidSetting(key=key, source=values[key][1], detail=detail)
