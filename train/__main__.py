"""`python -m train` in a checkout is `jaxllm`."""

import sys

from .cli import main

sys.exit(main())
