"""The Lua scripts of `streams/lua/`: one file a script, shipped inside the package."""

from importlib.resources import files


def script(name: str) -> str:
    """Returns the source of `streams/lua/{name}.lua`."""
    return files("streams").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
