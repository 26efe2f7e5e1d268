"""Replaces personal data by placeholders in what is sent, and restores it in the answers.

Redaction fails closed: if a named field's value would still be sent, the record is not sent.
"""

from escalation.redact.redactor import Placeholders, Redactor
from escalation.redact.restoring import restore
from escalation.redact.values import LEAST_LENGTH, SURELY_ITSELF

__all__ = ["LEAST_LENGTH", "SURELY_ITSELF", "Placeholders", "Redactor", "restore"]
