"""`oxygenrec dead-letters list|show|replay`: what was refused, why, and how it comes back."""

import asyncio
from typing import Annotated

import typer

from agents.exit_codes import ExitCode
from schemas.dead_letters import Reason

LIST_LIMIT = 20
REPLAY_LIMIT = 1_000

app = typer.Typer(
    name="dead-letters",
    help="Shows what was refused and why, and replays it, mended if need be.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Reasons = Annotated[list[Reason] | None, typer.Option("--reason", help="Only this reason.")]
Topics = Annotated[list[str] | None, typer.Option("--topic", help="Only from this topic.")]
Since = Annotated[str | None, typer.Option(help="From here on: 2h, 7d or 2026-01-31T08:00.")]
Until = Annotated[str | None, typer.Option(help="Before: 30m or 2026-01-31T08:00 (UTC).")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many letters.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a letter, in full.")]


@app.command("list")
def list_letters(
    reason: Reasons = None,
    topic: Topics = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = LIST_LIMIT,
    as_json: AsJson = False,
) -> None:
    """Lists the newest letters, one line each.

    \b
    oxygenrec dead-letters list
    oxygenrec dead-letters list --reason wrong_type --topic actions --since 2h
    oxygenrec dead-letters list --limit 1000 --json
    """
    from agents import dead_letter_desk as desk

    wanted = desk.wanted(reason, topic, since, until)
    letters = asyncio.run(desk.Desk.open().newest(wanted, limit))
    for kept in letters:
        typer.echo(desk.as_json(kept) if as_json else desk.line(kept))
    if not as_json:
        more = "; --limit shows more" if len(letters) == limit else ""
        typer.echo(f"{len(letters)} letters, newest last{more}")


@app.command()
def show(
    offset: Annotated[int, typer.Argument(min=0, help="The number that `list` begins with.")],
    as_json: AsJson = False,
) -> None:
    """Shows one letter in full: why, where from, the bytes, and whether it was replayed.

    \b
    oxygenrec dead-letters show 17
    oxygenrec dead-letters show 17 --json
    """
    from agents import dead_letter_desk as desk

    [kept] = asyncio.run(desk.Desk.open().chosen(desk.wanted(offsets=[offset]), 1))
    typer.echo(desk.as_json(kept) if as_json else desk.text(kept))


@app.command()
def replay(
    offsets: Annotated[list[int] | None, typer.Argument(metavar="[OFFSET]...")] = None,
    reason: Reasons = None,
    topic: Topics = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = REPLAY_LIMIT,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field first (a.b: b in a)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge only, send nothing.")] = False,
) -> None:
    """Sends letters back to the topic they came from, with their key; the oldest first.

    Each record is judged again before it is sent; a letter that was replayed is passed over.
    VALUE is JSON, or else text. Exits 1 when a letter would be refused again.

    \b
    oxygenrec dead-letters replay --reason failed --dry-run
    oxygenrec dead-letters replay 17 18 --set price=9.5
    oxygenrec dead-letters replay --topic actions --reason unknown_scenario --set scenario=home
    """
    from agents import dead_letter_desk as desk

    wanted = desk.wanted(reason, topic, since, until, offsets)
    desk.refuse_all(wanted)
    opened = desk.Desk.open()
    letters = asyncio.run(opened.chosen(wanted, limit))
    report = opened.replay(letters, desk.changes_in(changes), say=typer.echo, dry_run=dry_run)
    typer.echo(report.summary(dry_run=dry_run))
    if report.refused:
        raise typer.Exit(ExitCode.FAILED)
