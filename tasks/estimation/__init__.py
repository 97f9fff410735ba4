"""Rates with their uncertainty: bounds, win rates, power, slices, the length-controlled rate, the board."""
