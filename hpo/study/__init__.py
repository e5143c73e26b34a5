"""What a study is: its protocol, space and search, read from TOML, validated, hashed."""
