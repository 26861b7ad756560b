"""One file a method, in one form: Config, networks, agent, train."""
