"""`workbench app`: open the dashboard. Imports nothing heavy, so that `--help` is quick."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from workbench.cli.command import Command
from workbench.errors import SettingError

app = Command(summary="Open the dashboard in a browser.", options="app.cli:AppOptions", run="app.cli:run")


@dataclass(frozen=True)
class AppOptions:
    """Open the dashboard on a model and its sparse autoencoders. It answers on this machine only."""

    model: str = "tinytown"
    """The bundled model, a local Hugging Face directory, or a hub id."""
    sae: tuple[Path, ...] = field(default=())
    """Directories of SAEs for this model. For the bundled model, those shipped with it are open already."""
    port: int = 8050
    """Port on 127.0.0.1."""
    open: bool = True
    """Open the page in the default browser."""


def run(options: AppOptions) -> None:
    """Serve until interrupted. The page answers at once; the model loads behind it."""
    if not 1 <= options.port <= 65535:
        raise SettingError(f"port is {options.port}; it must be between 1 and 65535")
    for directory in options.sae:
        if not (directory / "cfg.json").is_file():
            raise SettingError(f"--sae {directory} is not the directory of an SAE: it has no cfg.json")
    from app.server import HOST, create_app, serve
    from app.session import Session

    session = Session(options.model, [*bundled_saes(options.model), *options.sae])
    session.start()
    address = f"http://{HOST}:{options.port}"
    print(f"Interp Workbench: {address}   (Ctrl+C stops it)", flush=True)
    if options.open:
        _open_browser(address)
    serve(create_app(session), options.port)


def bundled_saes(model: str) -> list[Path]:
    """The SAEs that come with the bundled model."""
    from workbench.tinytown import SAE_DIR

    if model != "tinytown" or not SAE_DIR.is_dir():
        return []
    return sorted(path for path in SAE_DIR.iterdir() if (path / "cfg.json").is_file())


def _open_browser(address: str) -> None:
    """Open the page, a moment from now, once the server listens; nothing on a machine without a display."""
    import threading
    import webbrowser

    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return

    timer = threading.Timer(1.0, webbrowser.open, [address])
    timer.daemon = True
    timer.start()
