"""`python -m tests.falqon_core.trace` prints the figures of every case, for the whole depth of its
model, as JSON. A process of its own: tracing replaces how Triton launches, and recorded kernels
must not be those of its interpreter.
"""

import json
import sys

from tests.falqon_core.trace.cases import MEMORY_CASES, PLANNED
from tests.falqon_core.trace.figures import figures_of


def main() -> None:
    figures = {name: figures_of(case)._asdict() for name, case in (MEMORY_CASES | PLANNED).items()}
    json.dump(figures, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
