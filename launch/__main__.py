"""Entry point of `python -m edgelaunch`, the same as the installed command."""

import sys

from edgelaunch.entry import main

sys.exit(main())
