"""Two student reports, measured again: what they publish and claim, what ours says of it, and the document of both."""
