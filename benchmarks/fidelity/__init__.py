"""Predicted against measured serving: public benchmark runs replayed with nothing tuned to them."""
