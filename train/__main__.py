"""`python -m train` is `jaxllm`."""

import sys

from train.cli import main

sys.exit(main())
