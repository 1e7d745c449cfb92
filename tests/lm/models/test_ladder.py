import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import lm


def test_looking_at_lm_its_ladder_and_its_errors_does_not_import_torch() -> None:
    code = "import sys, lm, lm.errors, lm.models, lm.run; assert 'torch' not in sys.modules; print(*lm.models.LADDER)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "bigram mlp batchnorm wavenet dilated bow rnn gru attention gpt2 modern\n"


def test_every_module_on_the_map_is_there_and_described() -> None:
    for name in lm.__all__:  # read, not imported: lm.harness wants an optional package
        spec = importlib.util.find_spec(f"lm.{name}")
        assert spec is not None and spec.origin is not None
        assert ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
        assert f"\n    {name} " in (lm.__doc__ or ""), f"{name} is missing on the map"
