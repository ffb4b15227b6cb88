"""The command line: `oxygenrec VERB`. Each verb's `--help` shows lines that run as they stand."""

import contextlib
import importlib.util
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from agents.cli_dead_letters import app as dead_letters
from agents.cli_import import import_file
from agents.cli_report import app as report
from agents.cli_semantic_ids import app as semantic_ids
from agents.cli_train import train
from agents.exit_codes import ExitCode, exit_code_of
from agents.settings import Settings, load_settings
from schemas.errors import OxygenRecError

EXIT_CODES = "Exit codes: " + ", ".join(f"{code.value} {code.name}" for code in ExitCode)

app = typer.Typer(
    name="oxygenrec",
    help="A streaming generative recommender that follows instructions and learns from feedback.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(semantic_ids)

app.add_typer(dead_letters)
app.add_typer(report)
app.command("import")(import_file)
app.command()(train)

DataOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A folder with items.parquet and interactions.parquet."),
]


class PackageShadowed(OxygenRecError):
    """Another distribution owns one of our generic package names."""

    exit_code = ExitCode.MISSING

    def __init__(self, *, package: str, found: str, wanted: Path) -> None:
        self.package = package
        self.found = found
        super().__init__(
            f"package {package} comes from {found}, wanted {wanted}:"
            " uninstall the other distribution or start from a clean environment (`make setup`)"
        )


def main() -> None:
    """Runs the command line and exits: an expected error is one line, never a traceback."""
    try:
        _refuse_intruders()
        app()
    except OxygenRecError as error:
        typer.echo(f"oxygenrec: {error}", err=True)
        sys.exit(exit_code_of(error))


def _refuse_intruders() -> None:
    """Raises `PackageShadowed` when a package below is not the folder beside this one."""
    root = Path(__file__).resolve().parent.parent
    for package in ("schemas", "models", "streams"):
        spec = importlib.util.find_spec(package)
        found = (spec and spec.origin) or "nowhere"
        if Path(found).parent != root / package:
            raise PackageShadowed(package=package, found=found, wanted=root / package)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turns SIGTERM into Ctrl-C, so that what was started is stopped; exits INTERRUPTED."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted: everything that was started is stopped", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _settings() -> Settings:
    """Returns this process's settings, with logging configured by them."""
    from agents.log_lines import configure_logging

    settings = load_settings()
    configure_logging(settings.log)
    return settings


@app.command()
def demo(
    data: DataOption = None,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the summary as JSON.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated shop and its shoppers.")] = 0,
) -> None:
    """Shows the whole loop in minutes.

    Everything it starts is stopped at the end; logs stay in `.oxygenrec/demo`.

    \b
    oxygenrec demo
    oxygenrec demo --summary summary.json
    oxygenrec demo --data ../shared/data/demo
    """
    from agents.demo.demo import run_demo

    with _interruptible():
        run_demo(_settings(), data=data, summary=summary, seed=seed)


@app.command()
def up(
    data: DataOption = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of the HTTP edge; a free one without it.")
    ] = None,
    partitions: Annotated[int, typer.Option(help="Partitions of the topics that scale.")] = 4,
) -> None:
    """Starts Kafka, Redis, Triton and all workers.

    Stays in the foreground until Ctrl-C. Trains a first generation where none is there.

    \b
    oxygenrec up
    oxygenrec up --http-port 8080
    oxygenrec up --data ../shared/data/demo
    """
    from agents.demo.up import run_up

    with _interruptible():
        run_up(_settings(), data=data, http_port=http_port, partitions=partitions)


@app.command()
def down() -> None:
    """Stops what `oxygenrec up` started here.

    \b
    oxygenrec down
    OXYGENREC_HOME=/tmp/shop oxygenrec down
    """
    from agents.cli_stack import stop_stack

    stop_stack(_settings())


@app.command()
def status(
    user: Annotated[
        str | None, typer.Option(metavar="ID", help="When this user's window of now closes.")
    ] = None,
) -> None:
    """Shows one line a process, readiness, and why a window does not close.

    A line a partition: newest event time, how long nothing came, how far the watermark is behind
    (as announced, and as applied), the lag of router, aggregator and writer. Exits 1 where
    something stands in the way. Without a stack here it asks the broker that is set.

    \b
    oxygenrec status
    oxygenrec status --user shopper-00001
    OXYGENREC_KAFKA__BOOTSTRAP=kafka:9092 oxygenrec status
    """
    from agents.cli_stack import show_status

    show_status(_settings(), user)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A process that `status` names.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines.")] = 50,
) -> None:
    """Shows the log of one process.

    \b
    oxygenrec logs router
    oxygenrec logs kafka --lines 200
    oxygenrec logs policy-trainer --follow
    """
    from agents.cli_stack import show_log

    show_log(_settings(), name, follow=follow, lines=lines)


@app.command()
def worker(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which one.")],
) -> None:
    """Runs one worker until SIGTERM.

    NAME is edge, router, window-aggregator, instruction-writer, catalog-indexer, reward-joiner
    or policy-trainer. `oxygenrec up` runs them all.

    \b
    oxygenrec worker router
    OXYGENREC_KAFKA__BOOTSTRAP=kafka:9092 oxygenrec worker window-aggregator
    """
    from agents.workers import run_worker

    run_worker(name, _settings())


@app.command()
def recommend(
    user: Annotated[str, typer.Option(help="User id.")],
    scenario: Annotated[str, typer.Option(help="home, search or detail.")] = "home",
    query: Annotated[str | None, typer.Option(help="What the user searches for now.")] = None,
    num_items: Annotated[int, typer.Option(min=1, help="Length of the slate.")] = 10,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="History, candidates, scores, each item's fate."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as it came.")] = False,
) -> None:
    """Asks the running edge for one slate.

    \b
    oxygenrec recommend --user shopper-00001
    oxygenrec recommend --user shopper-00001 --scenario search --query "keep dry walking"
    oxygenrec recommend --user shopper-00001 --explain
    oxygenrec recommend --user shopper-00001 --num-items 5 --json
    """
    from agents.cli_recommend import show_recommendation

    show_recommendation(
        _settings(),
        user=user,
        scenario=scenario,
        query=query,
        num_items=num_items,
        explain=explain,
        as_json=as_json,
    )


@app.command()
def probe(
    deadline_ms: Annotated[
        int, typer.Option(min=1, help="How long one canary request may take.")
    ] = 5_000,
    heal: Annotated[
        bool, typer.Option("--heal", help="Unload and load the model where it does not decode.")
    ] = False,
) -> None:
    """Decodes one canary request with every loaded version: Triton's "ready" does not say so much.

    Exit code 0: each of them answered. For a liveness probe.

    \b
    oxygenrec probe
    OXYGENREC_TRITON__GRPC_URL=127.0.0.1:8001 oxygenrec probe --deadline-ms 2000
    oxygenrec probe --heal
    """
    from agents.cli_probe import show_probe

    show_probe(_settings(), deadline_ms=deadline_ms, heal=heal)


@app.command()
def restore(
    force: Annotated[
        bool, typer.Option("--force", help="Replay also where nothing seems to be missing.")
    ] = False,
) -> None:
    """Rebuilds a Redis that came back empty: profiles, items, history, instructions.

    Writers wait from the loss until it is done. Without a loss it changes nothing.

    \b
    oxygenrec restore
    OXYGENREC_REDIS__URL=redis://cache:6379/0 oxygenrec restore --force
    """
    from agents.cli_restore import show_restore

    with _interruptible():
        show_restore(_settings(), force=force)


@app.command()
def refresh(
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin at the first user, not where a run was cut.")
    ] = False,
) -> None:
    """Asks for a new instruction for every active user: once a day, from a scheduler.

    Real triggers go first, always. A run that was cut goes on where it was.

    \b
    oxygenrec refresh
    OXYGENREC_REFRESH__USERS_PER_SECOND=20 oxygenrec refresh
    oxygenrec refresh --restart
    """
    from agents.cli_refresh import show_refresh

    with _interruptible():
        show_refresh(_settings(), restart=restart)


@app.command()
def config() -> None:
    """Prints the settings in force, secrets masked.

    \b
    oxygenrec config
    OXYGENREC_WINDOWS__WINDOW_MS=5000 oxygenrec config
    OXYGENREC_CONFIG=settings.toml oxygenrec config
    """
    import json

    from agents.settings import masked

    typer.echo(json.dumps(masked(load_settings()), indent=2))


if __name__ == "__main__":
    main()
