"""The page on a fake worker, as a program: `python -m tests.browser.fake_app PORT OUTPUTS`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.ui.fake_worker import FakeWorker


def main() -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from ui.build import build

    port, outputs = int(sys.argv[1]), Path(sys.argv[2])
    build(FakeWorker(), outputs).launch(
        server_name="127.0.0.1", server_port=port, root_path=os.environ.get("ROOT_PATH")
    )


if __name__ == "__main__":
    main()
