"""What differs between serving engines and their versions: one TOML per profile, and its reader."""
