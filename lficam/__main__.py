# PYTHON_ARGCOMPLETE_OK
"""`python -m lficam COMMAND ...`, the same as `lficam COMMAND ...`."""

import sys

from .cli import main

sys.exit(main())
