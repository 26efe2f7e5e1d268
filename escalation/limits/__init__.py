"""Limits on sending: the budget, the daily cap, the rate, the circuit breaker, the guard."""
