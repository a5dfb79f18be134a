"""`python -m rotaware.cli`, for machines where the script is not on the path."""

import sys

from .main import main

sys.exit(main())
