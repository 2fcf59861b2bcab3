"""Where the built-in pool is."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from taskscout.errors import PoolError


def builtin_folder() -> Path:
    """Folder of the pool that comes with taskscout.

    Raises
    ------
    PoolError
        If the installation lacks it.
    """
    folder = Path(str(files("taskscout.pools") / "data"))
    if not (folder / "pool.json").is_file():
        raise PoolError(
            f"The built-in pool is missing from {folder}.",
            "This installation of taskscout is not whole.",
            "Install it again: pip install --force-reinstall taskscout",
        )
    return folder
