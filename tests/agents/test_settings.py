"""Settings: one table, read once; what is wrong is named, with the nearest right key."""

from pathlib import Path

import pytest

from agents.attribution import Attribution
from agents.high_value import HighValuePolicy
from agents.settings import InvalidSetting, Settings, UnknownSetting, load_settings, masked
from schemas.actions import ActionType


def test_the_environment_overrides_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "oxygenrec.toml"
    file.write_text("[windows]\nwindow_ms = 60000\ngrace_ms = 500\n")
    settings = load_settings(
        {"OXYGENREC_CONFIG": str(file), "OXYGENREC_WINDOWS__WINDOW_MS": "5000"}
    )
    assert settings.windows.window_ms == 5_000
    assert settings.windows.grace_ms == 500
    assert settings.windows.stagger is Settings().windows.stagger


def test_lists_and_flags_come_from_plain_text() -> None:
    settings = load_settings(
        {
            "OXYGENREC_ROUTER__HIGH_VALUE": "order, search",
            "OXYGENREC_WINDOWS__STAGGER": "false",
        }
    )
    assert settings.router.high_value == (ActionType.ORDER, ActionType.SEARCH)
    assert settings.windows.stagger is False


def test_a_policy_a_scenario_comes_from_a_table_or_from_json(tmp_path: Path) -> None:
    file = tmp_path / "oxygenrec.toml"
    file.write_text('[router.by_scenario.search]\nactions = ["order"]\nclicks = 3\n')
    wanted = {"search": HighValuePolicy(actions=(ActionType.ORDER,), clicks=3)}
    assert load_settings({"OXYGENREC_CONFIG": str(file)}).router.by_scenario == wanted
    text = '{"search": {"actions": ["order"], "clicks": 3}}'
    assert load_settings({"OXYGENREC_ROUTER__BY_SCENARIO": text}).router.by_scenario == wanted


def test_attribution_has_a_row_a_scenario_too() -> None:
    text = '{"search": {"window_ms": 60000, "mode": "direct"}}'
    rewards = load_settings({"OXYGENREC_REWARDS__BY_SCENARIO": text}).rewards
    assert rewards.by_scenario == {"search": Attribution(window_ms=60_000, mode="direct")}
    with pytest.raises(InvalidSetting, match="found scenario moon"):
        load_settings({"OXYGENREC_REWARDS__BY_SCENARIO": '{"moon": {}}'})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"moon": {}}', "found scenario moon, wanted one of home, search, detail"),
        ('{"home": {"click": 3}}', r"did you mean router\.by_scenario\.home\.clicks\?"),
        ('{"home": {"clicks": -1}}', r"router\.by_scenario"),
        ('{"home": 3}', r"router\.by_scenario"),
        ("{home", r"router\.by_scenario"),
    ],
)
def test_a_wrong_row_of_a_scenario_is_named(text: str, said: str) -> None:
    with pytest.raises((InvalidSetting, UnknownSetting), match=said):
        load_settings({"OXYGENREC_ROUTER__BY_SCENARIO": text})


def test_an_unknown_key_names_the_nearest_valid_one() -> None:
    with pytest.raises(UnknownSetting, match=r"did you mean windows\.window_ms\?"):
        load_settings({"OXYGENREC_WINDOWS__WINDOW": "5000"})


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("OXYGENREC_WINDOWS__WINDOW_MS", "five", "windows.window_ms"),
        ("OXYGENREC_ROUTER__CLOCK", "lunar", "router.clock"),
        ("OXYGENREC_ROUTER__HIGH_VALUE", "stare", "router.high_value"),
    ],
)
def test_a_wrong_value_names_its_key(name: str, value: str, key: str) -> None:
    with pytest.raises(InvalidSetting, match=key):
        load_settings({name: value})


@pytest.mark.parametrize("content", [None, "[windows", "\udcff"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "broken.toml"
    if content is not None:
        file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InvalidSetting, match=r"broken\.toml"):
        load_settings({"OXYGENREC_CONFIG": str(file)})


def test_passwords_and_keys_are_hidden_when_settings_are_shown() -> None:
    settings = load_settings(
        {
            "OXYGENREC_REDIS__URL": "redis://user:secret@cache:6379/0",
            "OXYGENREC_CHAT__API_KEY": "secret-key",
        }
    )
    shown = str(masked(settings))
    assert "secret" not in shown
    assert "cache:6379" in shown
