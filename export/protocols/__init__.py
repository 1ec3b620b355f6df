"""What export and bench share, so that both measure alike: LFW's pairs, labelled crops of people,
simulated clips, opened embedders, intervals. No torch here; bench imports export, never the other
way."""
