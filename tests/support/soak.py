"""How many inputs the property tests try: few in the suite, and many in a soak outside it.

``SOAK_EXAMPLES=10000 pytest tests/core/test_arrow_types.py`` tries ten thousand of each.
"""

from __future__ import annotations

import os

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "25"))
