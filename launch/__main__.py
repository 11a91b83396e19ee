"""`python -m edgelaunch` does what the installed `edgelaunch` does."""

import sys

from edgelaunch.entry import main

sys.exit(main())
