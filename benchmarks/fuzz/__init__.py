"""Broken inputs for every reader: each must end in an answer or in one message, whatever stands in the file."""
