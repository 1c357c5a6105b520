"""`python -m benchmarks.soak --minutes 10`: inject random faults under load, and report.

Exits with 1 when an event was lost, a step was executed by two processes at once, an effect was
repeated outside its window, or a limit was exceeded. Recovery times are printed only: they depend
on the machine, too.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.soak.brokers import BROKERS
from benchmarks.soak.marks import FOLDER

ROOT = Path(__file__).resolve().parents[2]
LEASE_SECONDS = 10


def main() -> int:
    """Run the soak test; return 1 when a guarantee was broken."""
    options = _options()
    folder, postgres = (
        Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp")) for prefix in ("rys-", "rysp-")
    )
    os.environ.pop("DATABASE_URL", None)
    os.environ.update(
        DAGSTER_HOME=str(ROOT),
        RUNYARD_HOME=str(ROOT),
        RUNYARD_DATA_DIR=str(folder / "data"),
        RUNYARD_POSTGRES_DIR=str(postgres),
        RUNYARD_CODE="benchmarks.soak.functions",
        RUNYARD_PORT="8298",
        RUNYARD_CONCURRENCY="4",
        RUNYARD_LEASE_SECONDS=str(LEASE_SECONDS),
        **{FOLDER: str(folder)},
    )
    (folder / "data").mkdir(mode=0o700)
    (folder / "version").write_text("1")
    # Imported here because they read these variables on import.
    from benchmarks.soak.session import soak
    from runyard.store import database
    from runyard.store.embedded import delete_embedded

    try:
        return soak(options, folder)
    finally:
        database.close_pool()
        delete_embedded(postgres)
        if options.keep:
            print(f"marks and logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Harm a stack at random while events come in, and say what became of them.",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=10,
        help="how long events come in (10); what is left then is done in up to four minutes more",
    )
    parser.add_argument(
        "--brokers",
        default=",".join(BROKERS),
        help=f"what carries the runs, one after the other ({','.join(BROKERS)})",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="for the same faults in the same order; random by default",
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with marks and logs")
    options = parser.parse_args()
    options.brokers = options.brokers.split(",")
    if unknown := set(options.brokers) - BROKERS.keys():
        parser.error(
            f"no such broker: {', '.join(sorted(unknown))}; there are {', '.join(BROKERS)}"
        )
    options.seed = random.randrange(10**6) if options.seed is None else options.seed
    return options


if __name__ == "__main__":
    sys.exit(main())
