"""Runs slow tests for a while, beginning at one that moves with each commit, so that all of them get their turn.

python .ci/slow_slice.py [SECONDS]
"""

import subprocess
import sys
import time

PYTEST = [sys.executable, "-m", "pytest", "-q", "-m", "slow"]


def main(seconds: float) -> None:
    """Runs them until the time is up; exits with the code of the first that fails."""
    listed = subprocess.run([*PYTEST, "--collect-only"], capture_output=True, text=True, check=False).stdout
    tests = sorted(line for line in listed.splitlines() if "::" in line)
    if not tests:
        sys.exit("no slow test was found")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    first = int(commit, 16) % len(tests)
    end = time.monotonic() + seconds
    for test in tests[first:] + tests[:first]:
        left = end - time.monotonic()
        if left <= 0:
            break
        print(f"slow, {left:.0f} s left: {test}", flush=True)
        try:
            subprocess.run([*PYTEST, test], timeout=left, check=True)
        except subprocess.TimeoutExpired:
            print("not done when the time was up, and not counted")
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 90)
