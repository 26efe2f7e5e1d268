"""Decides which answers are trusted: calibration, thresholds, certificates and their proofs.

This package does not depend on the code that sends records.
"""
