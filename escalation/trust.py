"""What a run accepts, and by what right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from escalation.policy import Rule

if TYPE_CHECKING:
    from escalation.calibration import Calibration
    from escalation.risk import Certified


@dataclass(frozen=True, slots=True)
class Trust:
    """What a job accepts, and the calibration and certificates that stand behind it, if any;
    ``certificates`` by stratum, "" where there is only one."""

    rule: Rule
    calibration: Calibration | None = None
    certificates: Mapping[str, Certified] | None = None

    def stated(self) -> list[dict[str, Any]] | None:
        """The certificates with their provenance, as the ledger keeps them; None without any."""
        if self.certificates is None or self.calibration is None:
            return None
        made = {"source": self.calibration.source, "made": self.calibration.made}
        training = {"training": self.calibration.training}
        return [
            asdict(certificate) | made | training | {"stratum": name}
            for name, certificate in self.certificates.items()
        ]
