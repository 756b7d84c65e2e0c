"""Making a fitted model from measurements: `apex fit`."""
