"""What `selective.py` measures, a module each."""
