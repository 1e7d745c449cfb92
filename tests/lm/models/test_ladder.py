import subprocess
import sys

import lm


def test_looking_at_lm_its_ladder_and_its_errors_does_not_import_torch() -> None:
    code = "import sys, lm, lm.errors, lm.models, lm.run; assert 'torch' not in sys.modules; print(*lm.models.LADDER)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "bigram mlp batchnorm wavenet dilated bow rnn gru attention gpt2 modern\n"


def test_every_module_on_the_map_is_there_and_described() -> None:
    for name in lm.__all__:
        module = __import__(f"lm.{name}", fromlist=["__doc__"])
        assert module.__doc__
        assert f"\n    {name} " in (lm.__doc__ or ""), f"{name} is missing on the map"
