"""WHETHER an answer may be trusted: calibration, thresholds, certificates and their proofs.

Nothing here knows how anything is sent.
"""
