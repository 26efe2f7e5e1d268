"""People: the records that wait for a person, out as a file and back in with the decisions.

What a person decides is final. It is audited evidence too, but only where chance chose the record:
records in review were mostly not accepted, so they say nothing of the accepted answers' error, and
the certificate's running test must not hear of them. `draw` picks records at random for that; the
ledger remembers which, so that no other accepted answer can be slipped in.
"""

from __future__ import annotations

from runner.review.draw import Draw
from runner.review.exporting import export_reviews
from runner.review.importing import Imported, import_reviews

__all__ = ["Draw", "Imported", "export_reviews", "import_reviews"]
