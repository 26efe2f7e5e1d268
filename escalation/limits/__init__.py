"""What bounds the sending: the budget, the cap per day, the rate, the breaker, the guard."""
