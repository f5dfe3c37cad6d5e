"""`python -m workbench`: the command."""

import sys

from workbench.cli.main import main

sys.exit(main())
