"""Whichever of zerogate and PEFT is imported first, PEFT knows our methods; and zerogate alone imports neither torch "
"nor PEFT."""

import subprocess
import sys

import pytest

METHODS = {"ZERO_INIT", "BOTTLENECK", "BITFIT"}
KNOWN = f"assert {METHODS} <= set(__import__('peft').mapping.PEFT_TYPE_TO_CONFIG_MAPPING)"


@pytest.mark.parametrize(
    "code",
    [
        "import zerogate, peft",
        "import peft, zerogate",
        "import zerogate, importlib.util; importlib.util.find_spec('peft'); import peft",
        "import zerogate; import transformers.utils; transformers.utils.is_peft_available(); import peft",
        "import zerogate; import peft.tuners.lora",
        "import zerogate.adapters",
        "from zerogate import ZeroInitConfig; ZeroInitConfig()",
    ],
)
def test_registered_in_any_order(code: str) -> None:
    _run(f"{code}\n{KNOWN}\nimport peft; assert peft.__spec__.loader is peft.__loader__")


def test_zerogate_alone_is_light() -> None:
    absent = ["torch", "transformers", "peft", "trl", "datasets", "matplotlib", "typer", "rich", "pydantic", "numpy"]
    _run(f"import sys, zerogate\nassert not set({absent}) & set(sys.modules), set({absent}) & set(sys.modules)")


def test_its_adapters_bring_no_training_or_terminal_packages() -> None:
    absent = ["trl", "datasets", "matplotlib", "typer", "rich"]
    _run(
        f"import sys, zerogate.adapters\nassert not set({absent}) & set(sys.modules), set({absent}) & set(sys.modules)"
    )


def test_unknown_public_name() -> None:
    import zerogate

    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        zerogate.nothing_of_this_name  # noqa: B018


def _run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
