"""``python -m lib.replay RECORDING``: serve a recording."""

import sys

from lib.replay import server

sys.exit(server.main())
