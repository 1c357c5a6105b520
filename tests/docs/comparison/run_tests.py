"""Runs the tests of a file of this comparison: `python run_tests.py hatchet_payment`.

The environments of other packages have no pytest.
"""

import sys
from importlib import import_module

if __name__ == "__main__":
    module = import_module(sys.argv[1])
    for name, value in list(vars(module).items()):
        if name.startswith("test_"):
            value()
            print(name)
