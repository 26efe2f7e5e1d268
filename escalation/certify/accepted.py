"""What a run accepts, and by what right."""

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
    """What a job accepts, and the calibration and certificates that stand behind it, if any;
    ``certificates`` by stratum, "" where there is only one."""

    rule: Rule
    calibration: Calibration | None = None
    certificates: Mapping[str, Certified] | None = None

    def stated(self) -> list[dict[str, Any]] | None:
        """The certificates with their provenance, as the ledger keeps them; None without any.
        ``all_closed``: no local answer is accepted, and that is what is certified."""
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
