"""`python -m train` is `jaxllm`."""

import sys

from .cli import main

sys.exit(main())
