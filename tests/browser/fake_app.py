"""The page on a fake worker, as a program: `python -m tests.browser.fake_app PORT OUTPUTS`."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from tests.ui.fake_worker import FakeWorker


def own_hub(folder: Path) -> None:
    """A small LongCat-Video on a Hugging Face of our own, with a licence to accept."""
    from huggingface_hub import constants

    from backends.hub import artifacts
    from backends.hub.artifacts import Artifact, File, Source
    from backends.longcat import spec
    from tests.backends.hub.fake_hub import COMMIT, FakeHub

    data = b"weights" * 300_000
    hub = FakeHub()
    hub.files = {("owner/model", "model.bin"): data}
    constants.ENDPOINT, constants.HF_HUB_CACHE = hub.endpoint, str(folder / "hub")
    file = File("model.bin", len(data), hashlib.sha256(data).hexdigest())
    source = Source(repo="owner/model", revision=COMMIT, files=(file,), path="model.bin")
    owned = Artifact(
        id="owned", title="Owned", purpose="Is tested.", license="Not for sale.", needs_acceptance=True,
        source=source,
    )  # fmt: skip
    spec.ARTIFACTS = (owned,)
    spec.missing = lambda: artifacts.missing((owned,), "a GPU", "longcat")


def main() -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from tests.browser import panel
    from ui import page
    from ui.components.base import styles
    from ui.runs import panels

    panels.PANELS.append(panel.ROW)
    page.CSS += styles(panel.FOLDER)
    own_hub(Path(sys.argv[2]).parent)
    port, outputs = int(sys.argv[1]), Path(sys.argv[2])
    page.build(FakeWorker(), outputs).launch(
        server_name="127.0.0.1", server_port=port, root_path=os.environ.get("ROOT_PATH")
    )


if __name__ == "__main__":
    main()
