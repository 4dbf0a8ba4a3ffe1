"""What must hold when processes die, race or are stopped; `toys` has stages that misbehave on purpose."""
