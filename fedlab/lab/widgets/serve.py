"""The dashboard in a browser, for this computer only: ``python -m fedlab dashboard``.

Voila by itself starts a kernel for anyone who asks, under any host name, and its page loads icons
from elsewhere.
"""

from __future__ import annotations

import sys
import threading
import webbrowser
from pathlib import Path

from traitlets.config import Config
from voila.app import Voila

from fedlab.lab.course.curriculum import ROOT

# Voila writes scripts and styles into its page, and JupyterLab compiles scripts: both must stay
# allowed.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"

IDLE = 600  # seconds until a kernel ends whose page is gone


class Server(Voila):
    """Voila with a token, for this computer's names only; its page loads nothing from elsewhere."""

    def load_config_file(self, *arguments, **options) -> None:
        """Set the options that differ from voila's; files and the command line win over them."""
        config = Config()
        config.Voila.auto_token = True
        config.Voila.tornado_settings = {
            # Otherwise a page elsewhere could give this address a name of its own.
            "allow_remote_access": False,
            "headers": {"Content-Security-Policy": POLICY},
        }
        config.VoilaConfiguration.theme = "light"
        config.MappingKernelManager.cull_idle_timeout = IDLE
        config.MappingKernelManager.cull_interval = 60
        self.update_config(config)
        super().load_config_file(*arguments, **options)

    def launch_browser(self) -> None:
        """Open the page with its token, which a file keeps out of the list of processes."""
        url = f"{self.connection_url}?token={self.identity_provider.token}"
        page = Path(self.connection_dir) / "open.html"
        page.write_text(f'<meta http-equiv="refresh" content="0; url={url}">', encoding="utf-8")
        threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    """Serve the dashboard until interrupted.

    Args:
        arguments: Options of voila. Default: those of the command line.
    """
    options = sys.argv[1:] if arguments is None else arguments
    Server.launch_instance([*options, str(ROOT / "notebooks" / "dashboard.ipynb")])


if __name__ == "__main__":
    main()
