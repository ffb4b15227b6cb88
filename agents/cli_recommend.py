"""`recommend`: one question to the running edge, printed for people or as JSON."""

import json
from pathlib import Path
from typing import Any

import httpx
import typer

from agents.exit_codes import ExitCode
from agents.settings import Settings
from schemas.errors import OxygenRecError
from streams.local.state import read_state

TIMEOUT_S = 5.0  # the deadline is 100 ms; a machine under load may take longer


class EdgeUnreachable(OxygenRecError):
    """No HTTP edge answers at the address of the running stack."""

    exit_code = ExitCode.MISSING

    def __init__(self, *, url: str, cause: str) -> None:
        self.url = url
        super().__init__(
            f"no edge answers at {url} ({cause}): `oxygenrec status` shows what runs,"
            " `oxygenrec logs edge` why not"
        )


class RequestRefused(OxygenRecError):
    """The edge answered, but not with a slate."""

    def __init__(self, *, status: int, body: str) -> None:
        self.status = status
        super().__init__(f"the edge answered {status}: {body}")


def show_recommendation(
    settings: Settings,
    *,
    user: str,
    scenario: str,
    query: str | None,
    num_items: int,
    explain: bool,
    as_json: bool,
) -> None:
    """Prints a slate. Raises `NotRunning`, `EdgeUnreachable` or `RequestRefused`."""
    url = read_state(Path(settings.paths.home)).addresses.http_url
    asked: dict[str, Any] = {"user_id": user, "scenario": scenario, "num_items": num_items}
    if query is not None:
        asked["query"] = query
    if explain:
        asked["explain"] = True
    answer = ask(url, asked)
    typer.echo(json.dumps(answer, indent=2) if as_json else slate_text(answer))


def ask(url: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Posts one request to the edge and returns its answer."""
    try:
        response = httpx.post(f"{url}/v1/recommendations", json=asked, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        raise EdgeUnreachable(url=url, cause=str(error)) from error
    if response.status_code != httpx.codes.OK:
        raise RequestRefused(status=response.status_code, body=response.text[:500])
    answer: dict[str, Any] = response.json()
    return answer


def slate_text(answer: dict[str, Any]) -> str:
    """Returns an answer as lines: the instruction in force, the items, the versions."""
    instruction = answer.get("instruction")
    lines = [f"instruction: {instruction['text']}" if instruction else "instruction: none yet"]
    for place, item in enumerate(answer["items"], 1):
        score = "" if item["score"] is None else f"{item['score']:8.3f}"
        lines.append(f"{place:3}  {item['item_id']:24} {item['semantic_id'] or '':16} {score}")
    lines.append(f"policy {answer['policy_version']}, generation {answer['generation']}")
    if answer.get("degraded"):
        lines.append(f"degraded: {answer['degraded']}")
    if why := answer.get("explanation"):
        lines += ["", *explanation_lines(why)]
    return "\n".join(lines)


def explanation_lines(why: dict[str, Any]) -> list[str]:
    """Returns what the generator was given, and every candidate with its scores and its fate."""
    trigger = why["trigger_item_id"] or "none"
    lines = [f"scenario {why['scenario']}, trigger item {trigger}, {why['excluded']} excluded"]
    lines.append(f"history, {len(why['history'])} actions, oldest first:")
    lines += [
        f"     {read['item_id'] or '?':24} {read['action']:9} {ago(read)}"
        for read in why["history"]
    ]
    lines.append(
        f"candidates of {why['beams']} beams: code log-probs, log P(item | SID), table term, score"
    )
    for place, item in enumerate(why["candidates"], 1):
        codes = " ".join(f"{logprob:7.3f}" for logprob in item["code_logprobs"])
        inside = f"{item['item_logprob']:7.3f} {item['table_term']:7.3f}"
        scores = f"{codes}  {inside} {item['score']:8.3f}"
        name = item["item_id"] or "?"
        lines.append(f"{place:3}  {name:24} {item['semantic_id']:16} {scores}  {item['fate']}")
    return lines


def ago(read: dict[str, Any]) -> str:
    """Returns a time bucket in words."""
    seconds = read["seconds_ago"]
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"
