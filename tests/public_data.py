"""Where the upstream data sets stand that some tests read: beside the checkout; their licences keep them out of it."""

from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_public_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"upstream data sets are not at {DATA}")
