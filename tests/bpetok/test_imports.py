"""What `import bpetok` loads, and how long it takes."""

import statistics
import subprocess
import sys
import textwrap

import pytest

HEAVY = [
    "torch",
    "numpy",
    "regex",
    "datasets",
    "rich",
    "click",
    "matplotlib",
    "pooch",
    "requests",
    "transformers",
    "lm",
    "cli",
]


def python(code, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, **kwargs
    )


def test_import_loads_no_heavy_module():
    done = python(f"import bpetok, sys; print([name for name in {HEAVY} if name in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_training_and_lists_of_ids_load_no_torch():
    done = python(
        """
        import bpetok, sys
        tok = bpetok.train("to be or not to be", 260)
        assert tok.decode(tok.encode("to be")) == "to be"
        print("torch" in sys.modules, "numpy" in sys.modules)
        """
    )
    assert (done.stdout.strip(), done.stderr) == ("False False", "")


def test_import_takes_no_longer_than_numpy():
    code = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"

    def ratio():
        pairs = [[float(python(code.format(name)).stdout) for name in ("bpetok", "numpy")] for _ in range(5)]
        return statistics.median(ours / theirs for ours, theirs in pairs)

    # A busy machine may spoil one measurement, hardly three.
    assert min(ratio() for _ in range(3)) <= 1


def test_a_checkout_that_was_not_installed_says_which_command_to_run():
    done = python(
        """
        import sys
        sys.modules["bpetok._core"] = None
        import bpetok
        """
    )
    assert done.returncode == 1
    assert "compiled core is missing" in done.stderr
    assert "pip install -e ." in done.stderr


@pytest.mark.parametrize("name", ["torch", "numpy", "regex"])
def test_import_of_the_package_is_quiet_without(name):
    done = python(
        f"import sys; sys.modules['{name}'] = None; import bpetok; print(bpetok.train('aaaa', 257).encode('aa'))"
    )
    assert (done.stdout.strip(), done.stderr) == ("[256]", "")
