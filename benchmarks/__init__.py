"""What the harness costs: each module measures one promise and exits 1 where it is broken; see README.md."""
