"""Answers for people: numbers in words, tables, figures, and a search as a page of its own."""
