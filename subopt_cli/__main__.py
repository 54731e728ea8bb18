"""`python -m subopt`."""

import sys

from .app import main

sys.exit(main())
