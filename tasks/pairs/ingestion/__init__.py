"""From preference data as people have it to pairs, each row accounted for."""
