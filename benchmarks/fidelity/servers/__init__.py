"""The measured servers, one file per engine: which rows, and what server and client they are replayed with."""
