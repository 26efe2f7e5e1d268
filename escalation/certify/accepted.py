"""What a run accepts, with the calibration and certificates that justify it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from escalation.policy import Rule

if TYPE_CHECKING:
    from escalation.certify.calibration import Calibration
    from escalation.certify.thresholds import Certified


@dataclass(frozen=True, slots=True)
class Trust:
    """A job's acceptance rule, with its calibration and certificates if it has any.
    ``certificates`` is keyed by stratum ("" if the job has no strata)."""

    rule: Rule
    calibration: Calibration | None = None
    certificates: Mapping[str, Certified] | None = None

    def stated(self) -> list[dict[str, Any]] | None:
        """The certificates with their provenance, as stored in the ledger; None if there are none.
        ``all_closed`` means that the certified policy accepts no local answer."""
        if self.certificates is None or self.calibration is None:
            return None
        made = {"source": self.calibration.source, "made": self.calibration.made}
        training = {"training": self.calibration.training}
        return [
            _as_json(certificate) | made | training | {"stratum": name}
            for name, certificate in self.certificates.items()
        ]


def _as_json(certificate: Certified) -> dict[str, Any]:
    # JSON has no infinity.
    all_closed = certificate.threshold == math.inf
    threshold = None if all_closed else certificate.threshold
    return asdict(certificate) | {"threshold": threshold, "all_closed": all_closed}
