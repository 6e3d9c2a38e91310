"""Averages that other toolkits' trainers take in place of their own: one changed import each."""
