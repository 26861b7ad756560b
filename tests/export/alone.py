"""`python alone.py FILE --flags` runs a file in a process in which the package cannot be imported.

Its environments can where --env names their module: they are a package of their own.
"""

from __future__ import annotations

import runpy
import sys
import warnings

tasks = {flag.partition("=")[2].partition(":")[0] for flag in sys.argv if flag.startswith("--env=")}


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"rlsuite", "rlsuite_envs"} - tasks:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


sys.meta_path.insert(0, Absent())
warnings.filterwarnings("ignore", module="gymnasium")  # it looks for the package's environments
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
