"""Personal data never leaves the machine: placeholders out, values back in.

It fails closed: where a named field's value would still leave, the record is not sent.
"""

from escalation.redact.redactor import Placeholders, Redactor
from escalation.redact.restoring import restore
from escalation.redact.values import LEAST_LENGTH, SURELY_ITSELF

__all__ = ["LEAST_LENGTH", "SURELY_ITSELF", "Placeholders", "Redactor", "restore"]
