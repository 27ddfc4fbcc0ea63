"""The rules of this house, checked by loopkit."""
