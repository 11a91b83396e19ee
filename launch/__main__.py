"""`python -m edgelaunch` does what the installed `edgelaunch` does."""

import sys

from edgelaunch.cli import main

sys.exit(main())
