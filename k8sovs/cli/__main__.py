"""`python -m k8sovs.cli`."""

import sys

from k8sovs.cli import main

sys.exit(main())
