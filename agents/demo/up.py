"""`oxygenrec up`: the whole loop on this machine until Ctrl-C or SIGTERM."""

import os
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from agents.artifact_folders import generation_folder
from agents.demo.bring_up import GENERATION, BringUp
from agents.demo.local_stack import environment_of, stack_spec
from agents.demo.preparation import Preparation, origin_of, read_origin
from agents.demo.source import open_source
from agents.demo.traffic import now_ms
from agents.demo.view import DemoView
from agents.exit_codes import ExitCode
from agents.settings import Settings
from agents.text_encoders import generation_encoder
from schemas.errors import OxygenRecError
from streams.local.redis_server import configured_url
from streams.local.stack import LocalStack

TICK_S = 0.5


class OtherOrigin(OxygenRecError):
    """The generation of this folder was trained on something else than what is to be served."""

    exit_code = ExitCode.USAGE

    def __init__(self, *, found: str, wanted: str, folder: Path) -> None:
        self.found = found
        super().__init__(
            f"{folder} was trained on {found}, wanted {wanted}: remove it to train anew,"
            " or set OXYGENREC_HOME to another folder"
        )


def run_up(
    settings: Settings, *, data: Path | None, http_port: int | None, partitions: int
) -> None:
    """Starts everything and supervises it until Ctrl-C, which then ends it in order.

    Raises `DataUnusable` before anything starts, and what the servers and the training raise.
    """
    view = DemoView(Console())
    given = replace(settings, kafka=replace(settings.kafka, partitions=partitions, replication=1))
    seed, until_ms = given.policy.seed, now_ms()
    source = open_source(data, seed, until_ms)
    spec = stack_spec(
        given, report=view.say, http_port=http_port, redis_url=configured_url(os.environ)
    )
    generation, origin = generation_folder(given, GENERATION), origin_of(data, seed)
    found = read_origin(generation)
    if found not in {None, origin}:
        raise OtherOrigin(found=str(found), wanted=origin, folder=generation)
    with LocalStack(spec) as stack:
        stack.watch()
        if generation.is_dir():
            encoder = generation_encoder(generation).name
            view.say(
                f"{generation} (text encoder: {encoder}) is used again; remove it to train anew"
            )
        else:
            view.say(f"no generation below {stack.home}: training one on the {origin}")
        preparation = Preparation(
            home=stack.home,
            data=data,
            seed=seed,
            until_ms=until_ms,
            environment=environment_of(given),
        )
        try:
            with preparation:
                up = BringUp(stack, given, preparation, view)
                up.servers_and_generation()
                up.catalogue(source.items(), source.profiles())
                up.first_version()
            url = stack.addresses.http_url
            view.say(f"ready: {url}/docs; `oxygenrec status`, `oxygenrec down`, or Ctrl-C")
            while True:
                time.sleep(TICK_S)
        except KeyboardInterrupt:
            view.say("stopping everything")
