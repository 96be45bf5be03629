"""``python -m embeddings_cache`` is the command ``embeddings-cache``."""

import sys

from embeddings_cache.cli import main

sys.exit(main())
