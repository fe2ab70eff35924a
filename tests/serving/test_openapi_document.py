"""schemathesis against the server's own OpenAPI document: whatever fits it, and whatever does not, gets what it says.

The command of `docs/serve.md`, shorter: its coverage phase takes a minute.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from live_server import Live

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "negative_data_rejection,unsupported_method"
)


def test_the_document_holds(live: Live, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "schemathesis"
    # Its own list of refusals lacks 413: some of its bodies are larger than the server takes.
    refusals = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
    (tmp_path / "schemathesis.toml").write_text(f"[checks.negative_data_rejection]\nexpected-statuses = {refusals}\n")
    done = subprocess.run(
        [str(program), "run", f"{live.url}/openapi.json", "--max-examples", "20", "--checks", CHECKS, "--phases",
         "examples,fuzzing", "--seed", "1", "--generation-database", "none", "--request-timeout", "30"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
