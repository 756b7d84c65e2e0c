"""`apex observe`: a running server under a ladder of loads, measured from the client's side."""
